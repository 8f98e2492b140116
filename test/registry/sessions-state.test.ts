import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { ClosedError, memoryStore, Sessions, type StoredSession, StoreError } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { Changes } from '../../src/session/changes.ts';
import { addCalls, callOf, type Counts, takeCalls } from '../../src/session/tally.ts';
import { runScript } from '../support/client-process.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { altered, clientOf, connected, failure, heardFrom, say, temporaryDirectory, wellBehaved } from '../session/clients.ts';
import { bare } from '../session/bare.ts';
import type { Said, Told } from './sessions.process.ts';
import { kinds, put, recordOf, storeOf } from './sessions.parts.ts';

let server: FixtureProcess;
beforeAll(async () => void (server = await startServer()));
afterAll(() => server.stop());
beforeEach(async () => {
  await server.behave(wellBehaved);
  await server.forget();
  await server.clearRequests();
});
afterEach(() => void vi.useRealTimers());

const counted = ({ data }: Pick<StoredSession, 'data'>) => ({ data: { n: Number(data['n'] ?? 0) + 1 } });

describe.each(kinds)('what a user keeps with a session ($kind)', (kind) => {
  test('is there for the next client, and for whoever manages the sessions', async () => {
    const store = await storeOf(kind);
    const client = await connected(server.url, { store, metadata: { purpose: 'test' }, listen: false });
    expect(client.session).toMatchObject({ metadata: { purpose: 'test' }, data: {} });
    expect(await client.update(() => ({ data: { page: 1, list: [1, { two: null }] } }))).toMatchObject({ id: client.session.id, metadata: { purpose: 'test' }, data: { page: 1 } });
    expect(client.session.data).toEqual({ page: 1, list: [1, { two: null }] });
    await client.close();

    const sessions = new Sessions(store);
    const [listed] = await sessions.list();
    expect(listed?.data).toEqual({ page: 1, list: [1, { two: null }] });
    const { key = '' } = client.session;
    expect(await sessions.update(key, ({ data, name }) => ({ data: { ...data, name }, metadata: {} }))).toMatchObject({ key, metadata: {}, data: { page: 1, name: 'default' } });

    // What is kept counts, not what a later client would begin with.
    const next = await connected(server.url, { store, metadata: { purpose: 'another' }, listen: false });
    expect(next.session).toMatchObject({ resumed: true, metadata: {}, data: { page: 1, name: 'default' } });
  });

  test('survives that the server forgets the session, and so does its TTL', async () => {
    const store = await storeOf(kind);
    const client = await connected(server.url, { store, metadata: { purpose: 'test' }, listen: false });
    const { id, key = '' } = client.session;
    const sessions = new Sessions(store);
    await client.update(() => ({ data: { page: 1 } }));
    // By another process, of which the client does not know.
    await sessions.update(key, ({ data }) => ({ data: { ...data, more: true }, metadata: { purpose: 'changed' } }));
    await sessions.setTtl(key, 5000);
    await server.forget();
    await say(client, 'echo', { text: 'x' });
    expect(client.session.id).not.toBe(id);
    expect(client.session).toMatchObject({ metadata: { purpose: 'changed' }, data: { page: 1, more: true } });
    expect(await sessions.get(key)).toMatchObject({ ttl: 5000, metadata: { purpose: 'changed' }, data: { page: 1, more: true } });
  });

  test('is changed by many clients at the same time, and nothing is lost', async () => {
    const store = await storeOf(kind);
    const clients = await Promise.all([1, 2, 3].map(() => connected(server.url, { store, listen: false })));
    const sessions = new Sessions(store);
    const { key = '' } = clients[0]?.session ?? {};
    await Promise.all([...clients, ...clients].flatMap((client) => [1, 2, 3].map(() => client.update(counted))));
    await Promise.all([1, 2].map(() => sessions.update(key, counted)));
    expect((await sessions.get(key))?.data).toEqual({ n: 20 });
  });
});

