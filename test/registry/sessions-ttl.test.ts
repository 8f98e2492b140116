import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { type ConnectOptions, memoryStore, ResilientClient, Sessions, type Store, type StoredSession } from '../../src/index.ts';
import { bare } from '../session/bare.ts';
import { clientOf, connected, failure, heardFrom, say, wellBehaved, wireOf } from '../session/clients.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { HOUR, keysIn, kinds, put, storeOf } from './sessions.parts.ts';

let server: FixtureProcess;
beforeAll(async () => void (server = await startServer()));
afterAll(() => server.stop());
beforeEach(async () => {
  await server.behave(wellBehaved);
  await server.forget();
  await server.clearRequests();
});
afterEach(() => void vi.useRealTimers());

const MINUTE = 60_000;

/** Only the clock is set: what waits, waits. */
function goesBy(time: number): void {
  const now = Date.now();
  vi.useFakeTimers({ toFake: ['Date'], now: now + time });
}

async function only(store: Store): Promise<StoredSession> {
  const [session] = await new Sessions(store).list();
  if (!session) throw new Error('there is no session');
  return session;
}

/** A client that leaves after it has done something. */
async function briefly(store: Store, task: (client: ResilientClient) => Promise<unknown> = async () => {}, options: ConnectOptions = {}): Promise<void> {
  const client = await connected(server.url, { store, listen: false, ttl: HOUR, ...options });
  await task(client);
  await client.close();
}

describe.each(kinds)('the TTL of a stored session ($kind)', (kind) => {
  test('slides by its last use: at the next one it is there, one TTL later it is not', async () => {
    const store = await storeOf(kind);
    goesBy(0);
    await briefly(store);
    const { createdAt } = await only(store);
    for (let i = 0; i < 3; i++) {
      goesBy(59 * MINUTE);
      await briefly(store, (client) => say(client, 'echo', { text: 'x' }));
      expect(await only(store)).toMatchObject({ state: 'active', createdAt, lastUsedAt: Date.now(), expiresAt: Date.now() + HOUR });
    }
    expect(await wireOf(server, 'initialize')).toHaveLength(1);
    goesBy(HOUR);
    expect((await only(store)).state).toBe('expired');
    await briefly(store);
    expect(await only(store)).toMatchObject({ state: 'active', createdAt: Date.now() });
    expect(await wireOf(server, 'initialize')).toHaveLength(2);
  });

  test('does not creep: nothing but a use extends it', async () => {
    const store = await storeOf(kind);
    goesBy(0);
    await briefly(store);
    const before = await only(store);
    const sessions = new Sessions(store);
    const others: [string, () => Promise<unknown>][] = [
      ['taking it up', () => briefly(store)],
      ['taking it up with a longer TTL', () => briefly(store, async ({ session }) => expect(session.expiresAt).toBe(before.expiresAt), { ttl: 10 * HOUR })],
      ['a call that fails', () => briefly(store, (client) => server.behave({ post: { status: 500, times: 1 } }).then(() => failure(say(client, 'echo', { text: 'x' }))))],
      ['looking at it', () => sessions.list()],
      ['counting it', () => sessions.stats()],
      ['a copy of it', () => sessions.export()],
      ['changing what is kept', () => sessions.update(before.key, () => ({ data: { page: 1 } }))],
      ['changing it as a client', () => briefly(store, (client) => client.update(() => ({ data: { page: 2 } })))],
      ['cleaning up', () => sessions.cleanupExpired()],
    ];
    for (const [what, task] of others) {
      goesBy(MINUTE);
      await task();
      expect(await only(store), what).toMatchObject({ lastUsedAt: before.lastUsedAt, expiresAt: before.expiresAt });
    }
  });

  test('that was set lasts, whatever the clients say', async () => {
    const store = await storeOf(kind);
    goesBy(0);
    await briefly(store);
    const sessions = new Sessions(store);
    const { key, lastUsedAt } = await only(store);
    goesBy(MINUTE);
    expect(await sessions.setTtl(key, 10 * HOUR)).toMatchObject({ ttl: 10 * HOUR, lastUsedAt, expiresAt: lastUsedAt + 10 * HOUR });
    goesBy(9 * HOUR);
    await briefly(store, (client) => say(client, 'echo', { text: 'x' }));
    expect(await only(store)).toMatchObject({ ttl: 10 * HOUR, expiresAt: Date.now() + 10 * HOUR });
    expect(await wireOf(server, 'initialize')).toHaveLength(1);

    for (const never of [Number.POSITIVE_INFINITY, null]) expect(await sessions.setTtl(key, never)).toMatchObject({ ttl: null, expiresAt: null });
    goesBy(10_000 * HOUR);
    await briefly(store, (client) => say(client, 'echo', { text: 'x' }));
    expect(await only(store)).toMatchObject({ ttl: null, expiresAt: null, state: 'active' });

    await sessions.setTtl(key, MINUTE);
    goesBy(2 * MINUTE);
    expect(await sessions.cleanupExpired()).toBe(1);
    expect(await sessions.setTtl(key, MINUTE)).toBeUndefined();
  });
});

