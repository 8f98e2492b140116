import { describe, expect, it } from 'vitest';
import { StoreError } from '../../src/errors.ts';
import type { Store } from '../../src/storage/store.ts';
import { freePort } from '../support/ports.ts';
import type { TcpProxy } from '../support/proxy.ts';
import { waitFor } from '../support/wait.ts';
import { type Kind, kinds } from './redis-clients.ts';
import { type AtEnd, failureOf, listed, newPrefix, proxyToRedis, redisUrl, storeOf } from './redis-parts.ts';

/** A store behind a bad network, and another over the same data with a good one. */
async function behindProxy(kind: Kind, atEnd: AtEnd): Promise<{ store: Store; other: Store; proxy: TcpProxy }> {
  const proxy = await proxyToRedis();
  atEnd(() => proxy.stop());
  const prefix = newPrefix();
  const other = storeOf(kind, { prefix, atEnd });
  const store = storeOf(kind, { prefix, url: proxy.url.href, atEnd });
  await store.set('key', 'value');
  return { store, other, proxy };
}

/** What is not done in time, is not done later: not when the server reads on, and not when the client has connected again. */
async function expectNothingLater({ store, other }: { store: Store; other: Store }, works: () => Promise<unknown>): Promise<void> {
  await Promise.all([
    ...[store.get('key'), listed(store), store.set('key', 'late'), store.set('new', 'late', null), store.lock('key', { ttl: 60_000 })],
    store.delete('other'),
  ].map((use) => expect(use).rejects.toSatisfy((error: Error) => error instanceof StoreError && error.name === 'StoreError')));
  await works();
  // It comes after all that was sent or queued before.
  expect((await store.get('key'))?.value).toBe('value');
  expect(await listed(other)).toEqual(['key', 'other']);
  await (await other.lock('key', { ttl: 60_000 })).release();
  await store.set('key', 'again');
}

/** Lets the next answer of Redis come to the proxy and no further, and new connections wait until the function that it returns is called. */
function loseAnswer(proxy: TcpProxy): { lost: Promise<void>; reconnect: () => Promise<void> } {
  const lost = new Promise<void>((resolve) => {
    proxy.onResponseChunk(() => {
      proxy.onResponseChunk(undefined);
      proxy.refuse();
      resolve();
      return 0;
    });
  });
  return { lost, reconnect: () => proxy.accept() };
}

// Side by side, because most of them wait for a limit.
describe.skipIf(!redisUrl).concurrent.each(kinds)('The Redis store with a client of %s', (kind) => {
  it('fails when nobody is there', async ({ onTestFinished }) => {
    const store = storeOf(kind, { url: `redis://127.0.0.1:${await freePort()}`, atEnd: onTestFinished });
    await expect(store.get('key')).rejects.toBeInstanceOf(StoreError);
  });

  it('does nothing later that failed because the server was silent, and works again when it speaks', async ({ onTestFinished }) => {
    const { store, other, proxy } = await behindProxy(kind, onTestFinished);
    await other.set('other', 'value');
    proxy.blackhole(true);
    await expectNothingLater({ store, other }, async () => proxy.blackhole(false));
  });

  it('does nothing later that failed because the server was gone, and works again when it is back', async ({ onTestFinished }) => {
    const { store, other, proxy } = await behindProxy(kind, onTestFinished);
    await other.set('other', 'value');
    proxy.refuse();
    proxy.cut();
    // From now on the client knows, and keeps what it is to send.
    await failureOf(store.get('key'));
    await expectNothingLater({ store, other }, async () => {
      await proxy.accept();
      await waitFor(() => store.get('key').catch(() => undefined), { what: 'a store that works again' });
    });
  });

  it('does a read-modify-write once whose answer is lost, and tells of no conflict that there was not', async ({ onTestFinished }) => {
    const { store, other, proxy } = await behindProxy(kind, onTestFinished);
    const { revision } = (await store.get('key')) ?? {};
    const { lost, reconnect } = loseAnswer(proxy);
    const writing = store.set('key', 'ours', revision);
    const outcome = writing.then(
      () => 'written',
      (error: Error) => error.name,
    );
    await lost;
    const ours = await other.get('key');
    expect(ours?.value).toBe('ours');
    await other.set('key', 'theirs', ours?.revision);
    await reconnect();
    expect(await outcome).toBe(kind === 'ioredis' ? 'written' : 'StoreError');
    await waitFor(() => store.get('key').catch(() => undefined), { what: 'a store that works again' });
    expect((await store.get('key'))?.value).toBe('theirs');
  });

  it('undoes nothing that others did after a write or a removal whose answer is lost', async ({ onTestFinished }) => {
    const { store, other, proxy } = await behindProxy(kind, onTestFinished);
    for (const change of [() => store.set('key', 'ours'), () => store.delete('key')]) {
      const { lost, reconnect } = loseAnswer(proxy);
      const changing = change().catch((error: unknown) => error);
      await lost;
      await other.set('key', 'theirs');
      await reconnect();
      await (kind === 'ioredis' ? expect(changing).resolves.not.toBeInstanceOf(Error) : expect(changing).resolves.toBeInstanceOf(StoreError));
      await waitFor(() => store.get('key').catch(() => undefined), { what: 'a store that works again' });
      expect((await other.get('key'))?.value).toBe('theirs');
    }
  });

  it('holds a lock that it told of, and no other, when the answer is lost', async ({ onTestFinished }) => {
    const { store, other, proxy } = await behindProxy(kind, onTestFinished);
    const { lost, reconnect } = loseAnswer(proxy);
    const locking = store.lock('key', { ttl: 60_000 }).catch((error: unknown) => error as StoreError);
    await lost;
    await reconnect();
    const outcome = await locking;
    if (outcome instanceof Error) expect(outcome).toBeInstanceOf(StoreError);
    else await outcome.release();
    expect((await other.lock('key', { ttl: 60_000 })).lost.aborted).toBe(false);
  });

  it('loses a lock whose server it cannot reach in time, and another gets it', async ({ onTestFinished }) => {
    const { store, other, proxy } = await behindProxy(kind, onTestFinished);
    const { lost, fence } = await store.lock('key', { ttl: 1_000 });
    proxy.blackhole(true);
    const next = await other.lock('key', { ttl: 60_000 });
    expect(next.fence).toBeGreaterThan(fence);
    await waitFor(() => lost.aborted);
    expect(lost.reason).toBeInstanceOf(StoreError);
    proxy.blackhole(false);
    await store.get('key');
    expect(next.lost.aborted).toBe(false);
  });

  it('is closed although its locks and uses get no answer', async ({ onTestFinished }) => {
    const { store, proxy } = await behindProxy(kind, onTestFinished);
    await store.lock('held', { ttl: 60_000 });
    proxy.blackhole(true);
    const uses = [store.get('key'), store.set('key', 'value'), store.lock('key', { ttl: 60_000 })].map(failureOf);
    await store.close();
    for (const error of await Promise.all(uses)) expect(error).toBeInstanceOf(StoreError);
  });
});
