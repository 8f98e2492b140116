import { encryptedStore } from '../../src/storage/encrypted-store.ts';
import { fileStore } from '../../src/storage/file-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { increment } from '../../src/testing/parts.ts';
import { next, send } from '../support/client-script.ts';

/** Another process that uses a file store, for the contract: `<count | hold> <directory> <encryption keys> <key> <turns | ttl>`. */
type Told = { type: 'ready' } | { type: 'counted' } | { type: 'held'; fence: number } | { type: 'lost' } | { type: 'released' };
type Said = { type: 'go' } | { type: 'release' };

const [task, directory = '', secrets = '', key = '', amount] = process.argv.slice(2);
const tell = (told: Told): void => send(told);
const store = await opened();

/** Encrypted, and with hidden keys, where there are keys: in hex, with commas between them. */
async function opened(): Promise<Store> {
  const files = fileStore(directory);
  if (secrets === '') return files;
  const keys = secrets.split(',').map((secret) => crypto.subtle.importKey('raw', Buffer.from(secret, 'hex'), 'AES-GCM', false, ['encrypt', 'decrypt']));
  return encryptedStore(files, await Promise.all(keys), { hideKeys: true });
}

if (task === 'count') {
  tell({ type: 'ready' });
  await next<Said>('go');
  for (let turn = 0; turn < Number(amount); turn++) {
    await increment(store, key);
    tell({ type: 'counted' });
  }
} else {
  const lock = await store.lock(key, { ttl: Number(amount) });
  lock.lost.addEventListener('abort', () => tell({ type: 'lost' }));
  tell({ type: 'held', fence: lock.fence });
  await next<Said>('release');
  await lock.release();
  tell({ type: 'released' });
}
await store.close();
