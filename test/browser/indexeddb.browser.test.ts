import { describe, it } from 'vitest';
import { indexedDbStore } from '../../src/browser.ts';
import { storeContract } from '../../src/testing.ts';

const names = new WeakMap<object, string>();

describe('The IndexedDB store in a browser', () => {
  storeContract(
    { describe, it },
    {
      create() {
        const name = crypto.randomUUID();
        const store = indexedDbStore(name);
        names.set(store, name);
        return store;
      },
      reopen: (first) => indexedDbStore(names.get(first)),
    },
  );
});
