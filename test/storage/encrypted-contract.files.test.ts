import { randomBytes, webcrypto } from 'node:crypto';
import { describe, it } from 'vitest';
import { encryptedStore } from '../../src/storage/encrypted-store.ts';
import { fileStore } from '../../src/storage/file-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { storeContract } from '../../src/testing.ts';
import { adapterOfFiles } from './file-contract-parts.ts';

// A file of its own: the derivation of keys from passphrases and the file system use the same threads of Node.
describe.concurrent('The encrypted store over files, with a new key, an old one and hidden keys,', async () => {
  const secrets = [randomBytes(32), randomBytes(32)];
  const keys = await Promise.all(secrets.map((secret) => webcrypto.subtle.importKey('raw', secret, 'AES-GCM', false, ['encrypt', 'decrypt'])));
  const over = (directory: string): Store => encryptedStore(fileStore(directory, { onDamaged: () => {} }), keys, { hideKeys: true });
  storeContract({ describe, it }, adapterOfFiles(over, secrets.map((secret) => secret.toString('hex'))));
});
