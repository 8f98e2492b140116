import { describe, expect, it } from 'vitest';
import { memoryStore } from '../../src/storage/memory-store.ts';
import type { Store, StoredValue } from '../../src/storage/store.ts';
import { type StoreAdapter, storeContract } from '../../src/testing.ts';
import { adapterOf, type Backend, type Flaws, type LockFlaw, simple, sound, turn } from './broken-models.ts';

/** The contract is worth what it finds: each of these stores has one flaw, and fails the case that is there for it. */

type Case = readonly [name: string, run: () => Promise<void>];

/** The cases of the contract for stores that are made like this one, run by nobody yet. */
function casesOf(adapter: StoreAdapter): Map<string, Case[1]> {
  const found: Case[] = [];
  const groups: string[] = [];
  storeContract(
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
  expect(new Set(found.map(([name]) => name)).size, 'each case has a name of its own').toBe(found.length);
  return new Map(found);
}

async function failuresAmong(cases: readonly Case[]): Promise<string[]> {
  const outcomes = await Promise.all(cases.map(async ([name, run]) => run().then(() => [], (error: Error) => [`${name}: ${error.message}`])));
  return outcomes.flat();
}

describe.concurrent('The store contract', () => {
  it.each([
    ['locks of records', adapterOf((backend) => sound(backend))],
    ['locks of its own', adapterOf((backend) => simple(backend), (backend) => simple(backend))],
  ])('is kept by a plain store with %s', async (_, adapter) => {
    const cases = [...casesOf(adapter)];
    expect(cases.length).toBeGreaterThan(60);
    expect(await failuresAmong(cases)).toEqual([]);
  });

  it('leaves out what the adapter cannot show', () => {
    const cases = [...casesOf({ create: memoryStore }).keys()].join('\n');
    expect(cases).not.toMatch(/reopen|another store|whose holder is gone|does not answer/);
  });

  it.each(Object.entries(brokenValues()))('is broken by a store whose %s', async (_, [store, ...names]) => {
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
    map.set(name, { value: value.slice(0, value.length / 2), revision });
    await turn();
    map.set(name, { value, revision });
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
        yield* [...backend.locks.keys()].filter((key) => key.startsWith(prefix));
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
