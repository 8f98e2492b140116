import { LoggingMessageNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { ClosedError, connect, memoryStore, ResilientClient } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { ScriptedServer } from '../links/scripted-server.ts';
import { altered, connected, failure, say, startClients, started, stayed, streamOpen, temporaryDirectory, timed, wireOf } from './clients.ts';

/** G9 after `close()` nothing of ours is left; G11 nothing that a user does in a listener can break us. */

let server: FixtureProcess;
beforeAll(async () => void (server = await startServer()));
afterAll(() => server.stop());
beforeEach(() => server.clearRequests());

const deletes = () => wireOf(server, 'DELETE');

describe('G9 a process that has closed its client', () => {
  test.each([
    { mode: 'sse', kept: true },
    { mode: 'sse', kept: false },
    { mode: 'json', kept: true },
    { mode: 'json', kept: false },
  ] as const)('ends by itself, at once, with nothing left ($mode, store: $kept)', async ({ mode, kept }) => {
    await using own = await startServer({ mode });
    const store = kept ? await temporaryDirectory() : undefined;
    await using clients = startClients();
    clients.send({ type: 'connect', url: own.url.href, count: 3, ...(store === undefined ? {} : { store }) });
    await clients.next('connected');
    clients.send({ type: 'echo', times: 5 });
    expect((await clients.next('echoed')).wrong).toEqual([]);
    await streamOpen(own);
    clients.send({ type: 'close' });
    expect((await clients.next('closed')).resources).toEqual([]);
    expect(await clients.exit).toMatchObject({ code: 0 });
    // Anything of ours that was left would hold it for seconds.
    expect(stayed(clients)).toBeLessThan(500);
    expect(clients.stderr).toBe('');
  });

  test('ends by itself when a call was in flight', async () => {
    await using clients = startClients();
    clients.send({ type: 'connect', url: server.url.href });
    await clients.next('connected');
    clients.send({ type: 'call', name: 'work', arguments: { nonce: 'in flight', ms: 600_000 } });
    await started(server, 'in flight');
    clients.send({ type: 'close' });
    expect(await clients.next('failed')).toMatchObject({ name: 'ClosedError', outcome: 'unknown' });
    expect((await clients.next('closed')).resources).toEqual([]);
    expect(await clients.exit).toMatchObject({ code: 0 });
  });
});

describe('close() and end()', () => {
  test('without a store the session is ended on the server', async () => {
    const client = await connect(server.url);
    const { id } = client.session;
    await client.close();
    expect(await deletes()).toMatchObject([{ sessionId: id, status: 200 }]);
    expect(await server.sessions()).not.toContain(id);
  });

  test('with a store the session stays, on the server and in the store', async () => {
    const store = memoryStore();
    const client = await connect(server.url, { store });
    const { id } = client.session;
    await client.close();
    expect(await deletes()).toEqual([]);
    expect(await server.sessions()).toContain(id);
    expect((await connected(server.url, { store })).session).toMatchObject({ id, resumed: true });
  });

  test('end() ends it for good, on the server and in the store', async () => {
    const store = memoryStore();
    const client = await connect(server.url, { store });
    const { id, key = '' } = client.session;
    await client.end();
    expect(await deletes()).toMatchObject([{ sessionId: id }]);
    expect(await store.get(key)).toBeUndefined();
    expect((await connected(server.url, { store })).session.resumed).toBe(false);
  });

  test('end() leaves alone what another client has stored in the meantime', async () => {
    const store = memoryStore();
    const client = await connect(server.url, { store, listen: false });
    const { key = '' } = client.session;
    const record = JSON.parse((await store.get(key))?.value ?? '') as object;
    await store.set(key, JSON.stringify({ ...record, id: 'another' }));
    await client.end();
    expect(JSON.parse((await store.get(key))?.value ?? '{}')).toMatchObject({ id: 'another' });
  });

  test('end() gets by where the server does not let clients end sessions (405)', async () => {
    const client = await connect(server.url);
    await server.behave({ reply: { onlyMethod: 'DELETE', times: 1, status: 405, contentType: 'text/plain', body: 'Method not allowed' } });
    await expect(client.end()).resolves.toBeUndefined();
    expect(await deletes()).toMatchObject([{ status: 405 }]);
    expect(client.session.state).toBe('closed');
  });

  test('end() does not wait for a server that does not answer', async () => {
    const client = await connect(server.url);
    await server.behave({ hang: { onlyMethod: 'DELETE', times: 1 } });
    expect(await timed(client.end())).toBeLessThan(2250);
    await waitFor(async () => (await deletes())[0]?.endedBy === 'client');
  });

  test('await using closes, also when the block throws', async () => {
    const failed = (async () => {
      await using client = await connect(server.url);
      expect(client.session.state).not.toBe('closed');
      throw new Error('my own');
    })();
    await expect(failed).rejects.toThrow('my own');
    expect(await deletes()).toHaveLength(1);
  });

  test('closing twice, or before connecting, does nothing', async () => {
    const client = new ResilientClient(server.url);
    await client.close();
    await client.connect();
    await Promise.all([client.close(), client.close()]);
    await client.close();
    expect(await deletes()).toHaveLength(1);
  });

  test('a client that is closed before its connect() has begun to wait for anything is closed (G9)', async () => {
    await using client = new ResilientClient(server.url);
    const connecting = client.connect();
    await client.close();
    expect(await failure(connecting)).toMatchObject({ name: 'ClosedError', outcome: 'not-sent' });
    expect(await failure(client.ping())).toBeInstanceOf(ClosedError);
    await client.connect();
    expect(await say(client, 'echo', { text: 'again' })).toBe('again');
  });

  test('what a connect() that is closed was writing is over when close() is, in the store and at the server (G9)', async () => {
    const inner = memoryStore();
    let writes = 0;
    let begun = (): void => {};
    const writing = new Promise<void>((resolve) => (begun = resolve));
    const store = altered(inner, {
      async set(...args) {
        writes++;
        begun();
        await new Promise<void>((resolve) => setTimeout(resolve, 20));
        return inner.set(...args).finally(() => writes--);
      },
    });
    const client = new ResilientClient(server.url, { store, listen: false });
    const connecting = failure(client.connect());
    await writing;
    await client.close();
    expect(writes).toBe(0);
    await connecting;
    // The one that was made was nobody's.
    for await (const key of inner.keys('session/')) expect.fail(key);
    expect(await deletes()).toMatchObject([{ status: 200 }]);
  });

  test('the same client object connects again', async () => {
    const client = await connected(server.url, { store: memoryStore() });
    await say(client, 'echo', { text: 'one' });
    await client.close();
    expect(await failure(say(client, 'echo', { text: 'closed' }))).toBeInstanceOf(Error);
    await client.connect();
    expect(client.session.resumed).toBe(true);
    expect(await say(client, 'echo', { text: 'two' })).toBe('two');
  });

  test('a client that connects again hears each message once', async () => {
    await using own = await startServer();
    const client = await connected(own.url);
    const heard: unknown[] = [];
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => void heard.push(params.data));
    const errors: Error[] = [];
    client.onerror = (error) => void errors.push(error);
    for (let round = 1; round <= 3; round++) {
      await streamOpen(own);
      await own.notify(`round ${round}`);
      await say(client, 'announce', { text: `end of ${round}` });
      await waitFor(() => heard.length >= 2 * round);
      await client.close();
      await own.clearRequests();
      await client.connect();
    }
    expect(heard).toEqual([1, 2, 3].flatMap((round) => [`round ${round}`, `end of ${round}`]));
    expect(errors).toEqual([]);
  });

  test('onclose is called once for each connection, and may connect again', async () => {
    const client = await connected(server.url, { store: memoryStore() });
    let closed = 0;
    const again = new Promise<void>((resolve, reject) => {
      client.onclose = () => {
        if (++closed === 1) client.connect().then(resolve, reject);
      };
    });
    await client.close();
    await again;
    expect(await say(client, 'echo', { text: 'again' })).toBe('again');
    await client.close();
    expect(closed).toBe(2);
  });

  test('connect() on a client that is connected fails, and breaks nothing', async () => {
    const client = await connected(server.url);
    await expect(client.connect()).rejects.toThrow(/connected already/);
    expect(await say(client, 'echo', { text: 'still' })).toBe('still');
    expect(await wireOf(server, 'initialize')).toHaveLength(1);
  });

  test('calls in flight settle with ClosedError, which says what became of them', async () => {
    const client = await connected(server.url);
    const running = failure(say(client, 'work', { nonce: 'running', ms: 600_000 }));
    await started(server, 'running');
    await client.close();
    const error = await running;
    expect(error).toBeInstanceOf(ClosedError);
    expect(error).toMatchObject({ outcome: 'unknown' });
  });
});

