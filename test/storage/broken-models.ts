import { createHash } from 'node:crypto';
import { ConflictError, StoreError } from '../../src/errors.ts';
import { type Values, withLocks } from '../../src/storage/cas-lock.ts';
import type { Lock, LockOptions, Store, StoredValue } from '../../src/storage/store.ts';
import type { StoreAdapter } from '../../src/testing.ts';
import { increment } from '../../src/testing/parts.ts';

/** Stores that keep the contract in the plainest way, and have places where they can be broken. */

/** What is kept of a value: with a sum, by which damage is seen. */
export interface Entry extends StoredValue {
  readonly sum: string;
}

export function sealed({ value, revision }: StoredValue): Entry {
  return { value, revision, sum: createHash('sha256').update(value, 'utf16le').update(revision).digest('hex') };
}

/** What all the stores of one case share. */
class Shared {
  readonly values = new Map<string, Entry>();
  readonly locks = new Map<string, Entry>();
  readonly simpleLocks = new Map<string, { holder: object | undefined; fence: number; until: number }>();
  /** What is only there while something is written, and whether it has become old since. */
  readonly temporary = new Map<string, boolean>();
  hung = false;
  /** How many steps go well before one fails. */
  soundSteps = Number.POSITIVE_INFINITY;
}

/** A case's backend, as it is seen from one process. */
export class Backend {
  readonly shared: Shared;
  /** That process was killed: nothing that it does comes to anything any more. */
  dead = false;

  constructor(shared = new Shared()) {
    this.shared = shared;
  }

  /** What can fail. */
  async step(): Promise<void> {
    if (this.dead) await new Promise(() => undefined);
    if (this.shared.soundSteps-- === 0) throw new StoreError('It failed.');
  }
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
  readonly write?: (map: Map<string, Entry>, name: string, entry: Entry) => Promise<void>;
  readonly read?: (entry: Entry | undefined) => StoredValue | undefined;
  /** When what is temporary is removed: by whoever made it, and by the next store what the dead have left. */
  readonly tidies?: 'always' | 'unless it fails' | 'unless it dies' | 'never';
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
  read: (entry) => (entry && sealed(entry).sum === entry.sum ? { value: entry.value, revision: entry.revision } : undefined),
  tidies: 'always',
  matches: (name, prefix) => name.startsWith(prefix),
  closes: true,
  message: () => 'Another was quicker.',
  hangs: () => Promise.reject(new StoreError('It does not answer.')),
};

