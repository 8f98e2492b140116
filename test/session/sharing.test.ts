import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { memoryStore } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { startEverything, type EverythingProcess } from '../support/everything.ts';
import { startRecordingProxy } from '../support/recording-proxy.ts';
import { startServer, type FixtureProcess } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { type Clients, clientOf, connected, heardFrom, runsOf, say, started, startClients, temporaryDirectory, wireOf } from './clients.ts';

const servers = {} as Record<'sse' | 'json', FixtureProcess>;
let everything: EverythingProcess;
beforeAll(async () => {
  [servers.sse, servers.json, everything] = await Promise.all([startServer({ eventStore: true }), startServer({ mode: 'json' }), startEverything()]);
});
afterAll(() => Promise.all([servers.sse, servers.json, everything].map((server) => server.stop())));
beforeEach(async () => {
  await Promise.all(Object.values(servers).map(async (server) => {
    await server.forget();
    await server.clearRequests();
  }));
});

describe('100 clients in 10 processes', () => {
  let processes: Clients[] = [];
  beforeAll(() => {
    processes = Array.from({ length: 10 }, startClients);
  });
  afterAll(() => Promise.all(processes.map((each) => each.kill())));

  test('attached to one stored session at the same time, each get their own answers, without a handshake (SSE, JSON, server-everything)', async () => {
    const store = await temporaryDirectory();
    await using proxy = await startRecordingProxy(everything.url);
    const places = [
      { url: servers.sse.url, wire: servers.sse, argument: 'text', prefix: '' },
      { url: servers.json.url, wire: servers.json, argument: 'text', prefix: '' },
      { url: proxy.url, wire: proxy, argument: 'message', prefix: 'Echo: ' },
    ];
    for (const { url, wire, argument, prefix } of places) {
      const founder = await connected(url, { store: fileStore(store) });
      const { id } = founder.session;
      for (const each of processes) each.send({ type: 'connect', url: url.href, store, count: 10 });
      for (const each of processes) expect(await each.next('connected')).toEqual({ type: 'connected', ids: [id], resumed: 10 });
      for (const each of processes) each.send({ type: 'echo', times: 5, argument, prefix });
      for (const each of processes) expect(await each.next('echoed')).toEqual({ type: 'echoed', wrong: [], ids: [id] });
      expect(await wireOf(wire, 'initialize')).toHaveLength(1);
      expect(await wireOf(wire, 'tools/call')).toHaveLength(500);
      expect(new Set((await wireOf(wire, 'tools/call')).map(({ sessionId }) => sessionId))).toEqual(new Set([id]));
      await founder.close();
    }
  });

  test('that start cold at once, on an empty store, end up on one session; the others are ended, and all leave quickly', async () => {
    const server = servers.sse;
    const store = await temporaryDirectory();
    for (const each of processes) each.send({ type: 'connect', url: server.url.href, store, count: 10 });
    const ids = new Set<string>();
    for (const each of processes) for (const id of (await each.next('connected')).ids) ids.add(id);
    expect(ids.size).toBe(1);
    for (const each of processes) each.send({ type: 'echo', times: 1 });
    for (const each of processes) expect(await each.next('echoed')).toEqual({ type: 'echoed', wrong: [], ids: [...ids] });
    await waitFor(async () => (await server.sessions()).length === 1);
    expect(await server.sessions()).toEqual([...ids]);
    for (const each of processes) each.send({ type: 'close' });
    for (const each of processes) {
      await each.next('closed');
      expect(await each.exit).toEqual({ code: 0, signal: null });
      // Nobody had trouble with the store.
      await expect(each.next('warned')).rejects.toThrow('exited (0)');
    }
    expect(await server.sessions()).toEqual([...ids]);
  });
});

describe('100 clients in one process', () => {
  test.each(['sse', 'json'] as const)('attached to one stored session at the same time, each get their own answers, without a handshake (%s)', async (mode) => {
    const server = servers[mode];
    const store = memoryStore();
    const founder = await connected(server.url, { store });
    const clients = Array.from({ length: 99 }, () => clientOf(server.url, { store }));
    await Promise.all(clients.map((client) => client.connect()));
    const answers = await Promise.all(
      [founder, ...clients].flatMap((client, who) => [0, 1, 2].map(async (i) => [`client ${who}, text ${i}`, await say(client, 'echo', { text: `client ${who}, text ${i}` })])),
    );
    expect(answers.filter(([asked, got]) => asked !== got)).toEqual([]);
    expect(answers).toHaveLength(300);
    expect(new Set(clients.map(({ session }) => session.id))).toEqual(new Set([founder.session.id]));
    expect(clients.every(({ session }) => session.resumed)).toBe(true);
    expect(await wireOf(server, 'initialize')).toHaveLength(1);
    expect(await server.sessions()).toEqual([founder.session.id]);
  });
});

test('a process that is killed in mid-call leaves its session to the next one, which never gets the old answer', async () => {
  const server = servers.sse;
  const store = await temporaryDirectory();
  await using killed = startClients();
  killed.send({ type: 'connect', url: server.url.href, store });
  const { ids } = await killed.next('connected');
  killed.send({ type: 'call', name: 'work', arguments: { nonce: 'old', ms: 1500 } });
  await started(server, 'old');
  await killed.kill();

  const next = await connected(server.url, { store: fileStore(store) });
  expect([next.session.id]).toEqual(ids);
  // Its ids would follow those of the old process, if they were counted from the same start.
  const fresh = ['first', 'second', 'third'].map((nonce) => say(next, 'work', { nonce, ms: 2000 }));
  await waitFor(async () => (await runsOf(server, 'old'))[0]?.finished);
  expect(await say(next, 'echo', { text: 'while they run' })).toBe('while they run');
  expect(await Promise.all(fresh)).toEqual(['done:first', 'done:second', 'done:third']);
  expect(await wireOf(server, 'initialize')).toHaveLength(1);
  expect(await runsOf(server, 'old')).toHaveLength(1);
});

describe('many cold starts at once, on an empty store,', () => {
  test.each(['sse', 'json'] as const)('end up on one session, and the others are ended (%s)', async (mode) => {
    const server = servers[mode];
    const store = memoryStore();
    const clients = Array.from({ length: 100 }, () => clientOf(server.url, { store }));
    await Promise.all(clients.map((client) => client.connect()));
    const ids = new Set(clients.map(({ session }) => session.id));
    expect(ids.size).toBe(1);
    const answers = await Promise.all(clients.map((client, i) => say(client, 'echo', { text: `cold ${i}` })));
    expect(answers).toEqual(clients.map((_, i) => `cold ${i}`));
    expect(await waitFor(async () => (await server.sessions()).length === 1 && (await server.sessions()))).toEqual([...ids]);
    expect(await wireOf(server, 'DELETE')).toHaveLength((await wireOf(server, 'initialize')).length - 1);
  });

  test('leave no session behind on the server, even if they are closed at once', async () => {
    const server = servers.sse;
    const store = memoryStore();
    const clients = Array.from({ length: 20 }, () => clientOf(server.url, { store }));
    const heard = clients.map(heardFrom);
    await Promise.all(clients.map(async (client) => {
      await client.connect();
      await client.close();
    }));
    expect(heard.flatMap(({ warning }) => warning)).toEqual([]);
    await waitFor(async () => (await server.sessions()).length === 1, { timeout: 3000, what: 'one session on the server' });
  });
});
