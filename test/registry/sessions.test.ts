import { setImmediate as turn } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { memoryStore, Sessions, StoreError } from '../../src/index.ts';
import { altered, connected, failure, say, timed, wellBehaved, wireOf } from '../session/clients.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { expired, HOUR, keysIn, kinds, put, storeOf } from './sessions.parts.ts';

let server: FixtureProcess;
beforeAll(async () => void (server = await startServer()));
afterAll(() => server.stop());
beforeEach(async () => {
  await server.behave(wellBehaved);
  await server.forget();
  await server.clearRequests();
});

describe.each(kinds)('the sessions in a store ($kind)', (kind) => {
  test('are listed with all that is known of them, except their ids', async () => {
    const store = await storeOf(kind);
    const before = Date.now();
    const client = await connected(server.url, { store, session: 'main', principal: 'ada', metadata: { purpose: 'test' }, ttl: HOUR });
    const { id = '', key = '' } = client.session;
    await client.subscribeResource({ uri: 'test://one' });
    await client.update(() => ({ data: { page: 3 } }));
    for (let i = 0; i < 3; i++) await say(client, 'echo', { text: 'x' });
    await client.callTool({ name: 'sum', arguments: { a: 1, b: 2 } });
    await client.close();

    const sessions = new Sessions(store);
    const listed = await sessions.list();
    expect(listed).toEqual([
      {
        key,
        url: server.url.href,
        principal: 'ada',
        name: 'main',
        state: 'active',
        createdAt: expect.any(Number),
        lastUsedAt: expect.any(Number),
        expiresAt: expect.any(Number),
        ttl: HOUR,
        protocolVersion: '2025-11-25',
        server: { name: 'fixture', version: '1.0.0' },
        subscriptions: 1,
        calls: { echo: 3, sum: 1 },
        metadata: { purpose: 'test' },
        data: { page: 3 },
      },
    ]);
    const { createdAt = 0, lastUsedAt = 0, expiresAt } = listed[0] ?? {};
    expect(createdAt).toBeGreaterThanOrEqual(before);
    expect(lastUsedAt).toBeGreaterThanOrEqual(createdAt);
    expect(expiresAt).toBe(lastUsedAt + HOUR);
    expect(JSON.stringify(listed)).not.toContain(id);
    expect(await sessions.get(key)).toEqual(listed[0]);
    expect(await sessions.get(key.replace('main', 'other'))).toBeUndefined();
  });

  test('are found by server, principal, name, and whether they are expired', async () => {
    const store = await storeOf(kind);
    const url = 'https://host/mcp';
    await put(store, { url, principal: 'ada', name: 'one' });
    await put(store, { url, principal: 'ada', name: 'two', ...expired() });
    await put(store, { url, principal: 'bob', name: 'one' });
    await put(store, { url: 'https://host/mcp/other', name: 'one' });
    await put(store, { url, query: '0123456789abcdef01234567', name: 'three' });
    const sessions = new Sessions(store);
    const found = async (filter: Parameters<Sessions['list']>[0]) =>
      (await sessions.list(filter)).map(({ url, principal = 'nobody', name }) => `${principal} ${name} ${new URL(url).pathname}`).sort();
    expect(await found({})).toHaveLength(5);
    expect(await found({ url })).toEqual(['ada one /mcp', 'ada two /mcp', 'bob one /mcp', 'nobody three /mcp']);
    expect(await found({ url: new URL('https://host/mcp/other') })).toEqual(['nobody one /mcp/other']);
    expect(await found({ url: `${url}?another=query` })).toEqual([]);
    expect(await found({ principal: 'ada' })).toEqual(['ada one /mcp', 'ada two /mcp']);
    expect(await found({ name: 'one' })).toEqual(['ada one /mcp', 'bob one /mcp', 'nobody one /mcp/other']);
    expect(await found({ expired: true })).toEqual(['ada two /mcp']);
    expect(await found({ principal: 'ada', expired: false })).toEqual(['ada one /mcp']);
    expect((await sessions.stats({ principal: 'ada' })).total).toBe(2);
  });

  test('are changed by many at the same time, and no change is lost', async () => {
    const store = await storeOf(kind);
    const key = await put(store, { metadata: { by: 'nobody' } });
    const sessions = new Sessions(store);
    const others = new Sessions(store);
    await Promise.all(
      Array.from({ length: 30 }, (_, i) => (i % 2 ? sessions : others).update(key, ({ data }) => ({ data: { ...data, n: Number(data['n'] ?? 0) + 1, [`by ${i}`]: true } }))),
    );
    const session = await sessions.get(key);
    expect(session?.data).toMatchObject({ n: 30 });
    expect(Object.keys(session?.data ?? {})).toHaveLength(31);
    expect(session?.metadata).toEqual({ by: 'nobody' });
  });

  test('are counted', async () => {
    const store = await storeOf(kind);
    const sessions = new Sessions(store);
    expect(await sessions.stats()).toEqual({ total: 0, active: 0, expired: 0, unreadable: 0, averageAge: 0, calls: {} });
    const now = Date.now();
    await put(store, { name: 'one', createdAt: now - 1000, calls: { echo: 2, ['__proto__']: 1 } });
    await put(store, { name: 'two', createdAt: now - 3000, calls: { echo: 3 } });
    await put(store, { name: 'three', ...expired() });
    await store.set('session/of/another/version', '{"v":2}');
    const { averageAge, calls, ...counts } = await sessions.stats();
    expect(counts).toEqual({ total: 3, active: 2, expired: 1, unreadable: 1 });
    expect(Object.entries(calls).sort()).toEqual([['__proto__', 1], ['echo', 5]]);
    expect(Math.abs(averageAge - (2 * HOUR + 4000) / 3)).toBeLessThan(60_000);
  });

  test('are ended on the server when they are deleted', async () => {
    const store = await storeOf(kind);
    const client = await connected(server.url, { store, listen: false });
    const { id, key = '' } = client.session;
    await client.close();
    await server.clearRequests();
    const sessions = new Sessions(store);
    expect(await sessions.delete(key)).toBe(true);
    expect(await server.requests()).toMatchObject([{ http: 'DELETE', sessionId: id, protocolVersion: '2025-11-25', status: 200 }]);
    expect(await server.sessions()).toEqual([]);
    expect(await keysIn(store, 'session/')).toEqual([]);
    expect(await sessions.delete(key)).toBe(false);
  });
});