describe('the TTL', () => {
  test('is what the option says, also where it is for ever', async () => {
    const store = memoryStore();
    await briefly(store, undefined, { ttl: Number.POSITIVE_INFINITY });
    expect(await only(store)).toMatchObject({ ttl: null, expiresAt: null });
  });

  test('is counted from the use, not from the time when that was written', async () => {
    const store = memoryStore();
    goesBy(0);
    const client = await connected(server.url, { store, listen: false, ttl: HOUR });
    goesBy(10_000);
    await say(client, 'echo', { text: 'x' });
    const usedAt = Date.now();
    goesBy(30 * MINUTE);
    await client.close();
    expect(await only(store)).toMatchObject({ lastUsedAt: usedAt, expiresAt: usedAt + HOUR });
  });

  test('of a session that took the place of a lost one is not extended by a client that only finds it', async () => {
    const store = memoryStore();
    goesBy(0);
    let token = true;
    const headers = () => {
      if (!token) throw new Error('no token');
      return {};
    };
    const idle = await connected(server.url, { store, listen: false, ttl: HOUR, headers });
    await server.forget();
    await briefly(store, (client) => say(client, 'echo', { text: 'x' }));
    const before = await only(store);
    goesBy(MINUTE);
    idle.events.on('reset', () => (token = false));
    expect((await failure(say(idle, 'echo', { text: 'x' }))).message).toContain('no token');
    await idle.close();
    expect(await only(store)).toEqual(before);
  });

  test('of a session that its client uses all the time is extended while it does', async () => {
    const store = memoryStore();
    goesBy(0);
    const client = await connected(server.url, { store, listen: false, ttl: HOUR });
    for (let i = 0; i < 4; i++) {
      goesBy(30 * MINUTE);
      await say(client, 'echo', { text: 'x' });
      expect(client.session.expiresAt).toBe(Date.now() + HOUR);
    }
    expect((await only(store)).state).toBe('active');
  });
});

