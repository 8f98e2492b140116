import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { StoreError } from '../../src/errors.ts';
import { withLocks } from '../../src/storage/cas-lock.ts';
import { memoryStore } from '../../src/storage/memory-store.ts';
import type { Lock, Store } from '../../src/storage/store.ts';
import { sleep } from '../../src/timers.ts';

/** Locks by compare-and-set, on a clock that stands until it is told to go on, and on records that can be got at. */

const TTL = 3_000;
/** By when who waits has looked again, in ms. */
const LONGEST_LOOK = 1_500;

let records: Store;
let stores: Store[];
/** What the clock is ahead of the timers. */
let ahead: number;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] });
  ahead = 0;
  vi.spyOn(performance, 'now').mockImplementation(() => Date.now() + ahead);
  records = memoryStore();
  stores = [];
});
afterEach(async () => {
  await Promise.all(stores.map((store) => store.close()));
  vi.useRealTimers();
  vi.restoreAllMocks();
});

/** A store with its locks in `records`, which it writes and reads in another way here. */
function opened({ get = (key) => records.get(key), set = (key, value, expected) => records.set(key, value, expected) }: Partial<Pick<Store, 'get' | 'set'>> = {}): Store {
  const store = withLocks(memoryStore(), { get, set, delete: () => never(), keys: () => never(), close: async () => undefined });
  stores.push(store);
  return store;
}

function never(): never {
  throw new Error('Locks need no such thing.');
}

/** What has become of a wish for the lock by now. */
function wish(store: Store, ttl = TTL): { lock?: Lock } {
  const outcome: { lock?: Lock } = {};
  void store.lock('key', { ttl }).then(
    (lock) => (outcome.lock = lock),
    () => undefined,
  );
  return outcome;
}

async function pass(time: number): Promise<void> {
  await vi.advanceTimersByTimeAsync(time);
}

async function writeRecord(record: object): Promise<void> {
  await records.set('key', JSON.stringify({ v: 1, holder: 'somebody', fence: 7, ttl: TTL, ...record }));
}

async function recordNow(): Promise<Record<string, unknown>> {
  return JSON.parse((await records.get('key'))?.value ?? 'null') as Record<string, unknown>;
}

