import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { encryptedStore } from '../../src/storage/encrypted-store.ts';
import { fileStore } from '../../src/storage/file-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { storeContract } from '../../src/testing.ts';
import { newKey, QUICK, unhurriedStore } from './encrypted-parts.ts';

describe('The encrypted store over memory, with a key,', () => {
  storeContract({ describe, it }, { create: async () => encryptedStore(unhurriedStore(), await newKey()) });
});

describe('The encrypted store over memory, with a passphrase,', () => {
  storeContract({ describe, it }, { create: () => encryptedStore(unhurriedStore(), QUICK) });
});

describe('The encrypted store over memory, with hidden keys,', () => {
  storeContract({ describe, it }, { create: async () => encryptedStore(unhurriedStore(), await newKey(), { hideKeys: true }) });
});

describe('The encrypted store over files, with a new key, an old one and hidden keys,', () => {
  let home: string;
  let keys: CryptoKey[];
  const directories = new Map<Store, string>();
  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), 'encrypted-'));
    keys = [await newKey(), await newKey()];
  });
  afterAll(() => rm(home, { recursive: true }));

  const over = (directory: string): Store => encryptedStore(fileStore(directory), keys, { hideKeys: true });
  storeContract(
    { describe, it },
    {
      async create() {
        const directory = await mkdtemp(join(home, 'store-'));
        const store = over(directory);
        directories.set(store, directory);
        return store;
      },
      reopen: (first) => over(directories.get(first) as string),
    },
  );
});
