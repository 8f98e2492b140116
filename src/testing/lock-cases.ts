import { StoreError } from '../errors.ts';
import type { Lock, Store } from '../storage/store.ts';
import { sleep } from '../timers.ts';
import { equal, ok, rejects } from './assert.ts';
import { listed, ODD_KEYS, pending, times } from './parts.ts';
import type { Contract } from './store-contract.ts';

/** For locks that are not to be taken over within a case, in ms. */
const LONG = 60_000;
/** How long something is watched that must not happen, in ms. */
const WHILE = 150;

/** Locks: who has them, who gets them next, and how they are lost. */
export function lockCases({ group, check, ttl }: Contract): void {
  group('locks', () => {
    check('are held by one at a time, among 50 who want them', async ({ store }) => {
      await expectTurns([store], 50);
    });

    check('are held by one at a time, among 50 in two stores over the same data', async ({ store, reopen }) => {
      await expectTurns([store, await reopen()], 25);
    }, 'reopen');

    check('have a fencing number that grows, also after a release', async ({ store }) => {
      let last = Number.NEGATIVE_INFINITY;
      for (let round = 0; round < 5; round++) {
        const { fence, release } = await store.lock('key', { ttl: LONG });
        ok(Number.isSafeInteger(fence) && fence > last, `${fence} is a whole number above ${last}`);
        last = fence;
        await release();
      }
    });

    check('have a fencing number that grows, also after reopening', async ({ store, reopen }) => {
      const fences: number[] = [];
      for (let round = 0, current = store; round < 3; round++, current = await reopen()) {
        fences.push((await current.lock('key', { ttl: LONG })).fence);
        await current.close();
      }
      equal(fences, [...new Set(fences)].sort((a, b) => a - b));
    }, 'reopen');

    check('of different keys do not wait for each other, however odd the keys', async ({ store }) => {
      const locks = await Promise.all(ODD_KEYS.map((key) => store.lock(key, { ttl: LONG })));
      await Promise.all(locks.map((lock) => lock.release()));
    });

    check('and values of the same key know nothing of each other', async ({ store }) => {
      await store.set('both', 'value', null);
      const lock = await store.lock('both', { ttl: LONG });
      await store.lock('lock', { ttl: LONG });
      equal(await listed(store, ''), ['both'], 'keys');
      equal((await store.get('both'))?.value, 'value');
      equal(await store.get('lock'), undefined);
      equal(await store.delete('both'), true);
      await expectHeld(store, 'both', lock);
      await store.set('both', 'value', null);
      await lock.release();
      equal((await store.get('both'))?.value, 'value');
      equal(await listed(store, ''), ['both'], 'keys');
    });

    check('go to the next who waits once they are released, and not before', async ({ store }) => {
      const first = await store.lock('key', { ttl: LONG });
      await expectHeld(store, 'key', first);
      const next = pending(store.lock('key', { ttl: LONG }));
      await first.release();
      ok((await next).fence > first.fence, 'the next has a greater fencing number');
      ok(!first.lost.aborted, 'what is released is not lost');
    });

    check('go from one store to another', async ({ store, reopen }) => {
      const other = await reopen();
      const first = await store.lock('key', { ttl: LONG });
      await expectHeld(other, 'key', first);
      const next = pending(other.lock('key', { ttl: LONG }));
      await first.release();
      await expectHeld(store, 'key', await next);
    }, 'reopen');

    check('may be released again and again, which frees nobody else\'s', async ({ store }) => {
      const first = await store.lock('key', { ttl: LONG });
      await first.release();
      const next = await store.lock('key', { ttl: LONG });
      await first.release();
      await expectHeld(store, 'key', next);
    });

    check('are kept for longer than their ttl while the holder lives', async ({ store, reopen }) => {
      const lock = await store.lock('key', { ttl });
      await expectHeld(await reopen(), 'key', lock, ttl * 2);
    }, 'reopen');

    check('are no longer waited for once the signal aborts', async ({ store }) => {
      const first = await store.lock('key', { ttl: LONG });
      const giveUp = new AbortController();
      const reason = new Error('I have changed my mind.');
      const waiting = pending(store.lock('key', { ttl: LONG, signal: giveUp.signal }));
      const next = pending(store.lock('key', { ttl: LONG }));
      giveUp.abort(reason);
      ok((await rejects(waiting, Error)) === reason, 'it rejects with the reason of the signal');
      await first.release();
      await next;
    });

    check('are not even asked for when the signal has aborted before', async ({ store }) => {
      const reason = new Error('I have changed my mind.');
      ok((await rejects(store.lock('key', { ttl: LONG, signal: AbortSignal.abort(reason) }), Error)) === reason, 'it rejects with the reason of the signal');
      await store.lock('key', { ttl: LONG });
    });

    check('are not held by one who gave up at the last moment', async ({ store }) => {
      for (let turn = 0; turn < 20; turn++) {
        const giveUp = new AbortController();
        const waiting = store.lock('key', { ttl: LONG, signal: giveUp.signal }).then(
          (lock) => lock.release(),
          () => undefined,
        );
        for (let wait = 0; wait < turn; wait++) await (turn % 2 ? undefined : store.get('key'));
        giveUp.abort();
        await waiting;
      }
      await store.lock('key', { ttl: LONG });
    });

    check('are not ended by the signal once they are held', async ({ store }) => {
      const giveUp = new AbortController();
      const lock = await store.lock('key', { ttl: LONG, signal: giveUp.signal });
      giveUp.abort();
      await expectHeld(store, 'key', lock);
    });

    check('are refused where they make no sense', async ({ store }) => {
      for (const key of [undefined, null, 1, {}]) await rejects(store.lock(key as string, { ttl: LONG }), TypeError, String(key));
      for (const wrong of [undefined, null, '1000', {}]) await rejects(store.lock('key', { ttl: wrong as number }), TypeError, `ttl ${String(wrong)}`);
      for (const wrong of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) await rejects(store.lock('key', { ttl: wrong }), RangeError, `ttl ${wrong}`);
      await rejects(store.lock('key', undefined as never), TypeError);
      await rejects(store.lock('key', { ttl: LONG, signal: {} as AbortSignal }), TypeError);
    });
  });

  group('locks whose holder is gone', () => {
    check('are taken over after their ttl, with a greater fencing number', async ({ store, holdElsewhere }) => {
      const gone = await holdElsewhere('key', ttl);
      await expectHeld(store, 'key', gone.lock);
      await gone.pause();
      const next = await store.lock('key', { ttl: LONG });
      ok(next.fence > gone.lock.fence, 'the next has a greater fencing number');
      ok(!next.lost.aborted, 'the next has it');
    }, 'holdElsewhere');

    check('are lost for one who was only paused, whose late release frees nobody else\'s', async ({ store, holdElsewhere }) => {
      const paused = await holdElsewhere('key', ttl);
      await paused.pause();
      const next = await store.lock('key', { ttl: LONG });
      await paused.resume?.();
      await aborted(paused.lock.lost);
      await paused.lock.release();
      await expectHeld(store, 'key', next);
    }, 'resume');
  });

  group('locks and close', () => {
    check('are lost for who holds them and who waits for them', async ({ store }) => {
      const lock = await store.lock('key', { ttl: LONG });
      const waiting = pending(rejects(store.lock('key', { ttl: LONG }), StoreError));
      await store.close();
      await waiting;
      ok(lock.lost.aborted, 'the lock is lost');
      await lock.release();
      await rejects(store.lock('key', { ttl: LONG }), StoreError);
    });

    check('are free for the next store at once', async ({ store, reopen }) => {
      const next = await reopen();
      const { fence } = await store.lock('key', { ttl: LONG });
      await store.close();
      ok((await next.lock('key', { ttl: LONG })).fence > fence, 'the next has a greater fencing number');
    }, 'reopen');
  });
}

