import { describe, expect, it } from 'vitest';
import { ConflictError } from '../../src/errors.ts';
import { memoryStore } from '../../src/storage/memory-store.ts';
import type { Store, StoredValue } from '../../src/storage/store.ts';
import { type StoreAdapter, storeContract } from '../../src/testing.ts';
import { adapterOf, type Backend, type Flaws, type LockFlaw, sealed, simple, sound, turn } from './broken-models.ts';

/** The contract is worth what it finds: each of these stores has one flaw, and fails the case that is there for it. */

type Case = readonly [name: string, run: () => Promise<void>];

/** The cases of the contract for stores that are made like this one, run by nobody yet. */
function casesOf(adapter: StoreAdapter): Map<string, Case[1]> {
  const found: Case[] = [];
  const groups: string[] = [];
  const left = storeContract(
    {
      describe(name, body) {
        groups.push(name);
        body();
        groups.pop();
      },
      it: (name, run) => found.push([[...groups, name].join(' '), run]),
    },
    adapter,
  );
  expect(left, 'nothing is left out').toEqual([]);
  expect(new Set(found.map(([name]) => name)).size, 'each case has a name of its own').toBe(found.length);
  return new Map(found);
}

async function failuresAmong(cases: readonly Case[]): Promise<string[]> {
  const outcomes = await Promise.all(cases.map(async ([name, run]) => run().then(() => [], (error: Error) => [`${name}: ${error.message}`])));
  return outcomes.flat();
}

// Not beside the others: they keep this process busy, and locks have to be renewed in time.
describe('The store contract', () => {
  it.each([
    ['locks of records', adapterOf((backend) => sound(backend))],
    ['locks of its own', adapterOf((backend) => simple(backend), (backend) => simple(backend))],
  ])('is kept by a plain store with %s', async (_, adapter) => {
    const cases = [...casesOf(adapter)];
    expect(cases.length).toBeGreaterThan(60);
    expect(await failuresAmong(cases)).toEqual([]);
  });
});

describe.concurrent('The store contract', () => {
  it('leaves out what the adapter cannot show, and says so', () => {
    const examined: string[] = [];
    const skipped: string[] = [];
    const it = Object.assign((name: string) => examined.push(name), { skip: (name: string) => skipped.push(name) });
    const left = storeContract({ describe: (_, body) => body(), it }, { create: memoryStore });
    expect(examined.join('\n')).not.toMatch(/reopen|another store|their ttl, with|within 3 s|killed|at any step|not examined/);
    expect(left).toHaveLength(skipped.length);
    expect(left).toContain('values is still there for the next store (not examined: the adapter has no reopen)');
    expect(skipped).toContain('is still there for the next store (not examined: the adapter has no reopen)');
    const all: string[] = [];
    storeContract({ describe: (_, body) => body(), it: (name) => all.push(name) }, adapterOf(sound));
    expect(examined.length + skipped.length).toBe(all.length);
  });

  it.each(Object.entries(brokenValues()))('is broken by a store whose %s', async (_, [store, ...names]) => {
    await expectFailures(adapterOf(store), names);
  });

  it.each(Object.entries(brokenByFailures()))('is broken by a store that %s', async (_, [store, ...names]) => {
    await expectFailures(adapterOf(store), names);
  });

  it.each(Object.entries(brokenLocks()))('is broken by locks that %s', async (_, [store, elsewhere, ...names]) => {
    await expectFailures(adapterOf(store, elsewhere), names);
  });
});

async function expectFailures(adapter: StoreAdapter, names: readonly string[]): Promise<void> {
  // What hangs is to be seen as such soon.
  const cases = casesOf({ ...adapter, limit: 1_000 });
  const failures = await failuresAmong(names.map((name) => [name, cases.get(name) ?? (() => Promise.reject(new Error('there is no such case')))]));
  expect(failures.map((failure) => names.find((name) => failure.startsWith(`${name}: `)))).toEqual(names);
  expect(failures.join('\n')).not.toContain('no such case');
}

type Make = (backend: Backend) => Store;

