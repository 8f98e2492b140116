import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { memoryStore, Sessions, type SessionsBackup, type Store, StoreError } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import type { SessionRecord } from '../../src/session/record.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { altered, connected, say, temporaryDirectory, wellBehaved, wireOf } from '../session/clients.ts';
import { expired, HOUR, keysIn, kinds, put, recordOf, storeOf } from './sessions.parts.ts';

let server: FixtureProcess;
beforeAll(async () => void (server = await startServer()));
afterAll(() => server.stop());
beforeEach(async () => {
  await server.behave(wellBehaved);
  await server.forget();
  await server.clearRequests();
});

const backupOf = (...sessions: unknown[]): SessionsBackup => ({ v: 1, exportedAt: Date.now(), sessions, unreadable: 0 });
/** As a file would carry it. */
const carried = (backup: SessionsBackup): SessionsBackup => JSON.parse(JSON.stringify(backup)) as SessionsBackup;

describe.each(kinds)('a session that is moved to another store ($kind)', (kind) => {
  test('goes on there, with all that is kept with it, and without a handshake', async () => {
    const [from, to] = [await storeOf(kind), fileStore(await temporaryDirectory())];
    // The query is a secret, and part of the place.
    const url = `${server.url.href}?key=secret`;
    const options = { principal: 'ada', session: 'main', listen: false };
    const client = await connected(url, { ...options, store: from, metadata: { purpose: 'test' } });
    const { id } = client.session;
    await client.subscribeResource({ uri: 'test://one' });
    await say(client, 'echo', { text: 'x' });
    await client.update(() => ({ data: { page: 3 } }));
    await client.close();
    const before = new Sessions(from);
    const [session] = await before.list();
    await before.setTtl(session?.key ?? '', 5 * HOUR);

    const backup = await before.export();
    expect(backup).toEqual({ v: 1, exportedAt: expect.any(Number), sessions: [expect.anything()], unreadable: 0 });
    expect(JSON.stringify(backup)).not.toContain('secret');
    const after = new Sessions(to);
    expect(await after.import(carried(backup))).toEqual([{ result: 'imported', key: session?.key }]);
    expect(await after.list()).toEqual(await before.list());

    await server.clearRequests();
    const moved = await connected(url, { ...options, store: to });
    expect(moved.session).toMatchObject({ id, resumed: true, metadata: { purpose: 'test' }, data: { page: 3 } });
    expect(await say(moved, 'echo', { text: 'there' })).toBe('there');
    expect(await wireOf(server, 'initialize')).toEqual([]);
    expect((await server.requests())[0]).toMatchObject({ sessionId: id, rpc: [{ method: 'tools/call' }] });
    const others = [{ ...options, principal: 'bob' }, { ...options, session: 'other' }];
    for (const other of others) expect((await connected(url, { ...other, store: to })).session.id).not.toBe(id);
    expect((await connected(server.url, { ...options, store: to })).session.id).not.toBe(id);
  });
});

describe('an export', () => {
  test('holds those that are asked for', async () => {
    const store = memoryStore();
    for (const principal of ['ada', 'bob']) await put(store, { principal, id: `of-${principal}` });
    const { sessions } = await new Sessions(store).export({ principal: 'ada' });
    expect(sessions).toMatchObject([{ principal: 'ada', id: 'of-ada' }]);
  });

  test('says how many are missing because they could not be read', async () => {
    const store = memoryStore();
    await put(store);
    await store.set('session/nonsense', '{}');
    expect(await new Sessions(store).export()).toMatchObject({ sessions: [{}], unreadable: 1 });
  });

  test('names sessions that were stored before they had names in them', async () => {
    const store = memoryStore();
    const key = await put(store, { name: 'main' });
    const { name: _, ...old } = JSON.parse((await store.get(key))?.value ?? '') as SessionRecord;
    await store.set(key, JSON.stringify(old));
    const other = memoryStore();
    expect(await new Sessions(other).import(carried(await new Sessions(store).export()))).toEqual([{ result: 'imported', key }]);
  });
});

