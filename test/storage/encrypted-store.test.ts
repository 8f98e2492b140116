import { setImmediate } from 'node:timers/promises';
import { inspect } from 'node:util';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ConflictError, StoreError } from '../../src/errors.ts';
import type { EncryptionKey } from '../../src/storage/encrypted-keys.ts';
import { encryptedStore, type EncryptedStoreOptions } from '../../src/storage/encrypted-store.ts';
import { memoryStore } from '../../src/storage/memory-store.ts';
import type { Store, StoredValue } from '../../src/storage/store.ts';
import { altered, failureOf, newKey, PASSPHRASE, QUICK, rawValue } from './encrypted-parts.ts';

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

describe('The encrypted store', () => {
  it.each<[string, () => EncryptionKey]>([
    ['a key', () => key],
    ['a passphrase', () => QUICK],
  ])('shows nothing of a value to who has not %s', async (_, its) => {
    const store = opened(its());
    await store.set(KEY, VALUE);
    await store.set(KEY, `${VALUE} again`);
    for await (const name of raw.keys('')) {
      const value = await rawValue(raw, name);
      const [data = ''] = value.split(':').slice(-1);
      for (const text of [value, atob(data)]) expect(text).not.toMatch(/canary|session|alice|horse/);
    }
  });

  it('writes the same value differently each time', async () => {
    const store = opened();
    const written = new Set<string>();
    for (let i = 0; i < 100; i++) {
      await store.set(KEY, VALUE);
      written.add((await rawValue(raw, KEY)).split(':').slice(-2).join(':'));
    }
    expect(new Set([...written].map((each) => each.split(':')[0])).size).toBe(100);
    expect(new Set([...written].map((each) => each.split(':')[1])).size).toBe(100);
  });

  it('has the revisions and the conflicts of the store below', async () => {
    const revision = await opened().set(KEY, VALUE);
    expect((await raw.get(KEY))?.revision).toBe(revision);
    const next = await opened().set(KEY, 'next', revision);
    expect((await raw.get(KEY))?.revision).toBe(next);
    await expect(opened().set(KEY, 'late', revision)).rejects.toBeInstanceOf(ConflictError);
  });

  it('lets the last of several sets win that were begun in order, however long each takes', async () => {
    let turns = 12;
    const hurrying = async (name: string): Promise<StoredValue | undefined> => {
      turns -= 3;
      for (let left = turns; left > 0; left--) await setImmediate();
      return raw.get(name);
    };
    const store = encryptedStore(altered(raw, { get: hurrying }), key);
    await Promise.all(['1', '2', '3', '4'].map((value) => store.set(KEY, value)));
    expect((await store.get(KEY))?.value).toBe('4');
  });

  it('replaces whatever is there when it is to, also where others write at the same time', async () => {
    const stores = [opened(), opened(), opened()];
    const revisions = await Promise.all(Array.from({ length: 30 }, (_, i) => (stores[i % 3] as Store).set(KEY, `${i}`)));
    expect(new Set(revisions).size).toBe(30);
    const last = await opened().get(KEY);
    expect(revisions).toContain(last?.revision);
  });

  it('passes on what the store below fails with', async () => {
    const failure = new StoreError('The disk is full.');
    const broken = encryptedStore(altered(raw, { get: () => Promise.reject(failure), delete: () => Promise.reject(failure) }), key);
    for (const operation of [() => broken.get(KEY), () => broken.set(KEY, VALUE), () => broken.delete(KEY)]) expect(await failureOf(operation())).toBe(failure);
    expect(await broken.set('other', VALUE, null)).toEqual(expect.any(String));
  });

  it('gives up where the store below says that there is a conflict whatever it does', async () => {
    const stubborn = altered(raw, { set: () => Promise.reject(new ConflictError('No.')) });
    expect(await failureOf(encryptedStore(stubborn, key).set(KEY, VALUE))).toMatchObject({ code: 'STORE' });
  });

  it('closes the store below', async () => {
    await opened().close();
    await expect(raw.get(KEY)).rejects.toBeInstanceOf(StoreError);
  });

  it('asks the store below for locks, under the same keys', async () => {
    const lock = await opened().lock(KEY, { ttl: 60_000 });
    const next = raw.lock(KEY, { ttl: 60_000 });
    await lock.release();
    expect((await next).fence).toBeGreaterThan(lock.fence);
  });
});

