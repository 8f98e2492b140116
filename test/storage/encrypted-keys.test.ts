import { afterEach, beforeEach, describe, expect, it, type MockInstance, vi } from 'vitest';
import { StoreError } from '../../src/errors.ts';
import type { EncryptionKey } from '../../src/storage/encrypted-keys.ts';
import { encryptedStore, type EncryptedStoreOptions } from '../../src/storage/encrypted-store.ts';
import { memoryStore } from '../../src/storage/memory-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { altered, failureOf, keysOf, newKey, PASSPHRASE, QUICK, rawValue } from './encrypted-parts.ts';

const VALUE = 'the session id is canary-7f3a';
const KEY = 'session/https%3A%2F%2Fexample.com/alice/default';
const SALT = 'mcp-reprise/salt';

let key: CryptoKey;
/** The store below, as somebody sees it who has no key. */
let raw: Store;
beforeEach(async () => {
  key = await newKey();
  raw = memoryStore();
});
afterEach(() => vi.restoreAllMocks());

/** An encrypted store over the same data: another process, or the next one. */
function opened(keys: EncryptionKey | readonly EncryptionKey[] = key, options?: EncryptedStoreOptions): Store {
  return encryptedStore(raw, keys, options);
}

describe('Several keys', () => {
  it('read what any of them has written; the first one writes', async () => {
    const [old, older] = [await newKey(), await newKey()];
    await opened(older).set('a', '1');
    await opened(old).set('b', '2');
    const store = opened([key, old, older]);
    await store.set('c', '3');
    for (const [name, value] of [['a', '1'], ['b', '2'], ['c', '3']] as const) expect((await store.get(name))?.value).toBe(value);
    expect((await opened(key).get('c'))?.value).toBe('3');
    expect(await failureOf(opened(key).get('a'))).toBeInstanceOf(StoreError);
  });

  it('leave a value as it is when it is read, and write it with the first when it is next set', async () => {
    const old = await newKey();
    const revision = await opened(old).set(KEY, VALUE);
    const before = await rawValue(raw, KEY);
    const store = opened([key, old]);
    expect(await store.get(KEY)).toEqual({ value: VALUE, revision });
    expect(await rawValue(raw, KEY)).toBe(before);
    await store.set(KEY, 'next', revision);
    expect((await opened(key).get(KEY))?.value).toBe('next');
    expect(await failureOf(opened(old).get(KEY))).toBeInstanceOf(StoreError);
  });

  it('are told apart by ids that are always the same for one key, and different for others', async () => {
    const idOf = async (name: string): Promise<string | undefined> => (await rawValue(raw, name)).split(':')[3];
    for (const name of ['a', 'b']) await opened(key).set(name, VALUE);
    await opened(await newKey()).set('c', VALUE);
    expect(await idOf('a')).toMatch(/^[A-Za-z0-9+/]{12}$/);
    expect(await idOf('b')).toBe(await idOf('a'));
    expect(await idOf('c')).not.toBe(await idOf('a'));
  });

  it('may be passphrases, and one of each kind', async () => {
    const old = { passphrase: 'an old one', iterations: 100_000 };
    await opened(old).set('a', '1');
    await opened(QUICK).set('b', '2');
    await opened(key).set('c', '3');
    for (const keys of [[QUICK, old, key], [key, QUICK, old], [old, key, QUICK]]) {
      const store = opened(keys);
      for (const [name, value] of [['a', '1'], ['b', '2'], ['c', '3']] as const) expect((await store.get(name))?.value).toBe(value);
      await store.set('d', '4');
      expect((await opened(keys[0]).get('d'))?.value).toBe('4');
    }
  });

  it('read what a passphrase wrote with another number of rounds', async () => {
    await opened({ passphrase: PASSPHRASE, iterations: 120_000 }).set(KEY, VALUE);
    const store = opened(QUICK);
    expect((await store.get(KEY))?.value).toBe(VALUE);
    await store.set(KEY, 'next');
    expect(await rawValue(raw, KEY)).toContain(':100000:');
  });

  it('that do not fit leave everything as it is, and say what to do', async () => {
    await opened(QUICK).set(KEY, VALUE);
    const before = await rawValue(raw, KEY);
    for (const wrong of [{ ...QUICK, passphrase: `${PASSPHRASE}!` }, key]) {
      const store = opened(wrong);
      const error = await failureOf(store.get(KEY));
      expect(error.message).toMatch(/another key or passphrase.*left alone.*give that key/);
      await failureOf(store.set(KEY, 'new'));
      expect(await rawValue(raw, KEY)).toBe(before);
    }
    expect((await opened(QUICK).get(KEY))?.value).toBe(VALUE);
  });
});

