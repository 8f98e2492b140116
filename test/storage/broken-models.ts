import { ConflictError, StoreError } from '../../src/errors.ts';
import { type Values, withLocks } from '../../src/storage/cas-lock.ts';
import type { Lock, LockOptions, Store, StoredValue } from '../../src/storage/store.ts';
import type { StoreAdapter } from '../../src/testing.ts';

/** Stores that keep the contract in the plainest way, and have places where they can be broken. */

/** What all the stores of one case share. */
export class Backend {
  readonly values = new Map<string, StoredValue>();
  readonly locks = new Map<string, StoredValue>();
  readonly simpleLocks = new Map<string, { holder: object | undefined; fence: number; until: number }>();
  hung = false;
}

/** The parts of a store that can be had otherwise. */
export interface Flaws {
  /** The name under which a key is kept. */
  readonly name?: (key: string) => string;
  readonly text?: (value: string) => string;
  readonly revision?: (old: StoredValue | undefined) => string;
  readonly expects?: (verb: 'set' | 'delete', old: StoredValue | undefined, expected: string | null | undefined) => boolean;
  /** Whether others come in between the check and the writing. */
  readonly races?: boolean;
  readonly write?: (map: Map<string, StoredValue>, name: string, entry: StoredValue) => Promise<void>;
  readonly read?: (entry: StoredValue | undefined) => StoredValue | undefined;
  readonly matches?: (name: string, prefix: string) => boolean;
  readonly closes?: boolean;
  readonly message?: (key: string) => string;
  readonly hangs?: () => Promise<void>;
}

const fine: Required<Flaws> = {
  name: (key) => key,
  text: (value) => value,
  revision: () => crypto.randomUUID(),
  expects: (_, old, expected) => expected === undefined || (expected ?? undefined) === old?.revision,
  races: false,
  write: async (map, name, entry) => void map.set(name, entry),
  read: (entry) => entry && { ...entry },
  matches: (name, prefix) => name.startsWith(prefix),
  closes: true,
  message: () => 'Another was quicker.',
  hangs: () => Promise.reject(new StoreError('It does not answer.')),
};

/** Values in a map of the backend. */
function valuesIn(backend: Backend, map: Map<string, StoredValue>, flaws: Flaws = {}): Values {
  const { name, text, revision, expects, races, write, read, matches, closes, message, hangs } = { ...fine, ...flaws };
  let closed = false;
  const running = new Set<Promise<unknown>>();
  const begin = async (...strings: unknown[]): Promise<void> => {
    if (!strings.every((each) => typeof each === 'string')) throw new TypeError('It must be a string.');
    if (closed && closes) throw new StoreError('It is closed.');
    if (backend.hung) await hangs();
  };
  const check = (verb: 'set' | 'delete', key: string, expected: string | null | undefined): StoredValue | undefined => {
    const old = map.get(name(key));
    if (!expects(verb, old, expected)) throw new ConflictError(message(key));
    return old;
  };
  return {
    async get(key) {
      await begin(key);
      return read(map.get(name(key)));
    },
    async set(key, value, expected) {
      const work = async (): Promise<string> => {
        await begin(key, value, expected ?? '');
        await turn();
        const entry = { value: text(value), revision: revision(check('set', key, expected)) };
        if (races) await turn();
        await write(map, name(key), entry);
        return entry.revision;
      };
      const writing = work();
      running.add(writing);
      return writing.finally(() => running.delete(writing));
    },
    async delete(key, expected) {
      await begin(key, expected ?? '');
      check('delete', key, expected);
      return map.delete(name(key));
    },
    async *keys(prefix) {
      await begin(prefix);
      for (const each of [...map.keys()].filter((each) => matches(each, prefix))) {
        await begin(prefix);
        yield each;
      }
    },
    async close() {
      closed = true;
      if (closes) await Promise.allSettled(running);
    },
  };
}

export async function turn(): Promise<void> {
  await new Promise((resolve) => void setImmediate(resolve));
}

/** A store that can be made to stand still, and to go on again. */
export type Freezable = Store & { freeze(): void; thaw(): void };