describe('a session in use is not expired', () => {
  const cleaned = (store: Store) => waitFor(async () => Date.now() > (await only(store)).createdAt + 2000).then(() => new Sessions(store).cleanupExpired());

  test('while a call is in flight, however long the server says nothing', async () => {
    const store = memoryStore();
    const client = await connected(server.url, { store, listen: false, ttl: 1500 });
    const call = client.callTool({ name: 'work', arguments: { nonce: 'x', ms: 3000 } });
    expect(await cleaned(store)).toBe(0);
    expect((await call).isError).not.toBe(true);
  });

  test('while a call is in flight whose client was idle before, and whose answer brings its own headers', async () => {
    await using plain = await startServer({ mode: 'json' });
    const store = memoryStore();
    const client = await connected(plain.url, { store, listen: false, ttl: 1500 });
    await waitFor(async () => (await only(store)).lastUsedAt < Date.now() - 300);
    const call = client.callTool({ name: 'work', arguments: { nonce: 'x', ms: 3000 } });
    expect(await cleaned(store)).toBe(0);
    await call;
  });

  test('because another of its clients has a TTL, and this one keeps it for ever', async () => {
    const store = memoryStore();
    goesBy(0);
    await briefly(store, (client) => say(client, 'echo', { text: 'x' }), { ttl: Number.POSITIVE_INFINITY });
    await briefly(store, (client) => say(client, 'echo', { text: 'x' }), { ttl: 1000 });
    goesBy(1000 * HOUR);
    expect(await only(store)).toMatchObject({ state: 'active', expiresAt: null });
  });

  test('while its notification stream is open', async () => {
    const store = memoryStore();
    await connected(server.url, { store, ttl: 1500 });
    await waitFor(async () => (await wireOf(server, 'GET')).some(({ status }) => status === 200));
    expect(await cleaned(store)).toBe(0);
  });

  test('because its TTL was set to less than the time between two notes of its use', async () => {
    const store = memoryStore();
    goesBy(0);
    const client = await connected(server.url, { store, listen: false, ttl: HOUR });
    await new Sessions(store).setTtl((await only(store)).key, 1000);
    for (let i = 0; i < 4; i++) {
      goesBy(30_000);
      await say(client, 'echo', { text: 'x' });
      await waitFor(async () => (await only(store)).state === 'active');
    }
    await client.close();
    goesBy(HOUR);
    expect((await only(store)).state).toBe('expired');
  });

  test('because another of its clients has a shorter TTL', async () => {
    const store = memoryStore();
    goesBy(0);
    const long = await connected(server.url, { store, listen: false, ttl: HOUR });
    await briefly(store, (client) => say(client, 'echo', { text: 'x' }), { ttl: 1000 });
    goesBy(30_000);
    expect((await only(store)).state).toBe('active');
    await say(long, 'echo', { text: 'x' });
    goesBy(HOUR);
    expect((await only(store)).state).toBe('expired');
  });

  test('but one that nobody uses any more is, although a client is connected', async () => {
    const store = memoryStore();
    await connected(server.url, { store, listen: false, ttl: 200 });
    await waitFor(async () => (await only(store)).state === 'expired');
  });
});

describe('a last use that lies in the future', () => {
  const used = (ahead: number) => ({ url: server.url.href, createdAt: Date.now(), lastUsedAt: Date.now() + ahead, expiresAt: Date.now() + ahead + HOUR });

  test('is another clock: the session is taken up, and its next use puts the time right', async () => {
    const store = memoryStore();
    await briefly(store);
    const key = (await only(store)).key;
    const record = JSON.parse((await store.get(key))?.value ?? '') as object;
    goesBy(0);
    await store.set(key, JSON.stringify({ ...record, ...used(2 * HOUR) }));
    const client = await connected(server.url, { store, listen: false, ttl: HOUR });
    await client.ping();
    await waitFor(async () => (await only(store)).lastUsedAt === Date.now());
    expect((await only(store)).expiresAt).toBe(Date.now() + HOUR);
    expect(await wireOf(server, 'initialize')).toHaveLength(1);
  });

  test('is none if it lies more than a day ahead', async () => {
    const store = memoryStore();
    await put(store, used(25 * HOUR));
    expect((await only(store)).state).toBe('expired');
    expect(await new Sessions(store).cleanupExpired({ end: false })).toBe(1);
    await put(store, { ...used(25 * HOUR), expiresAt: null });
    expect((await only(store)).state).toBe('active');
  });
});

