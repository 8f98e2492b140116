import 'fake-indexeddb/auto';
import { describe, it, vi } from 'vitest';
import { indexedDbStore } from '../../src/storage/indexeddb-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { type Counter, type StoreAdapter, storeContract } from '../../src/testing.ts';
import { increment } from '../../src/testing/parts.ts';
import { altered } from './encrypted-parts.ts';
import { failStepIn } from './indexeddb-contract-faults.ts';
import { namesIn, occupy, openTab, Origin } from './indexeddb-tabs.ts';

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
    spawn: (first, key, turns, counted) => counterIn(opened(locks(), nameOf(first)), key, turns, counted),
    failStep: (first, n) => failStepIn(nameOf(first), n),
    // No `damage`: the bytes are the browser's, and a page cannot get at them.
    leftovers: (first) => namesIn(nameOf(first)),
  };
}

/** Counts in another tab, which may be closed at any moment: what it was doing may have been done, but it hears of nothing any more. */
function counterIn(store: Store, key: string, turns: number, counted: () => void): Counter {
  let close = (): void => undefined;
  const closed = new Promise<'closed'>((resolve) => (close = () => resolve('closed')));
  const unlessClosed = async <T>(work: () => Promise<T>): Promise<T> => {
    const outcome = await Promise.race([closed, work()]);
    return outcome === 'closed' ? new Promise<never>(() => undefined) : outcome;
  };
  const mortal = altered(store, { get: (...all) => unlessClosed(() => store.get(...all)), set: (...all) => unlessClosed(() => store.set(...all)) });
  const count = async (): Promise<void> => {
    for (let turn = 0; turn < turns; turn++) {
      await increment(mortal, key);
      counted();
    }
  };
  return { run: () => Promise.race([closed, count()]).finally(() => store.close()), kill: close };
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