describe('what a user keeps with a session', () => {
  test('is changed by several processes at the same time, and nothing is lost; the calls of all are counted', async () => {
    const directory = await temporaryDirectory();
    const founder = await connected(server.url, { store: fileStore(directory), listen: false });
    const { key = '' } = founder.session;
    const processes = ['one', 'two'].map(() => runScript<Said, Told>(new URL('./sessions.process.ts', import.meta.url), [server.url.href, directory]));
    for (const each of processes) expect(await each.next('ready')).toEqual({ type: 'ready', resumed: true });
    processes.forEach((each, i) => each.send({ type: 'work', times: 25, counter: `process ${i}` }));
    for (let i = 0; i < 20; i++) await founder.update(({ metadata }) => ({ metadata: { all: Number(metadata['all'] ?? 0) + 1 } }));
    for (const each of processes) expect(await each.exit).toEqual({ code: 0, signal: null });
    expect(await new Sessions(fileStore(directory)).get(key)).toMatchObject({ data: { 'process 0': 25, 'process 1': 25 }, metadata: { all: 70 }, calls: { echo: 50 } });
  });

  test('belongs to one principal', async () => {
    const store = memoryStore();
    const [ada, bob] = await Promise.all(['ada', 'bob'].map((principal) => connected(server.url, { store, principal, listen: false })));
    await ada?.update(() => ({ data: { secret: 'of ada' } }));
    expect((await bob?.update(() => ({})))?.data).toEqual({});
  });

  test('is carried over by whichever process replaces the session', async () => {
    const store = memoryStore();
    const one = await connected(server.url, { store, listen: false });
    const two = await connected(server.url, { store, listen: false });
    await one.update(() => ({ data: { by: 'one' } }));
    await server.forget();
    await say(two, 'echo', { text: 'replaces it' });
    // Of the replacement the first one does not know yet; it is the same place.
    await one.update(({ data }) => ({ data: { ...data, again: true } }));
    await say(one, 'echo', { text: 'x' });
    expect(one.session.id).toBe(two.session.id);
    expect(one.session.data).toEqual({ by: 'one', again: true });
  });

  test('goes with the session where that is deleted, ended or expired', async () => {
    const store = memoryStore();
    const first = await connected(server.url, { store, listen: false });
    await first.update(() => ({ data: { page: 1 } }));
    await new Sessions(store).delete(first.session.key ?? '');
    await say(first, 'echo', { text: 'x' });
    expect(first.session.data).toEqual({});
    await first.update(() => ({ data: { page: 2 } }));
    await first.end();
    const second = await connected(server.url, { store, listen: false });
    expect(second.session.data).toEqual({});
    await put(store, { url: server.url.href, lastUsedAt: 1, expiresAt: 2, data: { page: 3 } });
    expect((await connected(server.url, { store, listen: false })).session.data).toEqual({});
  });

  test('is kept in memory where there is no store, through a lost session, until the client leaves', async () => {
    const client = await connected(server.url, { metadata: { purpose: 'test' }, listen: false });
    await client.update(({ metadata }) => ({ data: { page: 1 }, metadata: { ...metadata, more: true } }));
    await server.forget();
    await say(client, 'echo', { text: 'x' });
    expect(client.session).toMatchObject({ metadata: { purpose: 'test', more: true }, data: { page: 1 } });
    await expect(client.update(() => ({ data: { text: 'x'.repeat(70_000) } }))).rejects.toThrow(RangeError);
    await client.close();
    await client.connect();
    expect(client.session).toMatchObject({ metadata: { purpose: 'test' }, data: {} });
  });

  test('is not changed where the store fails: that is an error, and told once', async () => {
    const store = memoryStore();
    let broken = false;
    const flaky = altered(store, { set: (key, value, expected) => (broken ? Promise.reject(new Error('full')) : store.set(key, value, expected)) });
    const client = await connected(server.url, { store: flaky, listen: false });
    const { warning } = heardFrom(client);
    await client.update(counted);
    broken = true;
    for (let i = 0; i < 2; i++) expect(await failure(client.update(counted))).toMatchObject({ code: 'STORE', message: expect.stringContaining('not changed') });
    expect(client.session.data).toEqual({ n: 1 });
    expect(warning.map(({ message }) => message)).toEqual([expect.stringContaining('full')]);
    await server.forget();
    await say(client, 'echo', { text: 'x' });
    expect(client.session.data).toEqual({ n: 1 });
  });

  test('can be changed over the bare transport too', async () => {
    const store = memoryStore();
    const { client, transport, call } = await bare(server.url, { store, listen: false });
    await call('echo', { text: 'x' });
    expect(await transport.update(() => ({ data: { page: 1 } }))).toMatchObject({ data: { page: 1 } });
    await client.close();
    expect(await new Sessions(store).list()).toMatchObject([{ data: { page: 1 } }]);
  });
});

