import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { type Lease, memoryStore, type PoolOptions } from '../../src/index.ts';
import { failure, say, started } from '../session/clients.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { poolOf } from './pool.parts.ts';

/** Holds every DELETE back until it is told to let go. */
function slowToEnd(): { readonly fetch: NonNullable<PoolOptions['fetch']>; letGo(): void } {
  let letGo = (): void => {};
  const held = new Promise<void>((resolve) => (letGo = resolve));
  return {
    fetch: async (url, init) => {
      if (init?.method === 'DELETE') await held;
      return fetch(url, init);
    },
    letGo,
  };
}

describe('the places of a pool', () => {
  let server: FixtureProcess;
  beforeAll(async () => {
    server = await startServer();
  });
  beforeEach(() => server.forget());
  afterAll(() => server.stop());

  it('go to those who wait in the order in which they came, whoever comes meanwhile or comes again', async () => {
    const pool = poolOf({ max: 1 });
    const order: string[] = [];
    const visit = async (principal: string, again = 0): Promise<void> => {
      const lease = await pool.lease(server.url, { principal });
      order.push(principal);
      lease.release();
      // In the same turn: those who wait have not run yet.
      if (again > 0) await visit(`${principal}+`, again - 1);
    };
    const first = await pool.lease(server.url, { principal: 'first' });
    const waiting = [visit('a', 2), visit('b'), visit('c', 1), visit('d')];
    await waitFor(() => pool.stats.waiting === 4);
    first.release();
    await Promise.all([...waiting, visit('e')]);
    expect(order).toEqual(['a', 'b', 'c', 'd', 'e', 'a+', 'c+', 'a++']);
  });

  it('are given to those who wait before the one who gives his back can take it again', async () => {
    const pool = poolOf({ max: 2 });
    const [one, other] = await Promise.all([pool.lease(server.url, { principal: 'one' }), pool.lease(server.url, { principal: 'other' })]);
    const waiting = pool.lease(server.url, { principal: 'waiting' });
    await waitFor(() => pool.stats.waiting === 1);
    one.release();
    const again = pool.lease(server.url, { principal: 'one' });
    const { client } = await waiting;
    expect(pool.stats).toMatchObject({ size: 2, leased: 2, leases: 2, waiting: 1 });
    expect(client.session.state).toBe('ready');
    other.release();
    expect((await again).client).not.toBe(one.client);
  });

  it('do for all at once who wait for the same client', async () => {
    const pool = poolOf({ max: 1, timeout: { connect: 5_000 } });
    const first = await pool.lease(server.url, { principal: 'first' });
    const same = Array.from({ length: 3 }, () => pool.lease(server.url, { principal: 'same' }));
    const other = pool.lease(server.url, { principal: 'other' });
    const late = pool.lease(server.url, { principal: 'same' });
    await waitFor(() => pool.stats.waiting === 5);
    first.release();
    const leases = await Promise.all([...same, late]);
    expect(new Set(leases.map(({ client }) => client)).size).toBe(1);
    expect(pool.stats).toEqual({ size: 1, leased: 1, closing: 0, leases: 4, waiting: 1 });
    for (const lease of leases) lease.release();
    await other;
  });

  it('are not all made free where one is missing', async () => {
    const pool = poolOf({ max: 3 });
    const idle = await Promise.all(['one', 'two', 'three'].map((principal) => pool.lease(server.url, { principal })));
    for (const lease of idle) lease.release();
    await Promise.all(Array.from({ length: 5 }, () => pool.lease(server.url, { principal: 'same' })));
    expect(idle.map(({ client }) => client.session.state)).toEqual(['closed', 'ready', 'ready']);
  });

  it('stay with those who still wait when others give up', async () => {
    const pool = poolOf({ max: 1 });
    const first = await pool.lease(server.url, { principal: 'first' });
    const stop = new AbortController();
    const given = [
      failure(pool.lease(server.url, { principal: 'same', signal: stop.signal })),
      failure(pool.lease(server.url, { principal: 'gone', signal: stop.signal })),
    ];
    const waiting = [pool.lease(server.url, { principal: 'same' }), pool.lease(server.url, { principal: 'last' })];
    await waitFor(() => pool.stats.waiting === 4);
    stop.abort(new Error('enough'));
    for (const error of await Promise.all(given)) expect(error.message).toBe('enough');
    first.release();
    (await waiting[0])?.release();
    (await waiting[1])?.release();
    expect(pool.stats).toMatchObject({ size: 1, leases: 0, waiting: 0 });
  });

  it('are not taken from a client with a call in flight, though its lease is back', async () => {
    const pool = poolOf({ max: 1 });
    const order: string[] = [];
    const busy = await pool.lease(server.url, { principal: 'busy' });
    const call = say(busy.client, 'work', { nonce: 'evicted', ms: 300 }).then((answer) => order.push(answer));
    await started(server, 'evicted');
    busy.release();
    const next = await pool.lease(server.url, { principal: 'next' });
    order.push('next');
    await call;
    expect(order).toEqual(['done:evicted', 'next']);
    next.release();
  });

  it('are free only when the client that had them is closed', async () => {
    const { fetch, letGo } = slowToEnd();
    onTestFinished(letGo);
    const pool = poolOf({ max: 2, fetch });
    const leases: Lease[] = [];
    for (const principal of ['one', 'two']) leases.push(await pool.lease(server.url, { principal }));
    for (const lease of leases) lease.release();
    const next = ['three', 'four', 'five'].map((principal) => pool.lease(server.url, { principal }));
    await waitFor(() => leases.every(({ client }) => client.session.state === 'closing'));
    expect(pool.stats).toEqual({ size: 0, leased: 0, closing: 2, leases: 0, waiting: 3 });
    letGo();
    (await next[0])?.release();
    await Promise.all(next);
    expect(leases.map(({ client }) => client.session.state)).toEqual(['closed', 'closed']);
  });

  it('get free also where a client cannot be closed', async () => {
    let stuck = false;
    const pool = poolOf({
      max: 1,
      fetch: async (url, init) => {
        if (init?.method !== 'DELETE' || stuck) return fetch(url, init);
        stuck = true;
        return new Promise<never>(() => {});
      },
    });
    (await pool.lease(server.url, { principal: 'stuck' })).release();
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    onTestFinished(() => void vi.useRealTimers());
    const next = pool.lease(server.url, { principal: 'next' });
    await vi.advanceTimersByTimeAsync(10_000);
    vi.useRealTimers();
    expect(await say((await next).client, 'echo', { text: 'free' })).toBe('free');
    expect(stuck).toBe(true);
  });

  it('change hands without a request where sessions are stored', async () => {
    const pool = poolOf({ max: 1, store: memoryStore() });
    const visit = (principal: string) => pool.use(server.url, { principal }, async (client) => (await client.ping(), client.session.id));
    const ids = [await visit('one'), await visit('two')];
    await server.clearRequests();
    expect([await visit('one'), await visit('two')]).toEqual(ids);
    const requests = await server.requests();
    expect(requests.map(({ http, rpc }) => rpc[0]?.method ?? http)).toEqual(['ping', 'ping']);
  });
});
