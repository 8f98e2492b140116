import { describe, it } from 'vitest';
import { encryptedStore, type EncryptedStoreOptions } from '../../src/storage/encrypted-store.ts';
import type { EncryptionKey } from '../../src/storage/encrypted-keys.ts';
import type { Store } from '../../src/storage/store.ts';
import { type StoreAdapter, storeContract } from '../../src/testing.ts';
import { adapterOf, type Backend, backendOf, damaged, type Entry, sealed, sound } from './broken-models.ts';
import { altered, newKey, QUICK } from './encrypted-parts.ts';

const SALT_KEY = 'mcp-reprise/salt';

/**
 * Over memory that is shared as the disk is, by stores that stand for processes: a memory store itself shares nothing.
 *
 * @param bits - How many of each character are flipped. With a passphrase each wrong salt is a key of its own, which takes time.
 */
function overMemory(key: EncryptionKey, options: EncryptedStoreOptions = {}, bits = 8): StoreAdapter {
  const over = (store: Store): Store => encryptedStore(store, key, options);
  const adapter = adapterOf(
    (backend) => over(sound(backend)),
    (backend: Backend) => {
      const { freeze, thaw, ...store } = sound(backend);
      return { ...altered(over(store), {}), freeze, thaw };
    },
  );
  return {
    ...adapter,
    ttl: 400,
    // What the store below does not see: its own sum is right.
    *damage(first) {
      const { values } = backendOf(first).shared;
      const [name, entry] = [...values].find(([each]) => each !== SALT_KEY) as [string, Entry];
      for (const [what, value] of damaged(entry.value, bits)) {
        values.set(name, sealed({ ...entry, value }));
        yield what;
      }
      values.set(name, entry);
    },
    leftovers: async (first) => (await adapter.leftovers(first)).filter((name) => name !== SALT_KEY),
  };
}

describe('The encrypted store over memory, with a key,', async () => {
  storeContract({ describe, it }, overMemory(await newKey()));
});

describe('The encrypted store over memory, with a passphrase,', () => {
  storeContract({ describe, it }, overMemory(QUICK, {}, 1));
});

describe('The encrypted store over memory, with hidden keys,', async () => {
  storeContract({ describe, it }, overMemory(await newKey(), { hideKeys: true }));
});
