import { setImmediate as turn } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { ConnectionPool, type LeaseOptions, memoryStore, type PoolOptions, Sessions } from '../../src/index.ts';
import { failure, say } from '../session/clients.ts';
import { freePort } from '../support/ports.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { poolOf } from './pool.parts.ts';

async function serverOf(): Promise<FixtureProcess> {
  const server = await startServer();
  onTestFinished(() => server.stop());
  return server;
}

const initializes = async (server: FixtureProcess): Promise<number> => (await server.requests()).filter(({ rpc }) => rpc[0]?.method === 'initialize').length;

describe('a connection pool', () => {
  let server: FixtureProcess;
  beforeAll(async () => {
    server = await startServer();
  });
  beforeEach(async () => {
    await server.forget();
    await server.clearRequests();
  });
  afterAll(() => server.stop());

  it('connects when a client is first needed, and shares it among those who need it', async () => {
    const pool = poolOf();
    expect(await server.requests()).toEqual([]);
    const leases = await Promise.all(Array.from({ length: 20 }, () => pool.lease(server.url, { principal: 'ada' })));
    expect(new Set(leases.map(({ client }) => client)).size).toBe(1);
    expect(await initializes(server)).toBe(1);
    expect(pool.stats).toEqual({ size: 1, leased: 1, closing: 0, leases: 20, waiting: 0 });
    for (const lease of leases) lease.release();
    leases[0]?.release();
    expect(pool.stats).toEqual({ size: 1, leased: 0, closing: 0, leases: 0, waiting: 0 });
  });

  it('gives it back at the end of an await using, and of use()', async () => {
    const pool = poolOf();
    {
      await using lease = await pool.lease(server.url);
      expect(await say(lease.client, 'echo', { text: 'a' })).toBe('a');
      expect(pool.stats.leases).toBe(1);
    }
    expect(pool.stats.leases).toBe(0);
    expect(await pool.use(server.url, {}, (client) => say(client, 'echo', { text: 'b' }))).toBe('b');
    await expect(pool.use(server.url, {}, () => Promise.reject(new Error('mine')))).rejects.toThrow('mine');
    expect(pool.stats.leases).toBe(0);
  });

  it('G7 never lets the clients of two principals, sessions or servers meet', async () => {
    const other = await serverOf();
    const pool = poolOf({ store: memoryStore() });
    const leases = await Promise.all([
      pool.lease(server.url, { principal: 'ada', headers: { authorization: 'Bearer a' } }),
      pool.lease(server.url, { principal: 'alan', headers: { authorization: 'Bearer b' } }),
      pool.lease(server.url, { principal: 'ada', session: 'second', headers: { authorization: 'Bearer a' } }),
      pool.lease(server.url),
      pool.lease(other.url, { principal: 'ada' }),
    ]);
    await Promise.all(leases.map(({ client }) => client.ping()));
    expect(new Set(leases.map(({ client }) => client.session.id)).size).toBe(5);
    const [ada, alan] = leases.map(({ client }) => client.session.id);
    for (const { sessionId, headers } of await server.requests()) {
      if (sessionId === ada) expect(headers['authorization']).toBe('Bearer a');
      if (sessionId === alan) expect(headers['authorization']).toBe('Bearer b');
    }
  });

  it('wants to know whose headers they are', async () => {
    const pool = poolOf();
    await expect(pool.lease('http://localhost/mcp', { headers: { authorization: 'Bearer a' } })).rejects.toThrow(TypeError);
    await expect(pool.lease((() => undefined) as never)).rejects.toThrow(TypeError);
    expect(() => new ConnectionPool({ max: 0 })).toThrow(RangeError);
    expect(() => new ConnectionPool({ idleTimeout: -1 })).toThrow(RangeError);
    expect(() => new ConnectionPool({ wrong: 1 } as PoolOptions)).toThrow(TypeError);
  });

  it('takes no options that belong to one user: they would be sent on behalf of all', () => {
    const personal: LeaseOptions = {
      session: 'second',
      principal: 'boss',
      metadata: {},
      authProvider: { tokens: () => undefined } as unknown as NonNullable<LeaseOptions['authProvider']>,
      headers: { authorization: 'Bearer boss' },
      on: {},
      signal: new AbortController().signal,
    };
    for (const [name, value] of Object.entries(personal)) {
      const options = { max: 2, [name]: value };
      expect(() => new ConnectionPool(options), name).toThrow(TypeError);
      expect(() => new ConnectionPool(options), name).toThrow(`${name} belongs to one user or session`);
      expect(() => new ConnectionPool(options), name).toThrow('give it to lease()');
    }
  });

  it('knows what belongs to a lease, also where the client is there already', async () => {
    const pool = poolOf();
    await pool.lease(server.url);
    await expect(pool.lease(server.url, { principle: 'ada' } as LeaseOptions)).rejects.toThrow(TypeError);
    await expect(pool.lease(server.url, { store: memoryStore() } as LeaseOptions)).rejects.toThrow(TypeError);
    await expect(pool.lease(server.url, { principal: 1 } as unknown as LeaseOptions)).rejects.toThrow(TypeError);
    expect(pool.stats.leases).toBe(1);
  });

  it('does not keep a failure', async () => {
    const server = await serverOf();
    await server.kill();
    const pool = poolOf({ retry: false });
    const failed = await Promise.all(Array.from({ length: 3 }, () => failure(pool.lease(server.url))));
    for (const error of failed) expect(error['code']).toBe('UNREACHABLE');
    expect(pool.stats).toMatchObject({ size: 0, leased: 0, leases: 0, waiting: 0 });
    await server.restart();
    expect(await pool.use(server.url, {}, (client) => say(client, 'echo', { text: 'back' }))).toBe('back');
  });

  it('is not held up by a server that does not answer', async () => {
    const hanging = await serverOf();
    await hanging.behave({ hang: { onlyMethod: 'initialize', times: 100 } });
    const pool = poolOf({ timeout: { connect: 10_000 } });
    const stop = new AbortController();
    const stuck = failure(pool.lease(hanging.url, { signal: stop.signal }));
    expect(await pool.use(server.url, {}, (client) => say(client, 'echo', { text: 'free' }))).toBe('free');
    stop.abort(new Error('no longer wanted'));
    expect((await stuck).message).toBe('no longer wanted');
    expect(pool.stats.leases).toBe(0);
  });

  it('closes the client that was not used the longest where it needs its place, and takes its session up again later', async () => {
    const pool = poolOf({ max: 2, store: memoryStore() });
    const idOf = (principal: string) => pool.use(server.url, { principal }, async (client) => (await client.ping(), client.session.id));
    const first = await idOf('one');
    await idOf('two');
    await idOf('one');
    await idOf('three');
    expect(pool.stats.size).toBe(2);
    await server.clearRequests();
    expect(await idOf('one')).toBe(first);
    await idOf('two');
    expect(await initializes(server)).toBe(0);
  });

  it('waits for a place where all are in use, in order', async () => {
    const pool = poolOf({ max: 1 });
    const first = await pool.lease(server.url, { principal: 'one' });
    const order: string[] = [];
    const waiting = ['two', 'three'].map(async (principal) => {
      const lease = await pool.lease(server.url, { principal });
      order.push(principal);
      lease.release();
    });
    await waitFor(() => pool.stats.waiting === 2);
    first.release();
    await Promise.all(waiting);
    expect(order).toEqual(['two', 'three']);
  });

  it('says so where none gets free in time, and lets an abort through', async () => {
    const pool = poolOf({ max: 1, timeout: { connect: 200 } });
    await pool.lease(server.url, { principal: 'one' });
    expect(await failure(pool.lease(server.url, { principal: 'two' }))).toMatchObject({ code: 'DEADLINE', outcome: 'not-sent' });
    const stop = new AbortController();
    const aborted = failure(pool.lease(server.url, { principal: 'two', signal: stop.signal }));
    await waitFor(() => pool.stats.waiting === 1);
    stop.abort(new Error('enough'));
    expect((await aborted).message).toBe('enough');
    expect(pool.stats.waiting).toBe(0);
  });

  it('closes a client that nobody has needed for a while', async () => {
    const pool = poolOf({ idleTimeout: 50 });
    const lease = await pool.lease(server.url);
    lease.release();
    await waitFor(() => pool.stats.size === 0);
    await waitFor(async () => (await server.sessions()).length === 0);
  });

  it('does not close a client in the middle of a call, however long that takes: its idle time begins afterwards', async () => {
    const pool = poolOf({ idleTimeout: 100 });
    const lease = await pool.lease(server.url);
    const call = say(lease.client, 'work', { nonce: 'before', ms: 300 });
    lease.release();
    expect(await call).toBe('done:before');
    expect(pool.stats.size).toBe(1);
    expect(await say(lease.client, 'work', { nonce: 'after', ms: 300 })).toBe('done:after');
    expect(pool.stats.size).toBe(1);
    await waitFor(() => pool.stats.size === 0);
  });

  it('replaces a client that was closed behind its back', async () => {
    const pool = poolOf();
    const lease = await pool.lease(server.url);
    await lease.client.close();
    lease.release();
    expect(await pool.use(server.url, {}, (client) => say(client, 'echo', { text: 'anew' }))).toBe('anew');
  });

  it('hands out no client that was closed behind its back, though others still have it', async () => {
    const pool = poolOf();
    const [closer, holder] = await Promise.all([pool.lease(server.url), pool.lease(server.url)]);
    const closing = closer.client.close();
    const meanwhile = await pool.lease(server.url);
    await closing;
    const later = await pool.lease(server.url);
    expect(later.client).toBe(meanwhile.client);
    expect(later.client).not.toBe(holder.client);
    expect(await say(later.client, 'echo', { text: 'anew' })).toBe('anew');
    for (const lease of [closer, holder, meanwhile, later]) lease.release();
    expect(pool.stats).toMatchObject({ size: 1, leased: 0, leases: 0 });
  });

  it('lets calls finish when it is closed, and leases no more', async () => {
    const server = await serverOf();
    const pool = poolOf();
    const call = pool.use(server.url, {}, (client) => say(client, 'work', { nonce: 'last', ms: 300 }));
    await waitFor(async () => (await server.executions()).length === 1);
    const closed = pool.close();
    expect(await failure(pool.lease(server.url))).toMatchObject({ code: 'CLOSED' });
    expect(await call).toBe('done:last');
    await closed;
    expect(await server.sessions()).toEqual([]);
  });

  it('lets calls finish when it is closed whose lease is back already, and what a batch has not yet begun', async () => {
    const server = await serverOf();
    const pool = poolOf();
    const lease = await pool.lease(server.url);
    const call = say(lease.client, 'work', { nonce: 'call', ms: 300 });
    const requests = ['first', 'second'].map((nonce) => ({ method: 'tools/call' as const, params: { name: 'work', arguments: { nonce, ms: 300 } } }));
    const batch = lease.client.batch(requests, { concurrency: 1, wire: 'single' });
    await waitFor(async () => (await server.executions()).length === 2);
    lease.release();
    await pool.close();
    expect(await call).toBe('done:call');
    expect((await batch).map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled']);
    expect(await server.sessions()).toEqual([]);
  });

  it('waits no longer than it was told for a call whose lease is back already', async () => {
    const server = await serverOf();
    const pool = poolOf();
    const lease = await pool.lease(server.url);
    const call = failure(say(lease.client, 'work', { nonce: 'long', ms: 60_000 }));
    await waitFor(async () => (await server.executions()).length === 1);
    lease.release();
    await pool.close({ timeout: 100 });
    expect(await call).toMatchObject({ code: 'CLOSED', outcome: 'unknown' });
  });

  it('is not closed in a way that makes no sense', async () => {
    const pool = poolOf();
    const refused: [options: unknown, error: typeof TypeError | typeof RangeError][] = [
      [{ timeout: Number.NaN }, TypeError],
      [{ timeout: 'soon' }, TypeError],
      [{ timeout: null }, TypeError],
      [{ timeout: -1 }, RangeError],
      [{ wrong: 1 }, TypeError],
      [null, TypeError],
    ];
    for (const [options, error] of refused) await expect(pool.close(options as { timeout: number })).rejects.toThrow(error);
    expect(await pool.use(server.url, {}, (client) => say(client, 'echo', { text: 'open' }))).toBe('open');
    const lease = await pool.lease(server.url);
    await pool.close({ timeout: 0 });
    expect(lease.client.session.state).toBe('closed');
  });

  it('waits no longer than it was told when it is closed', async () => {
    const server = await serverOf();
    const pool = poolOf();
    const call = failure(pool.use(server.url, {}, (client) => say(client, 'work', { nonce: 'long', ms: 60_000 })));
    await waitFor(async () => (await server.executions()).length === 1);
    await pool.close({ timeout: 100 });
    expect(await call).toMatchObject({ code: 'CLOSED', outcome: 'unknown' });
    expect(pool.stats.size).toBe(0);
  });

  it('fails those who wait for a place when it is closed', async () => {
    const pool = poolOf({ max: 1 });
    const lease = await pool.lease(server.url, { principal: 'one' });
    const waiting = failure(pool.lease(server.url, { principal: 'two' }));
    await waitFor(() => pool.stats.waiting === 1);
    const closed = pool.close();
    expect(await waiting).toMatchObject({ code: 'CLOSED' });
    lease.release();
    await closed;
  });

  it('G11 leaves no rejection unhandled where a client cannot connect and nobody waits any more', async () => {
    const pool = poolOf({ retry: false });
    const stop = new AbortController();
    const lease = failure(pool.lease(`http://127.0.0.1:${await freePort()}/mcp`, { signal: stop.signal }));
    stop.abort(new Error('gone'));
    await lease;
    await turn();
    await waitFor(() => pool.stats.size === 0);
  });

  it('holds 1,000 live sessions of 10,000 stored ones', async () => {
    const store = memoryStore();
    const pool = poolOf({ max: 1_000, store, timeout: { connect: 60_000, call: 60_000 } });
    const users = Array.from({ length: 1_000 }, (_, i) => `user ${i}`);
    const leases = await Promise.all(users.map((principal) => pool.lease(server.url, { principal })));
    const first = new Map(leases.map(({ client }, i) => [users[i], client.session.id]));
    expect(new Set(first.values()).size).toBe(1_000);
    expect(pool.stats).toMatchObject({ size: 1_000, leased: 1_000 });
    // What nine thousand others have left there is in nobody's way.
    const [key = ''] = leases.map(({ client }) => client.session.key ?? '');
    const record = (await store.get(key))?.value ?? '';
    for (let i = 0; i < 9_000; i++) await store.set(`${key}-${i}`, record);
    expect(await new Sessions(store).stats()).toMatchObject({ total: 10_000, active: 10_000, expired: 0, unreadable: 0 });
    const answers = await Promise.all(leases.map(({ client }, i) => say(client, 'echo', { text: `${users[i]}` })));
    expect(answers).toEqual(users);
    for (const lease of leases) lease.release();
    await pool.close();
    expect(pool.stats.size).toBe(0);
  }, 90_000);
});