describe('A lock by compare-and-set', () => {
  it.each([['shorter', 100], ['longer', 600_000]])('is taken over after the ttl of its holder, though the ttl of who waits is %s', async (_, ttl) => {
    await writeRecord({});
    const next = wish(opened(), ttl);
    await pass(TTL - 1);
    expect(next.lock).toBeUndefined();
    await pass(LONGEST_LOOK);
    expect(next.lock?.fence).toBe(8);
  });

  it('is renewed in time, for as long as it is held', async () => {
    const lock = await opened().lock('key', { ttl: TTL });
    const next = wish(opened());
    await pass(TTL * 20);
    expect([lock.lost.aborted, next.lock]).toEqual([false, undefined]);
    await lock.release();
    await pass(LONGEST_LOOK);
    expect(next.lock?.fence).toBe(lock.fence + 1);
  });

  it('leaves no timer when it is released, nor when the store is closed', async () => {
    const store = opened();
    const lock = await store.lock('key', { ttl: TTL });
    await lock.release();
    expect(vi.getTimerCount()).toBe(0);
    await store.lock('key', { ttl: TTL });
    wish(store);
    wish(opened());
    await pass(TTL);
    await Promise.all(stores.map((each) => each.close()));
    expect(vi.getTimerCount()).toBe(0);
  });

  it('is not taken over after a time in which nobody was awake, and its holder could not renew it', async () => {
    const lock = await opened().lock('key', { ttl: TTL });
    const next = wish(opened());
    await pass(TTL / 6);
    ahead += 3_600_000;
    await pass(TTL * 2);
    expect([lock.lost.aborted, next.lock]).toEqual([false, undefined]);
  });

  it('stays when renewing it fails for a moment', async () => {
    let failures = 0;
    const store = opened({
      set: (...all) => (failures-- > 0 ? Promise.reject(new StoreError('Not now.')) : records.set(...all)),
    });
    const lock = await store.lock('key', { ttl: TTL });
    const next = wish(opened());
    for (let round = 0; round < 5; round++) {
      failures = 1;
      await pass(TTL);
    }
    expect([lock.lost.aborted, next.lock]).toEqual([false, undefined]);
  });

  it.each<[string, () => Promise<string>]>([
    ['fails', () => Promise.reject(new StoreError('Not any more.'))],
    ['hangs', () => new Promise(() => undefined)],
  ])('is lost when renewing it %s for its ttl, before another can have it', async (_, renew) => {
    let broken = false;
    const store = opened({ set: (...all) => (broken ? renew() : records.set(...all)) });
    const lock = await store.lock('key', { ttl: TTL });
    const next = wish(opened());
    broken = true;
    await pass(TTL - 1);
    expect(lock.lost.aborted).toBe(false);
    await pass(1);
    expect([lock.lost.aborted, next.lock]).toEqual([true, undefined]);
    expect(lock.lost.reason).toBeInstanceOf(StoreError);
    await pass(LONGEST_LOOK);
    expect(next.lock?.fence).toBe(lock.fence + 1);
    stores.shift();
  });

  it('stays when only the answer to a renewal is lost, and can be released after it', async () => {
    let lose = false;
    const store = opened({
      async set(...all) {
        const revision = await records.set(...all);
        if (lose) throw new StoreError('The answer is lost.');
        return revision;
      },
    });
    const lock = await store.lock('key', { ttl: TTL });
    for (let round = 0; round < 3; round++) {
      lose = true;
      await pass(TTL / 3);
      lose = false;
      await pass(TTL / 3);
    }
    expect(lock.lost.aborted).toBe(false);
    lose = true;
    await pass(TTL / 3);
    lose = false;
    await lock.release();
    expect(await recordNow()).toMatchObject({ holder: null, fence: lock.fence });
  });

  it('is lost when another has it, and then left to that one', async () => {
    const lock = await opened().lock('key', { ttl: TTL });
    await writeRecord({ fence: lock.fence + 1 });
    await pass(TTL / 3);
    expect(lock.lost.aborted).toBe(true);
    await lock.release();
    expect(await recordNow()).toMatchObject({ holder: 'somebody', fence: lock.fence + 1 });
  });

  it('is lost when its record is gone, and the numbers go on from there all the same', async () => {
    const store = opened();
    const lock = await store.lock('key', { ttl: TTL });
    await lock.release();
    const second = await store.lock('key', { ttl: TTL });
    await records.delete('key');
    await pass(TTL / 3);
    expect(second.lost.aborted).toBe(true);
    expect((await store.lock('key', { ttl: TTL })).fence).toBeGreaterThan(second.fence);
  });

  it.each([['before', [0, 1]], ['after', [1, 0]]])('is released though a renewal is under way, which comes %s the release', async (_, order) => {
    const writes: (() => void)[] = [];
    let held = true;
    const store = opened({
      async set(...all) {
        if (all[2] !== null && held) await new Promise<void>((resolve) => writes.push(resolve));
        return records.set(...all);
      },
    });
    const lock = await store.lock('key', { ttl: TTL });
    await pass(TTL / 3);
    const released = lock.release();
    held = false;
    for (const index of order) {
      writes[index]?.();
      await pass(0);
    }
    await released;
    expect(await recordNow()).toMatchObject({ holder: null });
    expect(lock.lost.aborted).toBe(false);
    expect(vi.getTimerCount()).toBe(0);
  });

  it.each<[string, (giveUp: AbortController, store: Store) => unknown]>([
    ['who waited for it had given up', (giveUp) => giveUp.abort(new Error('Enough.'))],
    ['the store was closed', (_, store) => store.close()],
  ])('is given back when %s while it was being written', async (_, end) => {
    let goOn = (): void => undefined;
    const store = opened({
      async set(...all) {
        const revision = await records.set(...all);
        if (all[2] === null) await new Promise<void>((resolve) => (goOn = resolve));
        return revision;
      },
    });
    const giveUp = new AbortController();
    const waiting = store.lock('key', { ttl: TTL, signal: giveUp.signal });
    await pass(0);
    const ended = end(giveUp, store);
    await pass(0);
    expect(await recordNow()).toMatchObject({ holder: expect.any(String) as string });
    goOn();
    // Closing waits for it, and so does who gives up: whoever has heard of it may remove what is there.
    await expect(waiting).rejects.toThrow(/Enough|closed/);
    await ended;
    expect(await recordNow()).toMatchObject({ holder: null });
  });

  it.each<[string, number, () => Promise<never>]>([
    ['fails after 2.5 s', 2_500, () => sleep(2_500).then(() => Promise.reject(new StoreError('No answer.')))],
    ['never does', 3_000, () => new Promise(() => undefined)],
  ])('does not hold up the closing where one is held, one is asked for, and the store that is to answer %s', async (_, limit, hang) => {
    let hangs = false;
    const store = opened({
      get: (key) => (hangs ? hang() : records.get(key)),
      set: (...all) => (hangs ? hang() : records.set(...all)),
    });
    const { lost } = await store.lock('key', { ttl: TTL * 10 });
    hangs = true;
    const asked = store.lock('other', { ttl: TTL }).catch((error: unknown) => error);
    let closed = false;
    void store.close().then(() => (closed = true));
    await pass(limit);
    expect(closed).toBe(true);
    expect(lost.aborted).toBe(true);
    expect(await asked).toBeInstanceOf(StoreError);
    stores.shift();
  });

  it('is an error for who waits when the store fails', async () => {
    const cause = new StoreError('Not any more.');
    await expect(opened({ get: () => Promise.reject(cause) }).lock('key', { ttl: TTL })).rejects.toBe(cause);
    await expect(opened({ set: () => Promise.reject(cause) }).lock('key', { ttl: TTL })).rejects.toBe(cause);
  });

  it.each([['of a later version', '{"v":2,"holder":null}'], ['that is no JSON', 'lock'], ['that is nothing', 'null'], ['without a number', '{"v":1,"holder":null,"ttl":1}']])(
    'is refused where there is a record %s, which is left alone',
    async (_, text) => {
      await records.set('key', text);
      await expect(opened().lock('key', { ttl: TTL })).rejects.toMatchObject({ name: 'StoreError', message: expect.stringContaining('version') as string });
      expect((await records.get('key'))?.value).toBe(text);
    },
  );

  it('is looked at about once a second by who has to wait long, and by one of many in a store', async () => {
    await opened().lock('key', { ttl: 600_000 });
    let looks = 0;
    const store = opened({ get: (key) => (looks++, records.get(key)) });
    for (let count = 0; count < 20; count++) wish(store);
    await pass(10_000);
    looks = 0;
    await pass(20_000);
    expect(looks).toBeGreaterThan(12);
    expect(looks).toBeLessThan(41);
  });
});