function brokenValues(): Record<string, readonly [Make, ...string[]]> {
  const flawed = (flaws: Flaws): Make => (backend) => sound(backend, flaws);
  /** A number that each store counts by itself. */
  const counting = (): Make => (backend) => {
    let count = 0;
    return sound(backend, { revision: () => `${count++}` });
  };
  const caching: Make = (backend) => {
    const store = sound(backend);
    const cache = new Map<string, StoredValue | undefined>();
    return {
      ...store,
      async get(key) {
        if (!cache.has(key)) cache.set(key, await store.get(key));
        return cache.get(key);
      },
      async set(key, value, expected) {
        const revision = await store.set(key, value, expected);
        cache.set(key, { value, revision });
        return revision;
      },
    };
  };
  const torn: NonNullable<Flaws['write']> = async (map, name, { value, revision }) => {
    map.set(name, sealed({ value: value.slice(0, value.length / 2), revision }));
    await turn();
    map.set(name, sealed({ value, revision }));
  };
  const glob: NonNullable<Flaws['matches']> = (name, prefix) => new RegExp(`^${prefix.replaceAll(/[.+^${}()|\\]/g, '\\$&').replaceAll('*', '.*').replaceAll('?', '.')}`, 's').test(name);
  const object: Make = (backend) => {
    const store = sound(backend);
    // As where the entries are an object: a key that its prototype knows is never a new one, and `__proto__` is not kept.
    const known = (key: string): boolean => typeof key === 'string' && key in {};
    return {
      ...store,
      get: async (key) => (known(key) ? { value: String(({} as Record<string, unknown>)[key]), revision: '' } : store.get(key)),
      set: async (key, value, expected) => (key === '__proto__' ? '' : store.set(key, value, expected)),
    };
  };
  return {
    'writes ignore the expected revision': [
      flawed({ expects: (verb) => verb === 'set' }),
      'compare-and-set with null writes only where nothing is',
      'compare-and-set with a revision writes only over that revision',
      'compare-and-set has one winner among 100 at once',
    ],
    'check and write are two steps': [flawed({ races: true }), 'compare-and-set has one winner among 100 at once', 'compare-and-set loses none of 100 read-modify-writes, ten at a time'],
    'writes are torn': [flawed({ write: torn }), 'values shows a reader the old value or the new one, never a part'],
    'revisions are used again after a delete': [flawed({ revision: (old) => `${Number(old?.revision ?? 0) + 1}` }), 'revisions never repeat, not after a delete'],
    'revisions are used again after reopening': [counting(), 'revisions never repeat, not after reopening'],
    'revisions depend on the value': [flawed({ revision: () => 'same' }), 'revisions of an older value, of a deleted one and of another key do not match'],
    'keys are folded to lower case': [flawed({ name: (key) => key.toLowerCase() }), 'keys keeps odd keys, and keeps them apart'],
    'keys are normalized': [flawed({ name: (key) => key.normalize('NFC') }), 'keys keeps odd keys, and keeps them apart'],
    'keys are cut off': [flawed({ name: (key) => key.slice(0, 255) }), 'keys keeps odd keys, and keeps them apart'],
    'keys end at a NUL': [flawed({ name: (key) => key.split('\0')[0] as string }), 'keys keeps odd keys, and keeps them apart'],
    'prefixes are patterns': [flawed({ matches: glob }), 'keys takes a prefix by its letters, not for a pattern'],
    'prefixes are looked for anywhere': [flawed({ matches: (name, prefix) => name.includes(prefix) }), 'keys lists the keys that start with a prefix'],
    'entries are an object': [object, 'keys finds nothing under __proto__ before it is set', 'keys finds nothing under toString before it is set'],
    'text is UTF-8': [flawed({ text: (value) => Buffer.from(value).toString() }), 'values gives back halves of characters as they were, or refuses them'],
    'keys are UTF-8': [flawed({ name: (key) => Buffer.from(key).toString() }), 'values gives back halves of characters as they were, or refuses them'],
    'text loses a byte order mark': [flawed({ text: (value) => value.replace(/^\uFEFF/, '') }), 'values gives back Unicode as it was'],
    'entries are handed out themselves': [flawed({ read: (entry) => entry }), 'values cannot be changed through what it gave out'],
    'reads are cached': [caching, 'values is seen at once by another store over the same data'],
    'deletes ignore the expected revision': [flawed({ expects: (verb, old, expected) => verb === 'delete' || expected === undefined || (expected ?? undefined) === old?.revision }), 'delete with a revision removes only that revision'],
    'close is not noticed': [
      flawed({ closes: false }),
      'close makes every later use fail, and may be repeated',
      'close ends a listing that is under way',
      'close needs no use before',
      'close waits for what was begun before',
    ],
    'errors name the key': [flawed({ message: (key) => `There is another value of ${key}.` }), 'errors name no key, no value and no revision, because they end up in logs'],
    'backend hangs with nobody watching': [flawed({ hangs: () => new Promise(() => undefined) }), 'a backend that does not answer is an error of every use within 3 s, until it answers again'],
  };
}

