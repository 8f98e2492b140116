import { randomUUID } from 'node:crypto';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished, test } from 'vitest';
import { type ConnectOptions, ConnectionPool } from '../../src/index.ts';
import { presets } from '../../src/node.ts';
import { clientOf, connected, failure, heardFrom, say, temporaryDirectory, wireOf } from '../session/clients.ts';
import { admin, clientOf as redisOf, redisUrl, removeAll } from '../storage/redis-parts.ts';
import { kinds } from '../storage/redis-clients.ts';
import { freePort } from '../support/ports.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';

const HOUR = 3_600_000;

let server: FixtureProcess;
beforeAll(async () => void (server = await startServer()));
afterAll(() => server.stop());
beforeEach(async () => {
  await server.forget();
  await server.clearRequests();
});

/** A Redis that is not there: whoever asks it something hears so. */
const noRedis = { call: () => Promise.reject(new Error('no Redis')) };

/** All that a preset has, without its store, which is an object with a life of its own. */
function values({ store, ...rest }: ConnectOptions): Omit<ConnectOptions, 'store'> {
  expect(store).toMatchObject({ get: expect.any(Function), lock: expect.any(Function) });
  return rest;
}

describe('what the presets say', () => {
  test.each([
    ['development', () => presets.development(), { ttl: HOUR / 6, timeout: { connect: 5_000, call: 30_000 }, history: { size: 1_000, payloads: true } }],
    ['singleNode', () => presets.singleNode({ directory: '/nowhere' }), { ttl: 24 * HOUR }],
    ['fleet', () => presets.fleet({ redis: noRedis }), { ttl: 24 * HOUR, concurrency: 32, circuitBreaker: { failures: 10 } }],
  ] as const)('%s is a plain object with the values of its documentation, and makes a new one each time', (_, preset, expected) => {
    const [one, two] = [preset(), preset()];
    expect(Object.getPrototypeOf(one)).toBe(Object.prototype);
    expect(values(one)).toEqual(expected);
    expect(two.store).not.toBe(one.store);
  });

  test.each([
    ['development', () => presets.development()],
    ['singleNode', () => presets.singleNode({ directory: '/nowhere' })],
    ['fleet', () => presets.fleet({ redis: noRedis })],
  ] as const)('%s passes the checks of a client and of a pool, and a value of one\'s own wins', async (_, preset) => {
    expect(() => clientOf(server.url, preset())).not.toThrow();
    expect(() => clientOf(server.url, { ...preset(), concurrency: 0 })).toThrow(RangeError);
    const pool = new ConnectionPool({ ...preset(), max: 2, idleTimeout: 1000 });
    onTestFinished(() => pool.close());
    expect(() => new ConnectionPool({ ...preset(), ttl: -1 })).toThrow(RangeError);
  });

  test('fleet wants a client of Redis', () => {
    expect(() => presets.fleet({ redis: {} as never })).toThrow(TypeError);
  });

  test('fleet wants a ttl that makes sense, and leaves what a client knows to the client', () => {
    for (const ttl of [0, -1]) expect(() => presets.fleet({ redis: noRedis, ttl })).toThrow(RangeError);
    expect(() => presets.fleet({ redis: noRedis, ttl: '1 h' as never })).toThrow(TypeError);
    expect(() => presets.fleet({ redis: noRedis, concurrency: 8 } as never)).toThrow('presets.fleet has no "concurrency"; it knows redis, ttl.');
  });
});

describe('development', () => {
  it('keeps sessions in memory: those of one preset meet, those of two do not', async () => {
    const options = presets.development();
    const first = await connected(server.url, options);
    const { id } = first.session;
    await first.close();
    const again = await connected(server.url, options);
    expect(again.session).toMatchObject({ id, resumed: true });
    const lifetime = Number(again.session.expiresAt) - Number(again.session.lastUsedAt);
    expect(lifetime).toBe(HOUR / 6);
    expect((await connected(server.url, presets.development())).session.resumed).toBe(false);
  });

  it('keeps arguments and results in the history', async () => {
    const client = await connected(server.url, presets.development());
    await say(client, 'echo', { text: 'seen' });
    const line = client.history().find(({ method }) => method === 'tools/call');
    expect(JSON.stringify(line)).toMatch(/"arguments":\{"text":"seen"\}.*"content":\[\{"type":"text","text":"seen"\}\]/);
  });
});