describe('a change of what is kept', () => {
  test('that makes no sense is a TypeError or RangeError, and changes nothing', async () => {
    const store = memoryStore();
    const client = await connected(server.url, { store, listen: false });
    await client.update(() => ({ data: { page: 1 } }));
    const sessions = new Sessions(store);
    const { key = '' } = client.session;
    const loop: Record<string, unknown> = {};
    loop['self'] = loop;
    const wrong: [unknown, typeof TypeError | typeof RangeError, string][] = [
      ['change', TypeError, 'function'],
      [() => undefined, TypeError, 'object'],
      [() => [], TypeError, 'object'],
      [async () => ({}), TypeError, 'promise'],
      [() => ({ dta: {} }), TypeError, 'dta'],
      [() => ({ data: null }), TypeError, 'data'],
      [() => ({ data: [1] }), TypeError, 'data'],
      [() => ({ data: new Date() }), TypeError, 'data'],
      [() => ({ data: loop }), TypeError, 'data'],
      [() => ({ data: { n: 1n } }), TypeError, 'data'],
      [() => ({ metadata: 'text' }), TypeError, 'metadata'],
      [() => ({ data: { text: 'x'.repeat(65_536) } }), RangeError, '65536'],
      // It is bytes that count.
      [() => ({ data: { text: 'ü'.repeat(32_768) } }), RangeError, '65536'],
    ];
    for (const [change, type, name] of wrong) {
      for (const error of [await failure(client.update(change as never)), await failure(sessions.update(key, change as never))]) {
        expect(error).toBeInstanceOf(type);
        expect(error.message).toContain(name);
      }
    }
    await expect(client.update(() => { throw new Error('of my own'); })).rejects.toThrow('of my own');
    expect(client.session.data).toEqual({ page: 1 });
    expect((await sessions.get(key))?.data).toEqual({ page: 1 });
    const most = { text: 'x'.repeat(65_536 - '{"text":""}'.length) };
    expect((await client.update(() => ({ data: most }))).data).toEqual(most);
  });

  test('may do with what it is told what it likes', async () => {
    const store = memoryStore();
    const client = await connected(server.url, { store, listen: false });
    const unstored = await connected(server.url, { listen: false });
    for (const each of [client, unstored]) {
      await each.update(() => ({ data: { list: [1] } }));
      await failure(each.update(({ data }) => {
        (data['list'] as number[]).push(2);
        throw new Error('after all not');
      }));
      expect(each.session.data).toEqual({ list: [1] });
    }
  });

  test('is asked again where somebody else was quicker, and given up where somebody always is', async () => {
    const store = memoryStore();
    const client = await connected(server.url, { store, listen: false });
    const { key = '' } = client.session;
    const others = new Sessions(store);
    let quicker = 3;
    const raced = new Sessions(
      altered(store, {
        set: async (each, value, expected) => {
          if (quicker-- > 0) await others.update(key, counted);
          return store.set(each, value, expected);
        },
      }),
    );
    expect((await raced.update(key, counted))?.data).toEqual({ n: 4 });
    quicker = Number.POSITIVE_INFINITY;
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const given = expect(raced.update(key, counted)).rejects.toThrow(StoreError);
    await vi.advanceTimersByTimeAsync(60_000);
    await given;
  });

  test('of a client that is not connected fails with ClosedError', async () => {
    const client = clientOf(server.url, { store: memoryStore(), listen: false });
    await expect(client.update(counted)).rejects.toThrow(ClosedError);
    await client.connect();
    await client.update(counted);
    await client.close();
    await expect(client.update(counted)).rejects.toThrow(ClosedError);
  });

  test('that was begun is written before the client has left', async () => {
    const store = memoryStore();
    const client = await connected(server.url, { store, listen: false });
    const update = client.update(counted);
    await client.close();
    expect(await new Sessions(store).list()).toMatchObject([{ data: { n: 1 } }]);
    await update;
  });
});

describe('the counts of a session\'s calls', () => {
  test('are of calls that were answered, and one handshake later they begin anew', async () => {
    const store = memoryStore();
    const client = await connected(server.url, { store, listen: false });
    const sessions = new Sessions(store);
    await say(client, 'echo', { text: 'x' });
    await failure(client.callTool({ name: 'echo', arguments: { text: 7 } }).then((result) => { if (result.isError) throw new Error('refused'); }));
    await server.behave({ post: { onlyMethod: 'tools/call', times: 1, status: 400 } });
    await failure(say(client, 'sum', { a: 1, b: 1 }));
    const body = '{"jsonrpc":"2.0","id":{{id}},"error":{"code":-32602,"message":"no such tool"}}';
    await server.behave({ reply: { onlyMethod: 'tools/call', times: 1, contentType: 'application/json', body } });
    await failure(say(client, 'nothing', {}));
    await client.close();
    expect((await sessions.list())[0]?.calls).toEqual({ echo: 2 });
    await server.forget();
    await client.connect();
    await say(client, 'sum', { a: 1, b: 1 });
    await client.close();
    await waitFor(async () => (await sessions.list())[0]?.calls['sum'] === 1);
    expect((await sessions.list())[0]?.calls).toEqual({ sum: 1 });
  });

  test('are of at most 200 names, of which none does harm', () => {
    const names = Array.from({ length: 300 }, (_, i) => `tool ${i}`);
    for (const name of ['__proto__', 'x'.repeat(5000), ...names, ...names]) addCalls('session', callOf(name));
    const changes = new Changes();
    changes.calls = takeCalls('session');
    expect(takeCalls('session').size).toBe(0);
    const { calls = {} } = changes.applyTo(recordOf({ calls: { 'there before': 1, 'tool 0': 5 } }));
    expect(Object.keys(calls)).toHaveLength(200);
    expect(Object.getPrototypeOf(calls)).toBe(Object.prototype);
    expect(calls).toMatchObject({ 'there before': 1, 'tool 0': 7, 'tool 1': 2, ['x'.repeat(200)]: 1 });
    expect(Object.hasOwn(calls, '__proto__')).toBe(true);
    const full: Counts = new Map(names.map((name) => [name, 1]));
    addCalls('full', full);
    expect(takeCalls('full').size).toBe(200);
  });
});
