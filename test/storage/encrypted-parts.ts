import { webcrypto } from 'node:crypto';
import type { EncryptionKey } from '../../src/storage/encrypted-keys.ts';
import type { Store } from '../../src/storage/store.ts';

/** What the tests of the encrypted store have in common. */

/** A store with some of its methods in another way. */
export function altered(store: Store, methods: Partial<Store>): Store {
  return {
    get: (key) => store.get(key),
    set: (key, value, expected) => store.set(key, value, expected),
    delete: (key, expected) => store.delete(key, expected),
    keys: (prefix) => store.keys(prefix),
    lock: (key, options) => store.lock(key, options),
    close: () => store.close(),
    ...methods,
  };
}

export const PASSPHRASE = 'correct horse battery staple';
/** The fewest rounds that are allowed: tests need many keys. */
export const QUICK = { passphrase: PASSPHRASE, iterations: 100_000 } as const satisfies EncryptionKey;

export async function newKey(usages: KeyUsage[] = ['encrypt', 'decrypt'], length = 256): Promise<CryptoKey> {
  return webcrypto.subtle.generateKey({ name: 'AES-GCM', length }, false, usages);
}

export async function keysOf(store: Store, prefix = ''): Promise<string[]> {
  const keys: string[] = [];
  for await (const key of store.keys(prefix)) keys.push(key);
  return keys.sort();
}

/** What is stored under a key of the underlying store, as it is. */
export async function rawValue(raw: Store, key: string): Promise<string> {
  const stored = await raw.get(key);
  if (!stored) throw new Error('nothing is stored there');
  return stored.value;
}

/** What an operation fails with. */
export async function failureOf(operation: Promise<unknown>): Promise<Error & { readonly code?: string }> {
  return operation.then(
    (value) => {
      throw new Error(`it should have failed, but resolved to ${JSON.stringify(value)}`);
    },
    (error: Error) => error,
  );
}
