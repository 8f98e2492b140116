import { StoreError } from '../errors.ts';
import type { Store } from '../storage/store.ts';
import { equal, ok, rejects } from './assert.ts';
import { listed, pending } from './parts.ts';
import type { Contract } from './store-contract.ts';

/** How soon a store whose backend does not answer has to say so, in ms; and what a busy machine may add. */
const HANG_LIMIT = 3_000;
const BUSY = 1_000;

/** Bad input, the end of a store, and a backend that does not answer. */
export function failureCases({ group, check }: Contract): void {
  group('bad input', () => {
    for (const bad of [undefined, null, 1, {}, Symbol('key')]) {
      check(`is a TypeError: ${typeof bad === 'object' ? JSON.stringify(bad) : String(bad)}`, async ({ store }) => {
        const text = bad as string;
        await rejects(store.get(text), TypeError, 'get(bad)');
        await rejects(store.set(text, 'value'), TypeError, "set(bad, 'value')");
        await rejects(store.set('key', text), TypeError, "set('key', bad)");
        await rejects(store.delete(text), TypeError, 'delete(bad)');
        await rejects(Promise.resolve().then(() => listed(store, text)), TypeError, 'keys(bad)');
        if (bad !== undefined && bad !== null) {
          await rejects(store.set('key', 'value', text), TypeError, "set('key', 'value', bad)");
          await rejects(store.delete('key', text), TypeError, "delete('key', bad)");
        }
        equal(await listed(store, ''), []);
      });
    }
  });

  group('errors', () => {
    check('name no key, no value and no revision, because they end up in logs', async ({ store }) => {
      const revision = await store.set('alice', 'secret');
      const old = await store.set('alice', 'secret', revision);
      const errors = [
        await rejects(store.set('alice', 'other-secret', null), StoreError),
        await rejects(store.set('alice', 'other-secret', revision), StoreError),
        await rejects(store.delete('alice', revision), StoreError),
        await rejects(store.set('bob', 'other-secret', revision), StoreError),
      ];
      const lock = await store.lock('alice', { ttl: 60_000 });
      const waiting = pending(rejects(store.lock('alice', { ttl: 60_000 }), StoreError));
      await store.close();
      errors.push(await waiting, lock.lost.reason as Error, ...(await expectFailures(store, 'alice')));
      for (const { message } of errors) {
        for (const word of ['alice', 'bob', 'secret', revision, old]) ok(!message.includes(word), `"${message}" says too much`);
      }
    });
  });

  group('close', () => {
    check('makes every later use fail, and may be repeated', async ({ store }) => {
      await store.set('key', 'value');
      await store.close();
      await expectFailures(store, 'key');
      await store.close();
    });

    check('ends a listing that is under way', async ({ store }) => {
      for (const key of ['a', 'b', 'c']) await store.set(key, 'value');
      const keys = store.keys('')[Symbol.asyncIterator]();
      await keys.next();
      await store.close();
      await rejects(Promise.resolve().then(() => keys.next()), StoreError);
    });

    check('waits for what was begun before', async ({ store, reopen }) => {
      const writing = pending(store.set('key', 'value'));
      await store.close();
      const next = await reopen();
      equal(await next.get('key'), { value: 'value', revision: await writing });
    }, 'reopen');

    check('needs no use before', async ({ store }) => {
      await store.close();
      await rejects(store.get('key'), StoreError);
    });
  });

  group('a backend that does not answer', () => {
    check('is an error of every use within 3 s, until it answers again', async ({ store, hang }) => {
      await store.set('key', 'value');
      const goOn = await hang();
      const began = performance.now();
      let took = Number.POSITIVE_INFINITY;
      try {
        await expectFailures(store, 'key');
        took = performance.now() - began;
      } finally {
        await goOn();
      }
      ok(took < HANG_LIMIT + BUSY, `it took ${Math.round(took)} ms`);
      await store.set('other', 'value');
      equal((await store.get('other'))?.value, 'value');
    }, 'hang');
  });
}

/** Expects a StoreError of every use, all of them at once. */
async function expectFailures(store: Store, key: string): Promise<Error[]> {
  const uses = {
    get: store.get(key),
    set: store.set(key, 'value'),
    delete: store.delete(key),
    keys: Promise.resolve().then(() => listed(store, '')),
    lock: store.lock(key, { ttl: 60_000 }),
  };
  return Promise.all(Object.entries(uses).map(([name, use]) => rejects(use, StoreError, name)));
}
