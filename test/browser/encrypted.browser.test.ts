import { describe, expect, it } from 'vitest';
import { encryptedStore, type EncryptionKey } from '../../src/index.ts';
import { indexedDbStore } from '../../src/browser.ts';
import type { Store } from '../../src/storage/store.ts';
import { storeContract } from '../../src/testing.ts';

/** The browser's own WebCrypto, over its own database. */

const key = await crypto.subtle.generateKey({ name: 'AES-GCM', length: 256 }, false, ['encrypt', 'decrypt']);
/** The fewest rounds that are allowed: each store derives its key anew. */
const phrase = { passphrase: 'correct horse battery staple', iterations: 100_000 } as const;

describe.each<[string, EncryptionKey]>([
  ['a key', key],
  ['a passphrase', phrase],
])('The encrypted store over IndexedDB in a browser, with %s,', (_, secret) => {
  const names = new WeakMap<Store, string>();
  const open = (name: string): Store => {
    const store = encryptedStore(indexedDbStore(name), secret);
    names.set(store, name);
    return store;
  };
  storeContract({ describe, it }, { create: () => open(crypto.randomUUID()), reopen: (first) => open(names.get(first) as string), ttl: 200 });

  it('shows nothing of what it keeps, and refuses what was changed or moved', async () => {
    const name = crypto.randomUUID();
    const store = open(name);
    await store.set('session', 'a secret');
    await store.set('other', 'another secret');
    const raw = indexedDbStore(name);
    const stored = (await raw.get('session'))?.value ?? '';
    expect(stored).not.toContain('secret');
    await raw.set('other', stored);
    await expect(open(name).get('other')).rejects.toThrow();
    await raw.set('session', `${stored.slice(0, -4)}AAAA`);
    await expect(open(name).get('session')).rejects.toThrow();
  });
});