describe('Bad input', () => {
  it.each<[string, () => unknown]>([
    ['nothing', () => undefined],
    ['null', () => null],
    ['a bare string', () => 'passphrase'],
    ['no keys', () => []],
    ['raw bytes', () => new Uint8Array(32)],
    ['an empty passphrase', () => ({ passphrase: '' })],
    ['a passphrase that is none', () => ({ passphrase: 1 })],
    ['half a character', () => ({ passphrase: '\uD83E' })],
    ['a misspelt setting', () => ({ passphrase: PASSPHRASE, iteration: 1 })],
    ['rounds that are no number', () => ({ passphrase: PASSPHRASE, iterations: '600000' })],
    ['a bad old key', () => [key, undefined]],
  ])('is a TypeError: %s for a key', (_, bad) => {
    expect(() => encryptedStore(raw, bad() as EncryptionKey)).toThrow(TypeError);
  });

  it.each([0, 1, 99_999, 10_000_001, 600_000.5, Number.NaN, Number.POSITIVE_INFINITY])('is a RangeError: %s rounds', (iterations) => {
    expect(() => encryptedStore(raw, { passphrase: PASSPHRASE, iterations })).toThrow(RangeError);
  });

  it('says what is wrong with a CryptoKey', async () => {
    const hmac = await crypto.subtle.generateKey({ name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
    const pair = await crypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, false, ['sign']);
    const cbc = await crypto.subtle.generateKey({ name: 'AES-CBC', length: 256 }, false, ['encrypt', 'decrypt']);
    const wraps = await crypto.subtle.generateKey({ name: 'AES-GCM', length: 256 }, false, ['wrapKey']);
    expect(() => opened(hmac)).toThrow(/AES-GCM with 256 bits, not for HMAC/);
    expect(() => opened(cbc)).toThrow(/AES-GCM with 256 bits, not for AES-CBC/);
    expect(() => opened(pair.privateKey)).toThrow(/not for ECDSA/);
    expect(() => opened(pair as unknown as CryptoKey)).toThrow(/must be a CryptoKey/);
    await expect(newKey(['encrypt', 'decrypt'], 128).then(opened)).rejects.toThrow(/256 bits, not for AES-GCM with 128/);
    await expect(newKey(['encrypt']).then(opened)).rejects.toThrow(/it has encrypt/);
    await expect(newKey(['decrypt']).then((old) => opened([key, old]))).rejects.toThrow(/it has decrypt/);
    expect(() => opened(wraps)).toThrow(TypeError);
  });

  it('is a TypeError: no store, and options that are none', () => {
    for (const bad of [undefined, null, {}, 'store']) expect(() => encryptedStore(bad as unknown as Store, key)).toThrow(TypeError);
    expect(() => encryptedStore(raw, key, { hideKeys: 'yes' } as unknown as EncryptedStoreOptions)).toThrow(TypeError);
    expect(() => encryptedStore(raw, key, { hidekeys: true } as EncryptedStoreOptions)).toThrow(/hidekeys/);
  });

  it('is a TypeError: the key under which the salt is', async () => {
    const store = opened(QUICK);
    for (const operation of [() => store.get(SALT), () => store.set(SALT, VALUE), () => store.delete(SALT)]) expect(await failureOf(operation())).toBeInstanceOf(TypeError);
  });

  it('is told before anything is derived or read', () => {
    const derive = vi.spyOn(crypto.subtle, 'deriveKey');
    expect(() => encryptedStore(raw, [QUICK, { passphrase: '' }])).toThrow(TypeError);
    opened(QUICK);
    expect(derive).not.toHaveBeenCalled();
  });
});

describe('Secrets', () => {
  it('are in no error, its stack and its causes', async () => {
    const store = opened(QUICK);
    await store.set(KEY, VALUE);
    const sound = await rawValue(raw, KEY);
    const next = await opened(QUICK).set(KEY, VALUE);
    const errors = [
      await failureOf(opened({ ...QUICK, passphrase: 'wrong-horse' }).get(KEY)),
      await failureOf(store.set(KEY, VALUE, 'another revision')),
      await failureOf(Promise.resolve().then(() => encryptedStore(raw, { ...QUICK, iterations: 1 }))),
      await failureOf(Promise.resolve().then(() => encryptedStore(raw, PASSPHRASE as unknown as EncryptionKey))),
      await failureOf(Promise.resolve().then(() => encryptedStore(raw, { ...QUICK, passphrase: `${PASSPHRASE}\uD83E` }))),
    ];
    await store.get(KEY);
    for (const bad of [sound, VALUE, `${sound}x`, sound.slice(0, -4), sound.replace(/.{8}$/, 'AAAAAAAA')]) {
      await raw.set(KEY, bad);
      errors.push(await failureOf(store.get(KEY)));
    }
    await raw.delete(KEY);
    errors.push(await failureOf(store.set(KEY, VALUE, next)));
    await store.close();
    errors.push(await failureOf(store.get(KEY)));
    for (const error of errors) expect(inspect(error, { depth: 10, showHidden: true })).not.toMatch(/horse|canary|alice|example\.com|mcp-reprise:encrypted/);
  });

  it('do not show where a store is printed or written as JSON', async () => {
    const exportable = await crypto.subtle.generateKey({ name: 'AES-GCM', length: 256 }, true, ['encrypt', 'decrypt']);
    const store = opened([QUICK, exportable]);
    await store.set(KEY, VALUE);
    expect(JSON.stringify(store)).toBe('{}');
    expect(inspect(store, { depth: 10, showHidden: true, getters: true })).not.toMatch(/horse|canary|alice|CryptoKey|100000|\d+, \d+/);
    expect(Object.getOwnPropertyNames(store)).toEqual([]);
  });
});