/** Values in a map of the backend. */
function valuesIn(backend: Backend, map: Map<string, Entry>, flaws: Flaws = {}): Values {
  const { name, text, revision, expects, races, write, read, tidies, matches, closes, message, hangs } = { ...fine, ...flaws };
  const { shared } = backend;
  let closed = false;
  let swept = tidies !== 'always';
  const running = new Set<Promise<unknown>>();
  const begin = async (...strings: unknown[]): Promise<void> => {
    if (!strings.every((each) => typeof each === 'string')) throw new TypeError('It must be a string.');
    if (closed && closes) throw new StoreError('It is closed.');
    if (shared.hung) await hangs();
    await backend.step();
    if (swept) return;
    swept = true;
    for (const [id, old] of shared.temporary) if (old) shared.temporary.delete(id);
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
        const id = crypto.randomUUID();
        shared.temporary.set(id, false);
        try {
          await turn();
          await backend.step();
          const entry = sealed({ value: text(value), revision: revision(check('set', key, expected)) });
          if (races) await turn();
          await write(map, name(key), entry);
          await backend.step();
          if (tidies === 'unless it fails') shared.temporary.delete(id);
          return entry.revision;
        } finally {
          if (tidies === 'always' || tidies === 'unless it dies') shared.temporary.delete(id);
        }
      };
      const writing = work();
      running.add(writing);
      return writing.finally(() => running.delete(writing));
    },
    async delete(key, expected) {
      await begin(key, expected ?? '');
      check('delete', key, expected);
      const there = map.delete(name(key));
      await backend.step();
      return there;
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
  const records = valuesIn(backend, backend.shared.locks, { hangs: flaws.hangs ?? fine.hangs, tidies: flaws.tidies ?? fine.tidies });
  let frozen: Promise<void> | undefined;
  let thaw = (): void => undefined;
  const store = withLocks(valuesIn(backend, backend.shared.values, flaws), {
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
  const { simpleLocks } = backend.shared;
  const values = valuesIn(backend, backend.shared.values);
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
      if (backend.shared.hung) await fine.hangs();
      await backend.step();
      const entry = simpleLocks.get(key);
      const expired = !has('never expires') && entry !== undefined && entry.until < performance.now();
      if (entry?.holder === undefined || expired || has('not exclusive')) break;
      await new Promise((resolve) => void setTimeout(resolve, 3));
    }
    const holder = {};
    const fence = has('no fence') ? 1 : (simpleLocks.get(key)?.fence ?? 0) + 1;
    const lost = new AbortController();
    const renew = (): void => {
      if (frozen) return;
      if (simpleLocks.get(key)?.holder === holder) simpleLocks.set(key, { holder, fence, until: performance.now() + ttl });
      else if (!has('never told')) lost.abort(new StoreError('It was taken over.'));
    };
    simpleLocks.set(key, { holder, fence, until: performance.now() + ttl });
    const timer = has('never renewed') ? undefined : setInterval(renew, ttl / 4);
    const release = async (): Promise<void> => {
      clearInterval(timer);
      held.delete(end);
      if (simpleLocks.get(key)?.holder === holder || has('frees any')) simpleLocks.set(key, { holder: undefined, fence, until: 0 });
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

const backends = new WeakMap<Store, Backend>();

/** The backend of a store that an {@link adapterOf} has made. */
export function backendOf(store: Store): Backend {
  return backends.get(store) as Backend;
}

/** Examines stores that are made like this one. */
export function adapterOf(make: (backend: Backend) => Store, elsewhere: (backend: Backend) => Freezable = sound): Required<StoreAdapter> {
  const open = (backend: Backend): Store => {
    const store = make(backend);
    backends.set(store, backend);
    return store;
  };
  const of = (store: Store): Shared => backendOf(store).shared;
  return {
    create: () => open(new Backend()),
    reopen: (first) => open(new Backend(of(first))),
    destroy: () => undefined,
    async holdElsewhere(first, key, ttl) {
      const place = elsewhere(new Backend(of(first)));
      return { lock: await place.lock(key, { ttl }), pause: place.freeze, resume: place.thaw };
    },
    pausesForGood: false,
    hang(first) {
      of(first).hung = true;
      return () => void (of(first).hung = false);
    },
    spawn(first, key, turns, counted) {
      const backend = new Backend(of(first));
      const store = make(backend);
      let kill = (): void => undefined;
      const killed = new Promise<void>((resolve) => (kill = resolve));
      const count = async (): Promise<void> => {
        for (let turn = 0; turn < turns && !backend.dead; turn++) {
          await increment(store, key);
          if (!backend.dead) counted();
        }
      };
      return {
        run: () => Promise.race([count(), killed]),
        kill() {
          backend.dead = true;
          kill();
        },
      };
    },
    failStep(first, n) {
      const shared = of(first);
      shared.soundSteps = n - 1;
      return () => {
        const reached = shared.soundSteps < 0;
        shared.soundSteps = Number.POSITIVE_INFINITY;
        return reached;
      };
    },
    *damage(first, key) {
      const { values } = of(first);
      const entry = values.get(key) as Entry;
      for (const [what, value] of damaged(entry.value)) {
        values.set(key, { ...entry, value });
        yield what;
      }
      values.set(key, entry);
    },
    leftovers(first) {
      const { values, temporary } = of(first);
      for (const id of temporary.keys()) temporary.set(id, true);
      return [...values.keys(), ...temporary.keys()];
    },
    // All cases run side by side in one process: a lock must outlive its being busy with the others.
    ttl: 1500,
    limit: 20_000,
  };
}

/** A text cut off everywhere, and with each of its bits flipped. */
export function* damaged(text: string, bits = 8): Iterable<readonly [what: string, text: string]> {
  for (let length = 0; length < text.length; length++) yield [`cut off at ${length}`, text.slice(0, length)];
  for (let index = 0; index < text.length; index++) {
    for (let each = 0; each < bits; each++) {
      const bit = (index + each) % 8;
      yield [`bit ${bit} of ${index}`, text.slice(0, index) + String.fromCharCode(text.charCodeAt(index) ^ (1 << bit)) + text.slice(index + 1)];
    }
  }
}