describe('singleNode', () => {
  it('keeps sessions as files in the directory, which a client with a store of its own takes up', async () => {
    const directory = join(await temporaryDirectory(), 'made', 'when needed');
    const first = await connected(server.url, presets.singleNode({ directory }));
    const { id } = first.session;
    const { warning } = heardFrom(first);
    await say(first, 'echo', { text: 'one' });
    await first.close();
    expect((await readdir(directory)).length).toBeGreaterThan(0);
    const second = await connected(server.url, presets.singleNode({ directory }));
    expect(await say(second, 'echo', { text: 'two' })).toBe('two');
    expect(second.session).toMatchObject({ id, resumed: true });
    expect(Number(second.session.expiresAt) - Number(second.session.lastUsedAt)).toBe(24 * HOUR);
    expect(await wireOf(server, 'initialize')).toHaveLength(1);
    expect(warning).toEqual([]);
  });

  it('tells of a damaged file', async () => {
    const directory = await temporaryDirectory();
    const told: unknown[] = [];
    const { store } = presets.singleNode({ directory, onDamaged: (info) => told.push(info) });
    await store?.set('key', 'value');
    const [name = ''] = await readdir(directory);
    await writeFile(join(directory, name), 'damage');
    expect(await store?.get('key')).toBeUndefined();
    expect(told).toMatchObject([{ key: 'key' }]);
    expect(() => presets.singleNode({ directory, ondamaged: () => undefined } as never)).toThrow(TypeError);
  });

  it('keeps two directories apart', async () => {
    const directory = await temporaryDirectory();
    await mkdir(join(directory, 'b'));
    const [a, b] = await Promise.all(['a', 'b'].map((each) => connected(server.url, presets.singleNode({ directory: join(directory, each) }))));
    expect(a?.session.id).not.toBe(b?.session.id);
  });

  it('goes into a pool, whose next one takes the sessions up', async () => {
    const directory = await temporaryDirectory();
    const ids: (string | undefined)[] = [];
    for (let round = 0; round < 2; round++) {
      await using pool = new ConnectionPool({ ...presets.singleNode({ directory }), max: 10 });
      for (const principal of ['ada', 'alan']) {
        ids.push(await pool.use(server.url, { principal }, async (client) => {
          expect(client.session.resumed).toBe(round === 1);
          expect(await say(client, 'echo', { text: principal })).toBe(principal);
          return client.session.id;
        }));
      }
    }
    expect(ids.slice(2)).toEqual(ids.slice(0, 2));
    expect(new Set(ids).size).toBe(2);
    expect(await wireOf(server, 'initialize')).toHaveLength(2);
  });
});

describe('fleet', () => {
  /** A session of this test's own: the Redis may be somebody's, and the preset has no prefix to tell tests apart. */
  function ownSession(): string {
    const session = randomUUID();
    onTestFinished(() => removeAll(session));
    return session;
  }

  describe.skipIf(redisUrl === '')('with Redis', () => {
    test.each(kinds)('keeps sessions there, and another client with a connection of its own takes them up (%s)', async (kind) => {
      const session = ownSession();
      const first = await connected(server.url, { ...presets.fleet({ redis: redisOf(kind) }), session });
      const { id } = first.session;
      const { warning } = heardFrom(first);
      await say(first, 'echo', { text: 'one' });
      const second = await connected(server.url, { ...presets.fleet({ redis: redisOf(kind) }), session });
      expect(await say(second, 'echo', { text: 'two' })).toBe('two');
      expect(second.session).toMatchObject({ id, resumed: true });
      await first.close();
      await second.close();
      const third = await connected(server.url, { ...presets.fleet({ redis: redisOf(kind) }), session });
      expect(third.session).toMatchObject({ id, resumed: true });
      expect(await wireOf(server, 'initialize')).toHaveLength(1);
      expect(warning).toEqual([]);
    });

    test.each([
      ['an hour longer than its ttl', 48 * HOUR, 49 * HOUR],
      ['for ever', Number.POSITIVE_INFINITY, -1],
    ])('keeps a session %s', async (_, ttl, kept) => {
      const session = ownSession();
      const client = await connected(server.url, { ...presets.fleet({ redis: redisOf('ioredis'), ttl }), session });
      await say(client, 'echo', { text: 'long' });
      await client.close();
      const [name = ''] = await admin().keys(`*session/*${session}`);
      const left = await admin().pttl(name);
      if (kept === -1) expect(left).toBe(-1);
      else expect([left <= kept, left > kept - HOUR / 2]).toEqual([true, true]);
      expect(client.session.expiresAt).toBe(kept === -1 ? undefined : Number(client.session.lastUsedAt) + ttl);
    });

    it('goes into a pool', async () => {
      const session = ownSession();
      for (let round = 0; round < 2; round++) {
        await using pool = new ConnectionPool({ ...presets.fleet({ redis: redisOf('ioredis') }), max: 10 });
        await using lease = await pool.lease(server.url, { session });
        expect(await say(lease.client, 'echo', { text: 'pooled' })).toBe('pooled');
        expect(lease.client.session.resumed).toBe(round === 1);
      }
    });
  });

  it('has at most 32 calls in flight', async () => {
    const client = await connected(server.url, { ...presets.fleet({ redis: noRedis }), listen: false });
    const calls = Array.from({ length: 40 }, (_, i) => failure(say(client, 'work', { nonce: `in flight ${i}`, ms: 600_000 })));
    await waitFor(() => client.metrics().queueLength === 8);
    const working = async (): Promise<number> => (await server.executions()).filter(({ nonce }) => nonce.startsWith('in flight')).length;
    await waitFor(async () => (await working()) === 32);
    expect(client.metrics()).toMatchObject({ inFlight: 32, queueLength: 8 });
    await client.close();
    await Promise.all(calls);
    expect(await working()).toBe(32);
  });

  it('fails calls at once after 10 that could not reach the server', async () => {
    const { circuitBreaker } = presets.fleet({ redis: noRedis });
    const own = await startServer({ port: await freePort() });
    onTestFinished(() => own.stop());
    const client = await connected(own.url, { ...presets.fleet({ redis: noRedis }), listen: false, retry: false });
    await own.kill();
    expect(circuitBreaker).toEqual({ failures: 10 });
    const codes: unknown[] = [];
    for (let i = 0; i < 11; i++) codes.push((await failure(say(client, 'echo', { text: 'x' })))['code']);
    expect(codes).toEqual([...Array.from({ length: 10 }, () => 'UNREACHABLE'), 'CIRCUIT_OPEN']);
  });

  it('goes on without its Redis, with one warning (G8)', async () => {
    const client = clientOf(server.url, presets.fleet({ redis: noRedis }));
    const { warning } = heardFrom(client);
    await client.connect();
    expect(await say(client, 'echo', { text: 'on' })).toBe('on');
    expect(warning).toHaveLength(1);
  });
});