describe('listing', () => {
  test('reads many at a time, but not all', async () => {
    const store = memoryStore();
    await Promise.all(Array.from({ length: 10_000 }, (_, i) => put(store, { name: `s${i}`, lastUsedAt: Date.now() - (i % 7) })));
    let now = 0;
    let most = 0;
    const counted = altered(store, {
      get: async (key) => {
        most = Math.max(most, ++now);
        await turn();
        now--;
        return store.get(key);
      },
    });
    const sessions = await new Sessions(counted).list();
    expect(sessions).toHaveLength(10_000);
    expect(sessions.map(({ lastUsedAt }) => lastUsedAt)).toEqual(sessions.map(({ lastUsedAt }) => lastUsedAt).sort((a, b) => b - a));
    expect(most).toBe(32);
  });

  test('reads only what the filter may want', async () => {
    const store = memoryStore();
    for (const principal of ['ada', 'bob']) await put(store, { principal });
    const read: string[] = [];
    const watched = altered(store, { get: (key) => (read.push(key), store.get(key)) });
    await new Sessions(watched).list({ principal: 'ada' });
    expect(read).toEqual([expect.stringContaining('ada')]);
  });

  test('leaves out what it cannot read, or what stands in the place of another principal', async () => {
    const store = memoryStore();
    const good = await put(store, { principal: 'ada' });
    const moved = good.replace('ada', 'bob');
    await store.set(moved, (await store.get(good))?.value ?? '');
    await store.set('session/nonsense', '{}');
    const sessions = new Sessions(store);
    expect((await sessions.list()).map(({ key }) => key)).toEqual([good]);
    expect(await sessions.list({ principal: 'bob' })).toEqual([]);
    expect((await sessions.stats()).unreadable).toBe(2);
    const error = await failure(sessions.get(moved));
    expect(error).toBeInstanceOf(StoreError);
    expect(error.message).not.toMatch(/ada|bob/);
    await expect(sessions.update(moved, () => ({}))).rejects.toThrow(StoreError);
    expect(await sessions.delete(moved)).toBe(true);
    expect(await sessions.delete('session/nonsense')).toBe(true);
    expect(await keysIn(store)).toEqual([good]);
  });

  test('goes on where the store cannot read one, and rejects where it can read none', async () => {
    const store = memoryStore();
    const good = await put(store, { name: 'good' });
    const bad = await put(store, { name: 'bad' });
    const failing = (...keys: string[]) => new Sessions(altered(store, { get: (key) => (keys.includes(key) ? Promise.reject(new StoreError('encrypted with another key')) : store.get(key)) }));
    expect((await failing(bad).list()).map(({ key }) => key)).toEqual([good]);
    expect((await failing(bad).stats()).unreadable).toBe(1);
    await expect(failing(good, bad).list()).rejects.toThrow('another key');
    // It could not be ended on its server.
    await expect(failing(bad).delete(bad)).rejects.toThrow('another key');
    expect(await failing(bad).delete(bad, { end: false })).toBe(true);
    await store.close();
    await expect(new Sessions(store).list()).rejects.toThrow(StoreError);
  });

  test('does not trip over one that is removed meanwhile', async () => {
    const store = memoryStore();
    const gone = await put(store, { name: 'gone' });
    const there = await put(store, { name: 'there' });
    const sessions = new Sessions(altered(store, { get: async (key) => (await store.delete(gone), store.get(key)) }));
    expect((await sessions.list()).map(({ key }) => key)).toEqual([there]);
    expect((await sessions.stats()).unreadable).toBe(0);
  });
});