function brokenLocks(): Record<string, readonly [Make, (backend: Backend) => ReturnType<typeof simple>, ...string[]]> {
  const flawed = (...flaws: LockFlaw[]): [Make, (backend: Backend) => ReturnType<typeof simple>] => {
    const make = (backend: Backend): ReturnType<typeof simple> => simple(backend, ...flaws);
    return [make, make];
  };
  /** Each store has locks of its own: they exclude nobody in another one, and count from the start. */
  const ownLocks: Make = (backend) => {
    const own = memoryStore();
    return { ...sound(backend), lock: (key, options) => own.lock(key, options) };
  };
  const seenLocks: Make = (backend) => {
    const store = sound(backend);
    return {
      ...store,
      async *keys(prefix) {
        yield* store.keys(prefix);
        yield* [...backend.shared.locks.keys()].filter((key) => key.startsWith(prefix));
      },
    };
  };
  return {
    'exclude nobody': [
      ...flawed('not exclusive'),
      'locks are held by one at a time, among 50 who want them',
      'locks go to the next who waits once they are released, and not before',
    ],
    'exclude nobody in another store': [ownLocks, simple, 'locks are held by one at a time, among 50 in two stores over the same data', 'locks go from one store to another', 'locks have a fencing number that grows, also after reopening'],
    'have no fencing': [...flawed('no fence'), 'locks have a fencing number that grows, also after a release', 'locks whose holder is gone are taken over after their ttl, with a greater fencing number'],
    'never expire': [...flawed('never expires'), 'locks whose holder is gone are taken over after their ttl, with a greater fencing number'],
    'are never renewed': [...flawed('never renewed'), 'locks are kept for longer than their ttl while the holder lives'],
    'are freed by a late release': [
      ...flawed('frees any'),
      'locks may be released again and again, which frees nobody else\'s',
      'locks whose holder is gone are lost for one who was only paused, whose late release frees nobody else\'s',
    ],
    'do not tell their loss': [
      ...flawed('never told'),
      'locks whose holder is gone are lost for one who was only paused, whose late release frees nobody else\'s',
      'locks and close are lost for who holds them and who waits for them',
    ],
    'do not hear the signal': [...flawed('deaf'), 'locks are no longer waited for once the signal aborts', 'locks are not even asked for when the signal has aborted before'],
    'stay when the store is closed': [...flawed('stays at close'), 'locks and close are free for the next store at once'],
    'are among the keys': [seenLocks, sound, 'locks and values of the same key know nothing of each other'],
  };
}

