import 'fake-indexeddb/auto';
import { describe, it, vi } from 'vitest';
import { indexedDbStore } from '../../src/storage/indexeddb-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { type StoreAdapter, storeContract } from '../../src/testing.ts';
import { occupy, openTab, Origin } from './indexeddb-tabs.ts';

const names = new WeakMap<Store, string>();
const nameOf = (store: Store): string => names.get(store) as string;

/** Opens a store in a browser tab that has these locks. */
function opened(locks: LockManager | undefined, name: string, open = indexedDbStore): Store {
  vi.stubGlobal('navigator', { locks });
  const store = open(name);
  vi.unstubAllGlobals();
  return store;
}

function adapter(locks: () => LockManager | undefined): StoreAdapter {
  return {
    create() {
      const name = crypto.randomUUID();
      const store = opened(locks(), name);
      names.set(store, name);
      return store;
    },
    reopen: (first) => opened(locks(), nameOf(first)),
    hang: (first) => occupy(nameOf(first)),
  };
}

describe.concurrent('The IndexedDB store without Web Locks', () => {
  storeContract(
    { describe, it },
    {
      ...adapter(() => undefined),
      async holdElsewhere(first, key, ttl) {
        const { indexedDbStore, freeze, thaw } = await openTab();
        return { lock: await opened(undefined, nameOf(first), indexedDbStore).lock(key, { ttl }), pause: freeze, resume: thaw };
      },
    },
  );
});

describe.concurrent('The IndexedDB store with Web Locks', () => {
  const origin = new Origin();
  storeContract(
    { describe, it },
    {
      ...adapter(() => origin.tab()),
      // A tab that is closed. One that is frozen keeps its locks.
      async holdElsewhere(first, key, ttl) {
        const tab = origin.tab();
        return { lock: await opened(tab, nameOf(first)).lock(key, { ttl }), pause: () => origin.close(tab) };
      },
      pausesForGood: true,
      // Nothing is renewed here, so nothing can be late.
      ttl: 200,
    },
  );
});