describe('deleting', () => {
  test('asks for what the server wants to see, and sends it only there', async () => {
    const store = memoryStore();
    const client = await connected(server.url, { store, principal: 'ada', listen: false });
    const { key = '', id = '' } = client.session;
    await client.close();
    await server.clearRequests();
    const asked: unknown[] = [];
    const sessions = new Sessions(store, {
      access: async (session) => {
        asked.push(session);
        return { headers: { authorization: `Bearer of ${session.principal}` } };
      },
    });
    await sessions.delete(key);
    expect(asked).toMatchObject([{ key, principal: 'ada' }]);
    expect(JSON.stringify(asked)).not.toContain(id);
    expect(await server.requests()).toMatchObject([{ http: 'DELETE', sessionId: id, headers: { authorization: 'Bearer of ada' } }]);
  });

  test('sends nothing if it is told so', async () => {
    const store = memoryStore();
    const client = await connected(server.url, { store, listen: false });
    const { key = '' } = client.session;
    await client.close();
    await server.clearRequests();
    expect(await new Sessions(store).delete(key, { end: false })).toBe(true);
    expect(await server.requests()).toEqual([]);
  });

  test('removes nothing where it is not told what the server wants to see', async () => {
    const store = memoryStore();
    const key = await put(store);
    const sessions = new Sessions(store, { access: () => { throw new Error('no token'); } });
    await expect(sessions.delete(key)).rejects.toThrow('no token');
    expect(await keysIn(store)).toEqual([key]);
  });

  test('does not wait long for a server that is not there, or does not answer', async () => {
    const store = memoryStore();
    const away = await put(store);
    const silent = await put(store, { url: server.url.href });
    await server.behave({ hang: { onlyMethod: 'DELETE', times: 1 } });
    const sessions = new Sessions(store);
    expect(await sessions.delete(away)).toBe(true);
    expect(await timed(sessions.delete(silent))).toBeLessThan(10_000);
    expect(await keysIn(store)).toEqual([]);
  });

  test('leaves another session that has taken its place meanwhile, but not one that was only used', async () => {
    const store = memoryStore();
    const key = await put(store, { id: 'old', url: server.url.href });
    const deleting = (change: () => Promise<unknown>) =>
      new Sessions(store, { access: async () => (await change(), {}) }).delete(key);
    expect(await deleting(() => put(store, { id: 'new', url: server.url.href }))).toBe(false);
    expect(await keysIn(store)).toEqual([key]);
    expect(await deleting(() => put(store, { id: 'new', url: server.url.href, lastUsedAt: Date.now() + 1 }))).toBe(true);
    expect(await keysIn(store)).toEqual([]);
  });

  test('makes its client start a new session with the next call', async () => {
    const store = memoryStore();
    const client = await connected(server.url, { store, listen: false });
    const { key = '', id } = client.session;
    await new Sessions(store).delete(key);
    expect(await say(client, 'echo', { text: 'x' })).toBe('x');
    expect(client.session.id).not.toBe(id);
    expect(await wireOf(server, 'initialize')).toHaveLength(2);
    await waitFor(async () => (await new Sessions(store).get(key)) !== undefined);
  });
});