describe('an import', () => {
  const imported = async (store: Store, session: unknown, options = {}) => (await new Sessions(store).import(backupOf(session), options))[0];

  test('leaves what is there, unless it is told to overwrite it; what is expired is as good as gone', async () => {
    const store = memoryStore();
    const idAt = async (key: string) => (JSON.parse((await store.get(key))?.value ?? '') as SessionRecord).id;
    const key = await put(store, { id: 'there' });
    expect(await imported(store, recordOf({ id: 'new' }))).toEqual({ result: 'exists', key });
    expect(await idAt(key)).toBe('there');
    expect(await imported(store, recordOf({ id: 'new' }), { overwrite: true })).toEqual({ result: 'imported', key });
    expect(await idAt(key)).toBe('new');
    await put(store, { id: 'old', ...expired() });
    expect(await imported(store, recordOf({ id: 'newer' }))).toEqual({ result: 'imported', key });
    await store.set(key, '{"v":2}');
    expect(await imported(store, recordOf())).toEqual({ result: 'exists', key });
  });

  test('keeps the times, and refuses what is expired', async () => {
    const store = memoryStore();
    const now = Date.now();
    const times = { createdAt: now - HOUR, lastUsedAt: now - 60_000, expiresAt: now + 1000 };
    expect(await imported(store, recordOf(times))).toMatchObject({ result: 'imported' });
    expect(await new Sessions(store).list()).toMatchObject([times]);
    expect(await imported(store, recordOf({ name: 'old', ...expired() }))).toMatchObject({ result: 'expired' });
    expect(await keysIn(store)).toHaveLength(1);
  });

  test('puts a session where its server, principal and name belong, whatever the backup says of keys', async () => {
    const store = memoryStore();
    const key = await put(memoryStore(), { principal: 'bob', name: 'main' });
    expect(await imported(store, { ...recordOf({ principal: 'bob', name: 'main' }), key: 'session/of/ada', ['__proto__']: { principal: 'ada' } })).toEqual({ result: 'imported', key });
    expect(await keysIn(store)).toEqual([key]);
  });

  test('looks at each session, and says what is wrong with it without repeating it', async () => {
    const store = memoryStore();
    const wrong: unknown[] = [
      null,
      'session',
      { ...recordOf(), v: 2 },
      { ...recordOf(), id: 'secret id' },
      { ...recordOf(), url: 'http://host/mcp?key=secret' },
      { ...recordOf(), url: 'http://secret:x@host/mcp' },
      { ...recordOf(), url: 'file:///secret' },
      { ...recordOf(), url: 'HTTP://secret' },
      { ...recordOf(), query: 'secret' },
      { ...recordOf(), principal: '' },
      { ...recordOf(), principal: 'secret\ud800' },
      { ...recordOf(), name: '' },
      { ...recordOf(), ttl: 0 },
      { ...recordOf(), ttl: 'secret' },
      { ...recordOf(), expiresAt: 'secret' },
      { ...recordOf(), data: ['secret'] },
      { ...recordOf(), data: { text: 'secret'.repeat(20_000) } },
      { ...recordOf(), calls: { secret: -1 } },
      { ...recordOf(), subscriptions: [7] },
      { ...recordOf(), initialized: {} },
    ];
    const results = await new Sessions(store).import(backupOf(...wrong, recordOf()));
    expect(results.slice(0, -1)).toEqual(wrong.map(() => ({ result: 'invalid', reason: expect.any(String) })));
    expect(results.at(-1)).toMatchObject({ result: 'imported' });
    expect(JSON.stringify(results)).not.toContain('secret');
    expect(await keysIn(store)).toHaveLength(1);
  });

  test('says of each what became of it where the store fails', async () => {
    const store = memoryStore();
    const failing = altered(store, { set: (key, value, expected) => (key.endsWith('bad') ? Promise.reject(new StoreError('full')) : store.set(key, value, expected)) });
    const results = await new Sessions(failing).import(backupOf(recordOf({ name: 'bad' }), recordOf({ name: 'good' })));
    expect(results).toMatchObject([{ result: 'failed', reason: 'full' }, { result: 'imported' }]);
  });

  test('of one session twice takes it once', async () => {
    const store = fileStore(await temporaryDirectory());
    const results = await new Sessions(store).import(backupOf(recordOf(), recordOf()));
    expect(results.map(({ result }) => result).sort()).toEqual(['exists', 'imported']);
  });
});
