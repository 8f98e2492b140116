import { ConflictError, StoreError } from '../errors.ts';
import { equal, ok, rejects } from './assert.ts';
import { increment, listed, times } from './parts.ts';
import type { Contract } from './store-contract.ts';

/** How values are written and removed where several do it. */
export function writeCases({ group, check }: Contract): void {
  group('revisions', () => {
    check('never repeat, not after a delete', async ({ store }) => {
      const seen: string[] = [];
      for (let turn = 0; turn < 10; turn++) {
        seen.push(await store.set('key', 'same value'));
        seen.push(await store.set('key', 'same value'));
        await store.delete('key');
      }
      equal(new Set(seen).size, 20);
    });

    check('never repeat, not after reopening', async ({ store, reopen }) => {
      const seen: string[] = [];
      for (let round = 0, current = store; round < 5; round++, current = await reopen()) {
        seen.push(await current.set('key', 'same value'));
        await current.delete('key');
        seen.push(await current.set('key', 'same value'));
        await current.delete('key');
        await current.close();
      }
      equal(new Set(seen).size, 10);
    }, 'reopen');

    check('of an older value, of a deleted one and of another key do not match', async ({ store }) => {
      const other = await store.set('other', 'value');
      const deleted = await store.set('key', 'value');
      await store.delete('key');
      const old = await store.set('key', 'value', null);
      const revision = await store.set('key', 'value', old);
      for (const wrong of [other, deleted, old, '', 'nonsense']) {
        await rejects(store.set('key', 'wrong', wrong), ConflictError);
        await rejects(store.delete('key', wrong), ConflictError);
      }
      equal(await store.get('key'), { value: 'value', revision });
    });
  });

  group('compare-and-set', () => {
    check('with null writes only where nothing is', async ({ store }) => {
      const revision = await store.set('key', 'first', null);
      await rejects(store.set('key', 'second', null), ConflictError);
      equal(await store.get('key'), { value: 'first', revision });
      await store.delete('key');
      await store.set('key', 'third', null);
      equal((await store.get('key'))?.value, 'third');
    });

    check('with a revision writes only over that revision', async ({ store }) => {
      const first = await store.set('key', 'first');
      const second = await store.set('key', 'second', first);
      await rejects(store.set('key', 'third', first), ConflictError);
      equal(await store.get('key'), { value: 'second', revision: second });
    });

    check('with a revision writes nothing where nothing is', async ({ store }) => {
      await rejects(store.set('key', 'value', 'nonsense'), ConflictError);
      const revision = await store.set('key', 'value');
      await store.delete('key');
      await rejects(store.set('key', 'value', revision), ConflictError);
      equal(await listed(store, ''), []);
    });

    check('fails with a ConflictError, which is a StoreError', async ({ store }) => {
      await store.set('key', 'value');
      const error = await rejects(store.set('key', 'value', null), ConflictError);
      ok(error instanceof StoreError, 'a ConflictError is a StoreError');
      equal((error as ConflictError).code, 'CONFLICT');
    });

    check('has one winner among 100 at once', async ({ store }) => {
      const results = await Promise.allSettled(times(100, (index) => store.set('key', `${index}`, null)));
      const winners = results.flatMap((result, index) => (result.status === 'fulfilled' ? [{ value: `${index}`, revision: result.value }] : []));
      equal(winners.length, 1, 'winners');
      equal(await store.get('key'), winners[0]);
      for (const result of results) ok(result.status === 'fulfilled' || result.reason instanceof ConflictError, 'who does not win has a conflict');
    });

    check('loses none of 100 read-modify-writes, ten at a time', async ({ store }) => {
      const ten = async (): Promise<void> => {
        for (let turn = 0; turn < 10; turn++) await increment(store, 'key');
      };
      await Promise.all(times(10, ten));
      equal((await store.get('key'))?.value, '100');
    });

    check('loses no read-modify-write of two stores over the same data', async ({ store, reopen }) => {
      const other = await reopen();
      await Promise.all([store, other].flatMap((each) => times(20, () => increment(each, 'key'))));
      equal((await store.get('key'))?.value, '40');
    }, 'reopen');
  });

  group('delete', () => {
    check('says whether there was something', async ({ store }) => {
      equal(await store.delete('key'), false);
      await store.set('key', 'value');
      equal(await store.delete('key'), true);
      equal(await store.get('key'), undefined);
      equal(await store.delete('key'), false);
    });

    check('with a revision removes only that revision', async ({ store }) => {
      const first = await store.set('key', 'first');
      const second = await store.set('key', 'second');
      await rejects(store.delete('key', first), ConflictError);
      equal(await store.get('key'), { value: 'second', revision: second });
      equal(await store.delete('key', second), true);
      equal(await store.get('key'), undefined);
      await rejects(store.delete('key', second), ConflictError);
    });

    check('has one winner among 100 at once', async ({ store }) => {
      await store.set('key', 'value');
      const results = await Promise.all(times(100, () => store.delete('key')));
      equal(results.filter(Boolean).length, 1, 'winners');
    });
  });
}
