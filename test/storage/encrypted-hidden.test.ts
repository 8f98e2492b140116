import { beforeEach, describe, expect, it } from 'vitest';
import { StoreError } from '../../src/errors.ts';
import type { EncryptionKey } from '../../src/storage/encrypted-keys.ts';
import { encryptedStore, type EncryptedStoreOptions } from '../../src/storage/encrypted-store.ts';
import { memoryStore } from '../../src/storage/memory-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { altered, failureOf, keysOf, newKey, QUICK, rawValue } from './encrypted-parts.ts';

const VALUE = 'the session id is canary-7f3a';

let key: CryptoKey;
/** The store below, as somebody sees it who has no key. */
let raw: Store;
beforeEach(async () => {
  key = await newKey();
  raw = memoryStore();
});

/** An encrypted store over the same data: another process, or the next one. */
function opened(keys: EncryptionKey | readonly EncryptionKey[] = key, options?: EncryptedStoreOptions): Store {
  return encryptedStore(raw, keys, options);
}

describe('Hidden keys', () => {
  const hidden = { hideKeys: true } as const;
  const ALICE = 'session/https%3A%2F%2Fexample.com/alice/default';
  const BOB = 'session/https%3A%2F%2Fexample.com/bob/default';

  it('show nothing of themselves in the store below', async () => {
    const store = opened(key, hidden);
    await store.set(ALICE, VALUE);
    const lockKeys: string[] = [];
    await encryptedStore(altered(raw, { lock: (name, options) => (lockKeys.push(name), raw.lock(name, options)) }), key, hidden).lock(ALICE, { ttl: 60_000 });
    for (const name of [...(await keysOf(raw)), ...lockKeys]) {
      expect(name).not.toMatch(/session|example|alice/);
      expect(atob(name.replace('hidden/', ''))).toHaveLength(32);
    }
    for (const name of await keysOf(raw)) expect(await rawValue(raw, name)).not.toMatch(/session|example|alice/);
  });

  it('are listed in clear to who has the key, by prefix too', async () => {
    await opened(key, hidden).set(ALICE, '1');
    await opened(key, hidden).set(BOB, '2');
    await opened(key, hidden).set('call/1', '3');
    await raw.set('of somebody else', '4');
    await raw.set('hidden/nonsense', '5');
    const store = opened(key, hidden);
    expect(await keysOf(store)).toEqual(['call/1', ALICE, BOB]);
    expect(await keysOf(store, 'session/')).toEqual([ALICE, BOB]);
    expect(await keysOf(opened(await newKey(), hidden))).toEqual([]);
  });

  it('stay the same when a new key is put before the last, and are nobody else\'s without it', async () => {
    const revision = await opened(key, hidden).set(ALICE, VALUE);
    const newer = await newKey();
    const rotated = opened([newer, key], hidden);
    expect(await rotated.get(ALICE)).toEqual({ value: VALUE, revision });
    await rotated.set(ALICE, 'next', revision);
    expect(await keysOf(raw)).toHaveLength(1);
    expect(await keysOf(rotated)).toEqual([ALICE]);
    expect((await opened([await newKey(), newer, key], hidden).get(ALICE))?.value).toBe('next');
    expect(await opened(newer, hidden).get(ALICE)).toBeUndefined();
  });

  it('cannot be swapped', async () => {
    const store = opened(key, hidden);
    await store.set(ALICE, VALUE);
    const [name = ''] = await keysOf(raw);
    await store.set(BOB, VALUE);
    const other = (await keysOf(raw)).find((each) => each !== name) as string;
    await raw.set(other, await rawValue(raw, name));
    expect(await failureOf(store.get(BOB))).toBeInstanceOf(StoreError);
    expect(await keysOf(store)).toEqual([ALICE]);
  });

  it('need a last key that cannot change with the store: a CryptoKey', async () => {
    expect(() => opened(QUICK, hidden)).toThrow(/hideKeys needs a CryptoKey as the last key/);
    expect(() => opened([key, QUICK], hidden)).toThrow(TypeError);
    await opened([QUICK, key], hidden).set(ALICE, VALUE);
    expect((await opened([QUICK, key], hidden).get(ALICE))?.value).toBe(VALUE);
  });
});