/** Expects that `each` in every one of the stores get the lock, one after another, with growing fencing numbers. */
async function expectTurns(stores: readonly Store[], each: number): Promise<void> {
  const fences: number[] = [];
  let inside = 0;
  const turn = async (store: Store): Promise<void> => {
    const lock = await store.lock('key', { ttl: LONG });
    inside++;
    fences.push(lock.fence);
    // Long enough for another to come in, if it could.
    await store.get('key');
    equal(inside, 1, 'holders at a time');
    inside--;
    await lock.release();
  };
  await Promise.all(stores.flatMap((store) => times(each, () => turn(store))));
  equal(fences, [...new Set(fences)].sort((a, b) => a - b), 'fencing numbers');
}

/** Expects that nobody gets a lock from that store for a while, and that its holder does not lose it. */
async function expectHeld(store: Store, key: string, lock: Lock, span = WHILE): Promise<void> {
  const giveUp = new AbortController();
  const outcome = store.lock(key, { ttl: LONG, signal: giveUp.signal }).then(
    (second) => (giveUp.signal.aborted ? undefined : second.fence),
    (error: unknown) => {
      if (!giveUp.signal.aborted) throw error;
    },
  );
  await Promise.race([outcome, sleep(span)]);
  giveUp.abort();
  equal(await outcome, undefined, 'the fencing number of a second holder');
  ok(!lock.lost.aborted, 'the lock is not lost');
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