test('keys of anything else are no sessions', async () => {
  const store = memoryStore();
  await store.set('call/x', '{"expiresAt":1}');
  const sessions = new Sessions(store);
  expect(await sessions.get('call/x')).toBeUndefined();
  expect(await sessions.update('call/x', () => ({}))).toBeUndefined();
  expect(await sessions.setTtl('call/x', 1)).toBeUndefined();
  expect(await sessions.delete('call/x')).toBe(false);
  expect(await keysIn(store)).toEqual(['call/x']);
});

test('what makes no sense is a TypeError or RangeError that names it', async () => {
  expect(() => new Sessions({} as never)).toThrow('the store must be a Store');
  expect(() => new Sessions(memoryStore(), { acess: () => ({}) } as never)).toThrow('acess');
  const sessions = new Sessions(memoryStore());
  const calls: [() => Promise<unknown>, typeof TypeError | typeof RangeError, string][] = [
    // Everybody's sessions instead of nobody's.
    [() => sessions.list({ principal: undefined } as never), TypeError, 'principal is undefined'],
    [() => sessions.list({ principle: 'ada' } as never), TypeError, 'principle'],
    [() => sessions.list({ url: 'host' }), TypeError, 'url'],
    [() => sessions.stats({ expired: 'yes' } as never), TypeError, 'expired'],
    [() => sessions.get(7 as never), TypeError, 'key'],
    [() => sessions.delete(undefined as never), TypeError, 'key'],
    [() => sessions.delete('session/x', { end: 1 } as never), TypeError, 'end'],
    [() => sessions.setTtl('session/x', 0), RangeError, 'ttl'],
    [() => sessions.setTtl('session/x', Number.NaN), TypeError, 'ttl'],
    [() => sessions.cleanupExpired({ unreadible: true } as never), TypeError, 'unreadible'],
    [() => sessions.import([] as never), TypeError, 'backup'],
    [() => sessions.import({ v: 2, sessions: [] } as never), TypeError, 'backup'],
    [() => sessions.import({ v: 1, exportedAt: 0, sessions: [], unreadable: 0 }, { overwrite: 1 } as never), TypeError, 'overwrite'],
  ];
  for (const [call, type, name] of calls) {
    const error = await failure(call());
    expect(error, name).toBeInstanceOf(type);
    expect(error.message).toContain(name);
  }
  expect(() => sessions.startCleanup({ interval: 0 })).toThrow(RangeError);
  expect(() => sessions.startCleanup({ interval: 2 ** 31 })).toThrow(RangeError);
  expect(() => sessions.startCleanup({ onError: 'log' } as never)).toThrow('onError');
});
