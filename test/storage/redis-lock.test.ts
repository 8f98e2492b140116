import { describe, expect, it, onTestFinished } from 'vitest';
import { StoreError } from '../../src/errors.ts';
import { runScript } from '../support/client-process.ts';
import { waitFor } from '../support/wait.ts';
import { kinds } from './redis-clients.ts';
import { admin, failureOf, newPrefix, redisUrl, removeAll, storeOf } from './redis-parts.ts';
import type { Said, Told } from './redis-store.process.ts';

const LONG = 60_000;

describe.skipIf(!redisUrl).each(kinds)('A lock in Redis, by a client of %s', (kind) => {
  it('is renewed before its ttl is over', async () => {
    const prefix = newPrefix();
    const redis = admin();
    const lock = await storeOf(kind, { prefix }).lock('key', { ttl: 2_000 });
    await waitFor(async () => (await redis.pttl(`${prefix}lock:key`)) < 1_700);
    await waitFor(async () => (await redis.pttl(`${prefix}lock:key`)) > 1_800, { what: 'a renewal' });
    expect(lock.lost.aborted).toBe(false);
  });

  it.each(['is gone', 'is another\'s'])('is lost when it %s in Redis, and does not take it back', async (fate) => {
    const prefix = newPrefix();
    const redis = admin();
    const lock = await storeOf(kind, { prefix }).lock('key', { ttl: 1_000 });
    await (fate === 'is gone' ? redis.del(`${prefix}lock:key`) : redis.set(`${prefix}lock:key`, 'theirs'));
    await waitFor(() => lock.lost.aborted, { what: 'the loss' });
    expect(lock.lost.reason).toBeInstanceOf(StoreError);
    await lock.release();
    expect(await redis.get(`${prefix}lock:key`)).toBe(fate === 'is gone' ? null : 'theirs');
  });

  it('has a greater fence than before when the server has lost the counter', async () => {
    const prefix = newPrefix();
    const store = storeOf(kind, { prefix });
    const first = await store.lock('key', { ttl: LONG });
    await first.release();
    expect(await admin().del(`${prefix}fence`)).toBe(1);
    expect((await store.lock('key', { ttl: LONG })).fence).toBeGreaterThan(first.fence);
  });

  it('has a greater fence than before when the server\'s clock was set back', async () => {
    const prefix = newPrefix();
    const store = storeOf(kind, { prefix });
    const ahead = (Date.now() + 3_600_000) * 1_000;
    await admin().set(`${prefix}fence`, `${ahead}`);
    expect((await store.lock('a', { ttl: LONG })).fence).toBe(ahead + 1);
    expect((await store.lock('b', { ttl: LONG })).fence).toBe(ahead + 2);
  });

  it('leaves nothing but the counter in Redis when it is released or given up', async () => {
    const prefix = newPrefix();
    const store = storeOf(kind, { prefix });
    const lock = await store.lock('key', { ttl: LONG });
    await expect(store.lock('key', { ttl: LONG, signal: AbortSignal.timeout(50) })).rejects.toMatchObject({ name: 'TimeoutError' });
    await lock.release();
    expect(await admin().keys(`${prefix}*`)).toEqual([`${prefix}fence`]);
  });

  it('is free in Redis when the store is closed, and the waiting ends', async () => {
    const prefix = newPrefix();
    const store = storeOf(kind, { prefix });
    const { lost } = await store.lock('key', { ttl: LONG });
    const waiting = failureOf(store.lock('key', { ttl: LONG }));
    const asked = failureOf(store.lock('other', { ttl: LONG }));
    await store.close();
    expect(await admin().keys(`${prefix}lock:*`)).toEqual([]);
    expect(lost.reason).toBeInstanceOf(StoreError);
    expect(await waiting).toBeInstanceOf(StoreError);
    expect(await asked).toBeInstanceOf(StoreError);
  });

  it('does not keep its process alive', async () => {
    const prefix = newPrefix();
    onTestFinished(() => removeAll(prefix));
    await using holder = runScript<Told, Said>(new URL('./redis-store.process.ts', import.meta.url), ['hold', kind, redisUrl, prefix, 'key', `${LONG}`]);
    await holder.next('held');
    holder.send({ type: 'leave' });
    await expect(holder.exit).resolves.toEqual({ code: 0, signal: null });
  });
});

describe.skipIf(!redisUrl)('A lock in Redis', () => {
  it('excludes the other kind of client', async () => {
    const prefix = newPrefix();
    const [one, other] = [storeOf('node-redis', { prefix }), storeOf('ioredis', { prefix })];
    let last = 0;
    for (const [holder, next] of [[one, other], [other, one]] as const) {
      const lock = await holder.lock('key', { ttl: LONG });
      await expect(next.lock('key', { ttl: LONG, signal: AbortSignal.timeout(100) })).rejects.toMatchObject({ name: 'TimeoutError' });
      expect(lock.fence).toBeGreaterThan(last);
      last = lock.fence;
      await lock.release();
    }
  });
});