describe('G9 a stream that its server holds open after the answer', () => {
  test('ends with its client, also where fetch keeps the connections', async () => {
    const answers: Record<string, unknown> = {
      initialize: { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: 'scripted', version: '1' } },
      'tools/call': { content: [] },
    };
    const scripted = await ScriptedServer.start(({ body }, res) => {
      const { id, method } = JSON.parse(body) as { id?: number; method: string };
      if (id === undefined) res.writeHead(202).end();
      else res.writeHead(200, { 'content-type': 'text/event-stream' }).write(`data: ${JSON.stringify({ jsonrpc: '2.0', id, result: answers[method] })}\n\n`);
    });
    onTestFinished(() => scripted.stop());
    const signals: AbortSignal[] = [];
    const client = await connected(scripted.url, { listen: false, fetch: (url, init) => (signals.push(init?.signal as AbortSignal), fetch(url, init)) });
    await client.callTool({ name: 'any' });
    const call = signals.at(-1);
    expect(call?.aborted).toBe(false);
    await client.close();
    expect(call?.aborted).toBe(true);
    await waitFor(async () => client.metrics().openStreams === 0);
  });
});

describe('G11', () => {
  test('listeners that throw break nothing', async () => {
    await using own = await startServer();
    const client = await connected(own.url, { store: memoryStore() });
    const thrown = (): never => {
      throw new Error('a listener of the user');
    };
    for (const name of ['state', 'resumed', 'reset', 'degraded', 'cursorLost', 'warning', 'retry'] as const) client.events.on(name, thrown);
    client.onerror = thrown;
    client.onclose = thrown;
    client.fallbackNotificationHandler = thrown;
    await streamOpen(own);
    await own.notify('heard by a handler that throws');
    await own.forget();
    expect(await say(client, 'echo', { text: 'after a reset' })).toBe('after a reset');
    await streamOpen(own);
    await own.closeStreams();
    await own.restart();
    expect(await say(client, 'look', { nonce: 'x' }, { safe: true })).toBe('done:x');
    await client.close();
    expect(client.session.state).toBe('closed');
  });

  test('cuts, restarts and closes leave no unhandled rejection', async () => {
    const unhandled: unknown[] = [];
    const note = (error: unknown): void => void unhandled.push(error);
    process.on('unhandledRejection', note);
    onTestFinished(() => void process.off('unhandledRejection', note));
    await using own = await startServer({ eventStore: true });
    const store = fileStore(await temporaryDirectory());
    for (let i = 0; i < 5; i++) {
      const client = await connected(own.url, { store });
      const calls = Array.from({ length: 10 }, (_, n) => say(client, 'work', { nonce: `${i} ${n}`, ms: 600_000 }).catch(() => {}));
      await waitFor(async () => (await own.executions()).length >= (i + 1) * 10);
      if (i % 2 === 0) await own.cut();
      else await own.restart();
      await client.close();
      await Promise.all(calls);
    }
    // Unhandled rejections are told when the microtasks are done.
    await new Promise((resolve) => void setImmediate(resolve));
    expect(unhandled).toEqual([]);
  });
});
