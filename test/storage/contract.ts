import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ConflictError, StoreError } from '../../src/errors.ts';
import type { Store } from '../../src/storage/store.ts';
import { increment } from './increment.ts';

export interface StoreUnderTest {
  store: Store;
  /** A further store over the same data, as another process or the next one would open it. Absent where nothing outlives a store. */
  reopen?: () => Promise<Store>;
  /** Closes what is open and removes the data. */
  destroy(): Promise<void>;
}

/** The contract that every store keeps. `create` makes a store over data of its own. */
export function describeStore(name: string, create: () => Promise<StoreUnderTest>): void {
  describe(`${name} keeps the store contract`, () => {
    let subject: StoreUnderTest;
    let store: Store;

    beforeEach(async () => {
      subject = await create();
      store = subject.store;
    });
    afterEach(async () => {
      await subject.destroy();
    });

    describe('values', () => {
      it('has nothing under a key that was never set', async () => {
        expect(await store.get('key')).toBeUndefined();
        expect(await listed(store, '')).toEqual([]);
      });

      it.each([
        ['plain text', 'value'],
        ['an empty value', ''],
        ['JSON', '{"a":[1,2,{"b":"\\n"}]}'],
        ['line ends and NUL', 'a\nb\r\nc\0d'],
        ['Unicode', 'héllo – 漢字 – 🦉 – \u202Ertl'],
        ['1 MB', '0123456789abcdé\n'.repeat(65_536)],
      ])('gives back %s as it was', async (_, value) => {
        const revision = await store.set('key', value);
        expect(await store.get('key')).toEqual({ value, revision });
      });

      it('gives back the newest value', async () => {
        await store.set('key', 'a longer first value');
        const revision = await store.set('key', 'second');
        expect(await store.get('key')).toEqual({ value: 'second', revision });
      });

      it('keeps keys apart', async () => {
        await store.set('a', '1');
        await store.set('b', '2');
        await store.set('a', '3');
        await store.delete('b');
        await store.set('ab', '4');
        expect(await contents(store)).toEqual({ a: '3', ab: '4' });
      });

      it('cannot be changed through what it gave out', async () => {
        await store.set('key', 'value');
        const given = (await store.get('key')) as { value: string };
        try {
          given.value = 'changed';
        } catch {
          // Frozen is as good.
        }
        expect((await store.get('key'))?.value).toBe('value');
      });

      it('is still there for the next store', async (context) => {
        if (!subject.reopen) return context.skip();
        const revision = await store.set('key', 'value');
        await store.close();
        const next = await subject.reopen();
        expect(await next.get('key')).toEqual({ value: 'value', revision });
        expect(await listed(next, '')).toEqual(['key']);
        return undefined;
      });

      it('is seen at once by another store over the same data', async (context) => {
        if (!subject.reopen) return context.skip();
        const other = await subject.reopen();
        const revision = await store.set('key', 'value');
        expect(await other.get('key')).toEqual({ value: 'value', revision });
        await expect(other.set('key', 'theirs', null)).rejects.toBeInstanceOf(ConflictError);
        expect(await other.delete('key', revision)).toBe(true);
        expect(await store.get('key')).toBeUndefined();
        return undefined;
      });
    });

    describe('keys', () => {
      it('keeps odd keys, and keeps them apart', async () => {
        for (const [index, key] of ODD_KEYS.entries()) await store.set(key, `${index}`, null);
        for (const [index, key] of ODD_KEYS.entries()) expect((await store.get(key))?.value, JSON.stringify(key)).toBe(`${index}`);
        expect(await listed(store, '')).toEqual([...ODD_KEYS].sort());
        for (const key of ODD_KEYS) expect(await store.delete(key), JSON.stringify(key)).toBe(true);
        expect(await listed(store, '')).toEqual([]);
      });

      it.each(['__proto__', 'constructor', 'toString', 'hasOwnProperty'])('finds nothing under %s before it is set', async (key) => {
        expect(await store.get(key)).toBeUndefined();
        expect(await store.delete(key)).toBe(false);
        expect(({} as Record<string, unknown>)['value']).toBeUndefined();
      });

      it('lists the keys that start with a prefix', async () => {
        for (const key of ['a', 'a/1', 'a/2', 'a/2/x', 'A/1', 'b', '*', '']) await store.set(key, 'value');
        expect(await listed(store, 'a/')).toEqual(['a/1', 'a/2', 'a/2/x']);
        expect(await listed(store, 'a')).toEqual(['a', 'a/1', 'a/2', 'a/2/x']);
        expect(await listed(store, '*')).toEqual(['*']);
        expect(await listed(store, 'c')).toEqual([]);
        expect(await listed(store, '')).toEqual(['', '*', 'A/1', 'a', 'a/1', 'a/2', 'a/2/x', 'b']);
      });

      it('lists a key no more once it is deleted', async () => {
        await store.set('a', 'value');
        await store.set('b', 'value');
        await store.delete('a');
        expect(await listed(store, '')).toEqual(['b']);
      });

      it('can be changed while its keys are listed', async () => {
        for (const key of ['a', 'b', 'c']) await store.set(key, 'value');
        for await (const key of store.keys('')) await store.delete(key);
        expect(await listed(store, '')).toEqual([]);
      });
    });

    describe('revisions', () => {
      it('never repeat, not after a delete and not after reopening', async () => {
        const seen: string[] = [];
        let current = store;
        for (let round = 0; round < 5; round++) {
          for (let turn = 0; turn < 5; turn++) {
            seen.push(await current.set('key', 'same value'));
            seen.push(await current.set('key', 'same value'));
            await current.delete('key');
          }
          if (subject.reopen) {
            await current.close();
            current = await subject.reopen();
          }
        }
        expect(new Set(seen).size).toBe(50);
      });

      it('of an older value, of a deleted one and of another key do not match', async () => {
        const other = await store.set('other', 'value');
        const deleted = await store.set('key', 'value');
        await store.delete('key');
        const old = await store.set('key', 'value', null);
        const revision = await store.set('key', 'value', old);
        for (const wrong of [other, deleted, old, '', 'nonsense']) {
          await expect(store.set('key', 'wrong', wrong)).rejects.toBeInstanceOf(ConflictError);
          await expect(store.delete('key', wrong)).rejects.toBeInstanceOf(ConflictError);
        }
        expect(await store.get('key')).toEqual({ value: 'value', revision });
      });
    });

    describe('compare-and-set', () => {
      it('with null writes only where nothing is', async () => {
        const revision = await store.set('key', 'first', null);
        await expect(store.set('key', 'second', null)).rejects.toBeInstanceOf(ConflictError);
        expect(await store.get('key')).toEqual({ value: 'first', revision });
        await store.delete('key');
        await store.set('key', 'third', null);
        expect((await store.get('key'))?.value).toBe('third');
      });

      it('with a revision writes only over that revision', async () => {
        const first = await store.set('key', 'first');
        const second = await store.set('key', 'second', first);
        await expect(store.set('key', 'third', first)).rejects.toBeInstanceOf(ConflictError);
        expect(await store.get('key')).toEqual({ value: 'second', revision: second });
      });

      it('with a revision writes nothing where nothing is', async () => {
        await expect(store.set('key', 'value', 'nonsense')).rejects.toBeInstanceOf(ConflictError);
        const revision = await store.set('key', 'value');
        await store.delete('key');
        await expect(store.set('key', 'value', revision)).rejects.toBeInstanceOf(ConflictError);
        expect(await listed(store, '')).toEqual([]);
      });

      it('fails with a ConflictError, which is a StoreError', async () => {
        await store.set('key', 'value');
        const error: unknown = await store.set('key', 'value', null).catch((reason: unknown) => reason);
        expect(error).toBeInstanceOf(StoreError);
        expect(error).toMatchObject({ code: 'CONFLICT', name: 'ConflictError' });
      });

      it('has one winner among 100 at once', async () => {
        const results = await Promise.allSettled(Array.from({ length: 100 }, (_, index) => store.set('key', `${index}`, null)));
        const winners = results.flatMap((result, index) => (result.status === 'fulfilled' ? [{ value: `${index}`, revision: result.value }] : []));
        expect(winners).toHaveLength(1);
        expect(await store.get('key')).toEqual(winners[0]);
        for (const result of results) if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(ConflictError);
      });

      it('loses none of 100 read-modify-writes at once', async () => {
        await Promise.all(Array.from({ length: 100 }, () => increment(store, 'key')));
        expect((await store.get('key'))?.value).toBe('100');
      });

      it('loses no read-modify-write of two stores over the same data', async (context) => {
        if (!subject.reopen) return context.skip();
        const other = await subject.reopen();
        await Promise.all([store, other].flatMap((each) => Array.from({ length: 20 }, () => increment(each, 'key'))));
        expect((await store.get('key'))?.value).toBe('40');
        return undefined;
      });
    });

    describe('delete', () => {
      it('says whether there was something', async () => {
        expect(await store.delete('key')).toBe(false);
        await store.set('key', 'value');
        expect(await store.delete('key')).toBe(true);
        expect(await store.get('key')).toBeUndefined();
        expect(await store.delete('key')).toBe(false);
      });

      it('with a revision removes only that revision', async () => {
        const first = await store.set('key', 'first');
        const second = await store.set('key', 'second');
        await expect(store.delete('key', first)).rejects.toBeInstanceOf(ConflictError);
        expect(await store.get('key')).toEqual({ value: 'second', revision: second });
        expect(await store.delete('key', second)).toBe(true);
        expect(await store.get('key')).toBeUndefined();
        await expect(store.delete('key', second)).rejects.toBeInstanceOf(ConflictError);
      });

      it('has one winner among 100 at once', async () => {
        await store.set('key', 'value');
        const results = await Promise.all(Array.from({ length: 100 }, () => store.delete('key')));
        expect(results.filter(Boolean)).toHaveLength(1);
      });
    });

    describe('bad input', () => {
      it.each([[undefined], [null], [1], [{}], [Symbol('key')]])('is a TypeError: %s', async (bad) => {
        const text = bad as string;
        await expect(store.get(text)).rejects.toBeInstanceOf(TypeError);
        await expect(store.set(text, 'value')).rejects.toBeInstanceOf(TypeError);
        await expect(store.set('key', text)).rejects.toBeInstanceOf(TypeError);
        await expect(store.delete(text)).rejects.toBeInstanceOf(TypeError);
        await expect(listed(store, text)).rejects.toBeInstanceOf(TypeError);
        if (bad !== undefined && bad !== null) {
          await expect(store.set('key', 'value', text)).rejects.toBeInstanceOf(TypeError);
          await expect(store.delete('key', text)).rejects.toBeInstanceOf(TypeError);
        }
        expect(await listed(store, '')).toEqual([]);
      });
    });

    describe('close', () => {
      it('makes every later use fail, and may be repeated', async () => {
        await store.set('key', 'value');
        await store.close();
        await expect(store.get('key')).rejects.toBeInstanceOf(StoreError);
        await expect(store.set('key', 'value')).rejects.toBeInstanceOf(StoreError);
        await expect(store.delete('key')).rejects.toBeInstanceOf(StoreError);
        await expect(listed(store, '')).rejects.toBeInstanceOf(StoreError);
        await store.close();
      });

      it('ends a listing that is under way', async () => {
        for (const key of ['a', 'b', 'c']) await store.set(key, 'value');
        const keys = store.keys('')[Symbol.asyncIterator]();
        await keys.next();
        await store.close();
        await expect(keys.next()).rejects.toBeInstanceOf(StoreError);
      });

      it('waits for what was begun before', async (context) => {
        if (!subject.reopen) return context.skip();
        const writing = store.set('key', 'value');
        await store.close();
        const next = await subject.reopen();
        expect(await next.get('key')).toEqual({ value: 'value', revision: await writing });
        return undefined;
      });

      it('needs no use before', async () => {
        await store.close();
        await expect(store.get('key')).rejects.toBeInstanceOf(StoreError);
      });
    });
  });
}

const ODD_KEYS = [
  '',
  ' ',
  '.',
  '..',
  '../',
  '../../etc/passwd',
  '/absolute',
  'C:\\windows',
  'CON',
  'a/b',
  'a\\b',
  'a:b*c?"<>|%2F%00',
  'nul\0byte',
  'nul\0bytf',
  'line\nend',
  'trailing ',
  'trailing.',
  'case',
  'CASE',
  'Case',
  'é'.normalize('NFC'),
  'é'.normalize('NFD'),
  'ﬁ',
  'fi',
  'ß',
  'ss',
  '🦉',
  '__proto__',
  'constructor',
  'toString',
  'k'.repeat(4_096),
  `${'k'.repeat(4_095)}l`,
  '\0'.repeat(4_096),
  '漢'.repeat(4_096),
];

async function listed(store: Store, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const key of store.keys(prefix)) keys.push(key);
  return keys.sort();
}

async function contents(store: Store): Promise<Record<string, string | undefined>> {
  const found: Record<string, string | undefined> = {};
  for await (const key of store.keys('')) found[key] = (await store.get(key))?.value;
  return found;
}
