import 'fake-indexeddb/auto';
import { IDBFactory } from 'fake-indexeddb';
import { afterEach, describe, it, vi } from 'vitest';
import { indexedDbStore } from '../../src/storage/indexeddb-store.ts';
import { type StoreAdapter, storeContract } from '../../src/testing.ts';
import { occupy, openTab, Origin } from './indexeddb-tabs.ts';

/** Stores in a browser that has these locks. */
function adapter(locks: () => LockManager | undefined): StoreAdapter {
  const store = () => {
    vi.stubGlobal('navigator', { locks: locks() });
    return indexedDbStore();
  };
  return {
    create() {
      globalThis.indexedDB = new IDBFactory();
      return store();
    },
    reopen: store,
    hang: () => occupy('mcp-reprise'),
  };
}

afterEach(() => {
  vi.unstubAllGlobals();
});

describe('The IndexedDB store without Web Locks', () => {
  storeContract(
    { describe, it },
    {
      ...adapter(() => undefined),
      async holdElsewhere(_, key, ttl) {
        const { indexedDbStore, freeze, thaw } = await openTab();
        return { lock: await indexedDbStore().lock(key, { ttl }), pause: freeze, resume: thaw };
      },
    },
  );
});

describe('The IndexedDB store with Web Locks', () => {
  const origin = new Origin();
  storeContract(
    { describe, it },
    {
      ...adapter(() => origin.tab()),
      // A tab that is closed. One that is frozen keeps its locks.
      async holdElsewhere(_, key, ttl) {
        const tab = origin.tab();
        vi.stubGlobal('navigator', { locks: tab });
        return { lock: await indexedDbStore().lock(key, { ttl }), pause: () => origin.close(tab) };
      },
      pausesForGood: true,
      // Nothing is renewed here, so nothing can be late.
      ttl: 200,
    },
  );
});