describe('A passphrase', () => {
  let derive: MockInstance<SubtleCrypto['deriveKey']>;
  beforeEach(() => void (derive = vi.spyOn(crypto.subtle, 'deriveKey')));

  it('is stretched by 600,000 rounds of PBKDF2-SHA-256 with a random salt, unless told otherwise', async () => {
    await opened({ passphrase: PASSPHRASE }).set(KEY, VALUE);
    expect(derive.mock.calls[0]?.[0]).toMatchObject({ name: 'PBKDF2', hash: 'SHA-256', iterations: 600_000 });
    expect(await rawValue(raw, KEY)).toContain(':600000:');
    const [, , , , , salt] = (await rawValue(raw, KEY)).split(':');
    raw = memoryStore();
    await opened({ passphrase: PASSPHRASE }).set(KEY, VALUE);
    expect((await rawValue(raw, KEY)).split(':')[5]).not.toBe(salt);
  });

  it('is the same however its letters were typed', async () => {
    await opened({ ...QUICK, passphrase: 'é'.normalize('NFC') }).set(KEY, VALUE);
    expect((await opened({ ...QUICK, passphrase: 'é'.normalize('NFD') }).get(KEY))?.value).toBe(VALUE);
  });

  it('takes one derivation for all that an instance reads and writes, also at the same time', async () => {
    await Promise.all(['a', 'b', 'c'].map((name) => opened(QUICK).set(name, VALUE)));
    derive.mockClear();
    const store = opened(QUICK);
    await Promise.all(['a', 'b', 'c'].map((name) => store.get(name)));
    await Promise.all(['a', 'b', 'd'].map((name) => store.set(name, 'next')));
    expect(derive).toHaveBeenCalledTimes(1);
  });

  it('has one salt, also where many processes begin at once on an empty store', async () => {
    await Promise.all(Array.from({ length: 8 }, (_, i) => opened(QUICK).set(`${i}`, VALUE)));
    const salts = new Set<string | undefined>();
    for (let i = 0; i < 8; i++) salts.add((await rawValue(raw, `${i}`)).split(':')[5]);
    expect(salts.size).toBe(1);
  });

  it('needs no look for the salt where a value tells it', async () => {
    await opened(QUICK).set(KEY, VALUE);
    const asked: string[] = [];
    const store = encryptedStore(altered(raw, { get: (name) => (asked.push(name), raw.get(name)) }), QUICK);
    const found = await store.get(KEY);
    await store.set(KEY, 'next', found?.revision);
    expect(asked).toEqual([KEY]);
  });

  it('takes no salt from a value that it cannot open', async () => {
    const store = opened(QUICK);
    const stranger = opened({ ...QUICK, passphrase: 'of somebody else' });
    await stranger.set('theirs', VALUE);
    await failureOf(store.get('theirs'));
    await store.set('ours', VALUE);
    expect((await rawValue(raw, 'ours')).split(':')[5]).not.toBe((await rawValue(raw, 'theirs')).split(':')[5]);
  });

  it.each<[string, () => Promise<unknown>]>([
    ['gone', () => raw.delete(SALT)],
    ['damaged', () => raw.set(SALT, 'damaged')],
    ['of another passphrase', async () => {
      await raw.delete(SALT);
      await opened({ ...QUICK, passphrase: 'of somebody else' }).set('theirs', VALUE);
    }],
  ])('does without the record of the salt when that is %s: every value tells its own', async (_, harm) => {
    await opened(QUICK).set('a', '1');
    await harm();
    await opened(QUICK).set('b', '2');
    await opened(QUICK).set('c', '3');
    const store = opened(QUICK);
    for (const [name, value] of [['a', '1'], ['b', '2'], ['c', '3']] as const) expect((await store.get(name))?.value).toBe(value);
    // And those that begin from now on agree again.
    expect((await rawValue(raw, 'c')).split(':')[5]).toBe((await rawValue(raw, 'b')).split(':')[5]);
  });

  it('works again once a store below has recovered that failed at first', async () => {
    let failing = true;
    const store = encryptedStore(altered(raw, { get: (name) => (failing ? Promise.reject(new StoreError('Down.')) : raw.get(name)) }), QUICK);
    expect((await failureOf(store.set(KEY, VALUE, null))).message).toBe('Down.');
    failing = false;
    await store.set(KEY, VALUE, null);
    expect((await opened(QUICK).get(KEY))?.value).toBe(VALUE);
  });

  it('shows no record of ours among the keys', async () => {
    await opened(QUICK).set(KEY, VALUE);
    expect(await keysOf(raw)).toEqual([SALT, KEY]);
    expect(await keysOf(opened(QUICK))).toEqual([KEY]);
    expect(await keysOf(opened(QUICK), 'mcp')).toEqual([]);
  });
});