/** Flaws that show only where something fails: a process, a step, what is stored. */
function brokenByFailures(): Record<string, readonly [Make, ...string[]]> {
  const flawed = (flaws: Flaws): Make => (backend) => sound(backend, flaws);
  /** With one method in another way. */
  const altered = (change: (store: Store, backend: Backend) => Partial<Store>): Make => (backend) => {
    const store = sound(backend);
    return { ...store, ...change(store, backend) };
  };
  const otherwise = (change: (error: unknown) => never | Promise<never> | undefined): Make =>
    altered((store) => ({ get: (key) => store.get(key).catch((error: unknown) => unlessExpected(error, change)) as ReturnType<Store['get']> }));
  /** Who uses the same store waits for his turn, and so nobody in one process sees that check and write are two steps. */
  const alone: Make = (backend) => {
    const store = sound(backend, { races: true });
    let last: Promise<unknown> = Promise.resolve();
    return {
      ...store,
      set(...all) {
        const mine = last.then(() => store.set(...all));
        last = mine.catch(() => undefined);
        return mine;
      },
    };
  };
  /** What was set is written later, and known to this process meanwhile. */
  const lazy: Make = altered((store, backend) => ({
    async set(key, value, expected) {
      if (expected === undefined) return store.set(key, value);
      const there = await store.get(key);
      if ((there?.revision ?? null) !== expected) throw new ConflictError('Another was quicker.');
      const revision = crypto.randomUUID();
      void turn().then(() => backend.step()).then(() => backend.shared.values.set(key, sealed({ value, revision })));
      return revision;
    },
  }));
  /** One writes at a time, and nobody looks whether he still lives. */
  const blocking: Make = altered((store, backend) => ({
    async set(...all) {
      const { temporary } = backend.shared;
      for (; temporary.has('writing'); await turn()) await backend.step();
      temporary.set('writing', false);
      try {
        return await store.set(...all);
      } finally {
        // Only after the answer.
        void turn().then(() => backend.dead || temporary.delete('writing'));
      }
    },
  }));
  const torn: Make = (backend) =>
    sound(backend, {
      async write(map, name, entry) {
        map.set(name, sealed({ ...entry, value: entry.value.slice(0, entry.value.length / 2) }));
        await backend.step();
        map.set(name, entry);
      },
    });
  const lost: Make = (backend) =>
    sound(backend, {
      async write(map, name, entry) {
        map.delete(name);
        await backend.step();
        map.set(name, entry);
      },
    });
  const broken: Make = altered((store) => {
    let failure: unknown;
    return {
      async set(...all) {
        if (failure !== undefined) throw failure;
        return store.set(...all).catch((error: unknown) => unlessExpected(error, () => {
          failure = error;
          throw error;
        }));
      },
    };
  });
  const tombs: Make = altered((store, backend) => ({
    async delete(...all) {
      const there = await store.delete(...all);
      if (there) backend.shared.temporary.set(`${all[0]} is gone`, false);
      return there;
    },
  }));
  const holding: Make = altered((store, backend) => {
    const held = new Set<string>();
    return {
      async lock(key, options) {
        if (held.has(key)) await new Promise(() => undefined);
        const lock = await store.lock(key, options);
        held.add(key);
        await backend.step();
        return { ...lock, release: () => lock.release().then(() => void held.delete(key)) };
      },
    };
  });
  const one = 'other processes lose none of 200 read-modify-writes, 8 at a time';
  const killed = 'other processes lose none that they told of when half of them are killed at random moments';
  const damage = 'damage to what is stored is an error or leaves nothing, and is never taken for a value';
  return {
    'excludes others in its own process only': [alone, one, killed],
    'says that it has written what it will write': [lazy, killed],
    'lets a dead writer block the others': [blocking, killed],
    'says that it has written what it has not': [
      altered((store) => ({ set: (...all) => store.set(...all).catch((error: unknown) => unlessExpected(error, () => crypto.randomUUID())) })),
      'a step that fails in set leaves the old value or the new one',
      'a step that fails in a compare-and-set leaves the old value or the new one',
      'a step that fails in a set of what is new leaves nothing or the value',
    ],
    'leaves half a value when a step fails': [torn, 'a step that fails in set leaves the old value or the new one', 'a step that fails in a set of what is new leaves nothing or the value'],
    'removes the old value before it writes the new one': [lost, 'a step that fails in set leaves the old value or the new one'],
    'has removed what it could not': [
      altered((store) => ({ delete: (...all) => store.delete(...all).catch((error: unknown) => unlessExpected(error, () => true)) })),
      'a step that fails in delete leaves the old value or none',
    ],
    'takes a failed read for absence': [otherwise(() => undefined), 'a step that fails in get is an error, or costs nothing'],
    'lists nothing when it can read nothing': [
      altered((store) => ({
        async *keys(prefix) {
          try {
            yield* store.keys(prefix);
          } catch (error) {
            unlessExpected(error, () => undefined);
          }
        },
      })),
      'a step that fails in a listing is an error, or leaves out no more than what could not be read',
    ],
    'hands the backend\'s errors on': [otherwise((error) => { throw new Error('EIO', { cause: error }); }), 'a step that fails in get is an error, or costs nothing'],
    'takes a failure for a conflict': [
      altered((store) => ({ set: (...all) => store.set(...all).catch((error: unknown) => unlessExpected(error, () => { throw new ConflictError('Another was quicker.'); })) })),
      'a step that fails in a compare-and-set leaves the old value or the new one',
    ],
    'never works again after a failure': [broken, 'a step that fails in set leaves the old value or the new one'],
    'keeps a lock that it could not give': [holding, 'a step that fails in taking or releasing a lock keeps it from nobody for longer than its ttl'],
    'answers what is left of a value': [flawed({ read: (entry) => entry && { value: entry.value, revision: entry.revision } }), damage],
    'looks at the length only': [flawed({ read: (entry) => entry && entry.value.length === '"värdé"'.length ? { value: entry.value, revision: entry.revision } : undefined }), damage],
    'stumbles over damage': [
      flawed({ read: (entry) => { if (entry && sealed(entry).sum !== entry.sum) throw new SyntaxError('Unexpected end'); return entry && { value: entry.value, revision: entry.revision }; } }),
      damage,
    ],
    'never removes what is temporary': [flawed({ tidies: 'never' }), 'remains are none when all is deleted and released'],
    'leaves something for each value that is deleted': [tombs, 'remains are none when all is deleted and released'],
    'leaves what is temporary where it fails': [flawed({ tidies: 'unless it fails' }), 'remains of steps that failed are cleared away by the next store'],
    'leaves for good what the dead have left': [flawed({ tidies: 'unless it dies' }), 'remains of processes that were killed are cleared away by the next store'],
  };
}

/** What comes of a failure of the backend; other errors stay what they are. */
function unlessExpected<T>(error: unknown, change: (error: unknown) => T): T {
  if (error instanceof Error && error.message === 'It failed.') return change(error);
  throw error;
}