export function sound(backend: Backend, flaws: Flaws = {}): Freezable {
  const records = valuesIn(backend, backend.locks, { hangs: flaws.hangs ?? fine.hangs });
  let frozen: Promise<void> | undefined;
  let thaw = (): void => undefined;
  const store = withLocks(valuesIn(backend, backend.values, flaws), {
    ...records,
    async get(key) {
      await frozen;
      return records.get(key);
    },
    async set(...all) {
      await frozen;
      return records.set(...all);
    },
  });
  return {
    ...store,
    freeze() {
      frozen = new Promise((resolve) => (thaw = resolve));
    },
    thaw: () => thaw(),
  };
}

export type LockFlaw = 'not exclusive' | 'no fence' | 'never renewed' | 'never expires' | 'frees any' | 'never told' | 'deaf' | 'stays at close';

/** A store whose locks are an entry with a time of expiry: good enough in one process, and easy to break. */
export function simple(backend: Backend, ...flaws: readonly LockFlaw[]): Freezable {
  const values = valuesIn(backend, backend.values);
  const has = (flaw: LockFlaw): boolean => flaws.includes(flaw);
  const closing = new AbortController();
  const held = new Set<() => Promise<void>>();
  let frozen = false;

  const lock = async (key: string, options: LockOptions): Promise<Lock> => {
    if (typeof key !== 'string' || typeof options?.ttl !== 'number') throw new TypeError('It makes no sense.');
    const { ttl, signal } = options;
    if (!(ttl > 0 && ttl < Number.POSITIVE_INFINITY)) throw new RangeError('It makes no sense.');
    if (signal !== undefined && !(signal instanceof AbortSignal)) throw new TypeError('It makes no sense.');
    for (;;) {
      if (!has('deaf')) signal?.throwIfAborted();
      if (!has('stays at close')) closing.signal.throwIfAborted();
      if (backend.hung) await fine.hangs();
      const entry = backend.simpleLocks.get(key);
      const expired = !has('never expires') && entry !== undefined && entry.until < performance.now();
      if (entry?.holder === undefined || expired || has('not exclusive')) break;
      await new Promise((resolve) => void setTimeout(resolve, 3));
    }
    const holder = {};
    const fence = has('no fence') ? 1 : (backend.simpleLocks.get(key)?.fence ?? 0) + 1;
    const lost = new AbortController();
    const renew = (): void => {
      if (frozen) return;
      if (backend.simpleLocks.get(key)?.holder === holder) backend.simpleLocks.set(key, { holder, fence, until: performance.now() + ttl });
      else if (!has('never told')) lost.abort(new StoreError('It was taken over.'));
    };
    backend.simpleLocks.set(key, { holder, fence, until: performance.now() + ttl });
    const timer = has('never renewed') ? undefined : setInterval(renew, ttl / 4);
    const release = async (): Promise<void> => {
      clearInterval(timer);
      held.delete(end);
      if (backend.simpleLocks.get(key)?.holder === holder || has('frees any')) backend.simpleLocks.set(key, { holder: undefined, fence, until: 0 });
    };
    const end = async (): Promise<void> => {
      if (!has('never told')) lost.abort(new StoreError('It is closed.'));
      await release();
    };
    held.add(end);
    return { fence, lost: lost.signal, release };
  };

  return {
    ...values,
    lock,
    async close() {
      closing.abort(new StoreError('It is closed.'));
      await values.close();
      if (!has('stays at close')) await Promise.all([...held].map((end) => end()));
    },
    freeze: () => void (frozen = true),
    thaw: () => void (frozen = false),
  };
}

/** Examines stores that are made like this one. */
export function adapterOf(make: (backend: Backend) => Store, elsewhere: (backend: Backend) => Freezable = sound): StoreAdapter {
  const backends = new WeakMap<Store, Backend>();
  const open = (backend: Backend): Store => {
    const store = make(backend);
    backends.set(store, backend);
    return store;
  };
  const of = (store: Store): Backend => backends.get(store) as Backend;
  return {
    create: () => open(new Backend()),
    reopen: (first) => open(of(first)),
    async holdElsewhere(first, key, ttl) {
      const place = elsewhere(of(first));
      return { lock: await place.lock(key, { ttl }), pause: place.freeze, resume: place.thaw };
    },
    hang(first) {
      of(first).hung = true;
      return () => void (of(first).hung = false);
    },
    ttl: 200,
  };
}