describe("validate: 'ping'", () => {
  const stored = async (): Promise<Store> => {
    const store = memoryStore();
    await briefly(store, (client) => client.subscribeResource({ uri: 'test://one' }));
    await server.clearRequests();
    return store;
  };
  const methods = async () => (await server.requests()).flatMap(({ http, rpc }) => (http === 'POST' ? rpc.map(({ method }) => method) : [http]));
  const validated = { validate: 'ping', listen: false } as const;

  test('proves a stored session before connect() resolves; otherwise its first call does', async () => {
    const store = await stored();
    const unproven = await connected(server.url, { store, listen: false });
    expect(await methods()).toEqual([]);
    expect(unproven.session).toMatchObject({ state: 'resuming', resumed: true });
    const resumed: unknown[] = [];
    const proven = await connected(server.url, { store, ...validated, on: { resumed: (info) => resumed.push(info) } });
    expect(await methods()).toEqual(['ping']);
    expect(proven.session).toMatchObject({ state: 'ready', resumed: true, id: unproven.session.id });
    expect(resumed).toHaveLength(1);
    expect(await say(proven, 'echo', { text: 'x' })).toBe('x');
  });

  test('asks for nothing more where there is no stored session', async () => {
    await connected(server.url, { store: memoryStore(), ...validated });
    expect(await methods()).toEqual(['initialize', 'notifications/initialized']);
  });

  test.each(['replay', 'fail'] as const)('replaces a lost one within connect(), with its subscriptions and what is kept (%s)', async (onSessionLost) => {
    const store = await stored();
    await new Sessions(store).update((await only(store)).key, () => ({ data: { page: 1 } }));
    await server.forget();
    const reset: unknown[] = [];
    const client = await connected(server.url, { store, ...validated, onSessionLost, on: { reset: (info) => reset.push(info) } });
    expect(await methods()).toEqual(['ping', 'initialize', 'notifications/initialized', 'resources/subscribe']);
    expect(client.session).toMatchObject({ state: 'ready', resumed: false, data: { page: 1 } });
    expect(client.getServerVersion()?.name).toBe('fixture');
    expect(reset).toEqual([{ reason: expect.stringContaining('forgot'), adopted: false }]);
    expect(await server.subscriptions()).toMatchObject([{ uris: ['test://one'] }]);
    expect(await keysIn(store)).toHaveLength(1);
    await server.clearRequests();
    await say(client, 'echo', { text: 'x' });
    expect(await methods()).toEqual(['tools/call']);
  });

  test('makes many clients replace a lost session once', async () => {
    const store = await stored();
    await server.forget();
    const clients = await Promise.all(Array.from({ length: 10 }, () => connected(server.url, { store, ...validated })));
    expect(new Set(clients.map(({ session }) => session.id)).size).toBe(1);
    expect(await server.sessions()).toEqual([clients[0]?.session.id]);
    expect(clients.every(({ session }) => session.state === 'ready')).toBe(true);
  });

  test('waits for a server that is not there yet, and fails where it does not come; the session stays', async () => {
    const store = await stored();
    await server.behave({ post: { onlyMethod: 'ping', times: 2, status: 503 } });
    const client = await connected(server.url, { store, ...validated });
    expect(client.session.resumed).toBe(true);
    const { id } = client.session;
    await client.close();
    await server.behave({ hang: { onlyMethod: 'ping', times: 10 } });
    const hopeless = clientOf(server.url, { store, ...validated, timeout: { connect: 300 } });
    const { warning } = heardFrom(hopeless);
    expect((await failure(hopeless.connect())).name).toBe('DeadlineError');
    expect(await keysIn(store)).toHaveLength(1);
    expect(warning).toEqual([]);
    await server.behave(wellBehaved);
    await hopeless.connect();
    expect(hopeless.session).toMatchObject({ resumed: true, id, state: 'ready' });
  });

  test('takes an error for an answer', async () => {
    const store = await stored();
    const body = '{"jsonrpc":"2.0","id":{{id}},"error":{"code":-32601,"message":"no such method"}}';
    await server.behave({ reply: { onlyMethod: 'ping', times: 1, contentType: 'application/json', body } });
    const client = await connected(server.url, { store, ...validated });
    expect(client.session).toMatchObject({ resumed: true, state: 'ready' });
  });

  test('works for any client over the transport', async () => {
    const store = await stored();
    await server.forget();
    const { transport, call } = await bare(server.url, { store, ...validated });
    expect(transport.session).toMatchObject({ state: 'ready', resumed: false });
    expect(await call('echo', { text: 'x' })).toBe('x');
    expect((await methods())[0]).toBe('ping');
  });

  test('is refused for anything else', () => {
    expect(() => new ResilientClient(server.url, { validate: 'never' } as never)).toThrow("'ping' or 'first-call'");
    expect(() => new ResilientClient(server.url, { validate: 'first-call' })).not.toThrow();
  });
});
