import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
  LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
  ToolListChangedNotificationSchema,
  type JSONRPCMessage,
} from '@modelcontextprotocol/sdk/types.js';
import { createParser, type EventSourceMessage } from 'eventsource-parser';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { runScript } from './client-process.ts';
import type { Execution } from './contract.ts';
import { lostDialects, type LostDialect } from './dialects.ts';
import { OrderedEventStore } from './event-store.ts';
import { everythingStdio, startEverything, startEverythingSse, type EverythingProcess } from './everything.ts';
import { startProxy } from './proxy.ts';
import { startRecordingProxy } from './recording-proxy.ts';
import { fixtureStdio, startServer, type FixtureProcess } from './server.ts';
import { waitFor } from './wait.ts';

// ── A client that can be looked through ─────────────────────────────────────────────────────────────────────────────

async function connected(transport: Transport): Promise<Client> {
  const client = new Client({ name: 'test', version: '1.0.0' }, { capabilities: { sampling: {}, elicitation: {}, roots: {} } });
  client.setRequestHandler(CreateMessageRequestSchema, ({ params }) => {
    const said = params.messages[0]?.content;
    return { model: 'none', role: 'assistant', content: { type: 'text', text: `sampled ${JSON.stringify(said)}` } };
  });
  client.setRequestHandler(ElicitRequestSchema, () => ({ action: 'accept', content: { name: 'Ada' } }));
  client.setRequestHandler(ListRootsRequestSchema, () => ({ roots: [{ uri: 'file:///here' }] }));
  await client.connect(transport);
  onTestFinished(() => client.close());
  return client;
}

const overHttp = (url: URL) => connected(new StreamableHTTPClientTransport(url) as Transport);

async function say(client: Client, name: string, args: Record<string, unknown> = {}): Promise<string> {
  const { content } = await client.callTool({ name, arguments: args });
  return (content as { text: string }[])[0]?.text ?? '';
}

/** The GET stream is opened behind the client's back. */
const streamOpen = (server: FixtureProcess) =>
  waitFor(async () => (await server.requests()).some(({ http, status, endedBy }) => http === 'GET' && status === 200 && !endedBy));

// ── Plain HTTP ──────────────────────────────────────────────────────────────────────────────────────────────────────

const accept = 'application/json, text/event-stream';

function post(url: URL, message: unknown, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(url, { method: 'POST', headers: { 'content-type': 'application/json', accept, ...headers }, body: JSON.stringify(message) });
}

const initialize = {
  jsonrpc: '2.0',
  id: 'init',
  method: 'initialize',
  params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'raw', version: '0' } },
};
const ping = { jsonrpc: '2.0', id: 7, method: 'ping' };
const call = (id: number, name: string, args: Record<string, unknown>, meta?: object) => ({
  jsonrpc: '2.0',
  id,
  method: 'tools/call',
  params: { name, arguments: args, _meta: meta },
});

/** A session by hand; its headers. */
async function session(url: URL): Promise<Record<string, string>> {
  const response = await post(url, initialize);
  await response.text();
  return { 'mcp-session-id': response.headers.get('mcp-session-id') ?? '', 'mcp-protocol-version': '2025-11-25' };
}

/** The events of a stream, until its end or its cut. */
async function* events(response: Response): AsyncGenerator<EventSourceMessage> {
  let parsed: EventSourceMessage[] = [];
  const parser = createParser({ onEvent: (event) => parsed.push(event) });
  const decoder = new TextDecoder();
  for await (const chunk of response.body ?? []) {
    parser.feed(decoder.decode(chunk as Uint8Array, { stream: true }));
    yield* parsed;
    parsed = [];
  }
}

/** All events of a stream that is cut in the end. */
async function untilCut(response: Response): Promise<EventSourceMessage[]> {
  const seen: EventSourceMessage[] = [];
  await expect(
    (async () => {
      for await (const event of events(response)) seen.push(event);
    })(),
  ).rejects.toThrow();
  return seen;
}

/** The first event that carries a message. */
async function firstMessage(response: Response, fits = (_: { id?: unknown }): boolean => true): Promise<unknown> {
  for await (const { data } of events(response)) {
    const message = data.trim() ? (JSON.parse(data) as { id?: unknown }) : undefined;
    if (message && fits(message)) return message;
  }
  throw new Error('The stream ended without a message');
}

// ── The fixture server ──────────────────────────────────────────────────────────────────────────────────────────────

describe('the fixture server', () => {
  let server: FixtureProcess;
  beforeAll(async () => {
    server = await startServer({ eventStore: true, retryInterval: 10 });
  });
  afterAll(() => server.stop());
  beforeEach(() => server.clearRequests());
  afterEach(async () => {
    await server.behave({ get: 'ok', getRetry: null, lost: '404-json', post: null, hang: null, reply: null, endEmpty: null, sessionIdHeader: null });
  });

  test('has tools, a resource, a prompt, completions and instructions', async () => {
    const client = await overHttp(server.url);
    expect(client.getInstructions()).toContain('fixture');
    expect(client.getServerCapabilities()).toMatchObject({ logging: {}, completions: {}, resources: { subscribe: true, listChanged: true } });
    const { tools } = await client.listTools();
    expect(tools.find(({ name }) => name === 'look')?.annotations).toEqual({ readOnlyHint: true, idempotentHint: true });
    expect(tools.find(({ name }) => name === 'work')?.annotations).toBeUndefined();
    expect(await say(client, 'echo', { text: 'hello' })).toBe('hello');
    expect(await client.callTool({ name: 'sum', arguments: { a: 2, b: 3 } })).toMatchObject({ structuredContent: { total: 5 } });
    expect((await client.readResource({ uri: 'test://one' })).contents).toMatchObject([{ text: 'one' }]);
    expect((await client.getPrompt({ name: 'greet', arguments: { name: 'Ada' } })).messages[0]?.content).toMatchObject({ text: 'Hello, Ada!' });
    const ref = { type: 'ref/prompt' as const, name: 'greet' };
    expect((await client.complete({ ref, argument: { name: 'name', value: 'A' } })).completion.values).toEqual(['Ada', 'Alan']);
  });

  test('journals work, its progress, its end and its abortion', async () => {
    const client = await overHttp(server.url);
    const steps: number[] = [];
    const params = { name: 'work', arguments: { nonce: 'whole', ms: 20, steps: 4 } };
    await client.callTool(params, undefined, { onprogress: ({ progress }) => steps.push(progress) });
    expect(steps).toEqual([1, 2, 3, 4]);

    const controller = new AbortController();
    const halved = client.callTool({ name: 'look', arguments: { nonce: 'half', ms: 60_000 } }, undefined, { signal: controller.signal });
    await waitFor(() => run(server, 'half'));
    controller.abort();
    await expect(halved).rejects.toThrow();
    await waitFor(async () => (await run(server, 'half'))?.aborted);
    const sessionId = client.transport?.sessionId;
    expect(await server.sessions()).toContain(sessionId);
    expect(await run(server, 'whole')).toMatchObject({ tool: 'work', finished: true, sessionId });
    expect(await run(server, 'half')).toMatchObject({ tool: 'look', aborted: true });
    expect((await run(server, 'half'))?.finished).toBeUndefined();
  });

  test.each([false, true])('asks the client during a call, over the GET stream: %s', async (late) => {
    const client = await overHttp(server.url);
    await streamOpen(server);
    expect(await say(client, 'sample', { prompt: 'why', late })).toContain('why');
    expect(JSON.parse(await say(client, 'elicit', { message: 'who', late }))).toEqual({ action: 'accept', content: { name: 'Ada' } });
    expect(JSON.parse(await say(client, 'roots', { late }))).toEqual(['file:///here']);
  });

  test('notifies over the GET stream, as subscribed and as loud as asked', async () => {
    const client = await overHttp(server.url);
    const heard: unknown[] = [];
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => void heard.push(params.data));
    client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => void heard.push(params.uri));
    client.setNotificationHandler(ToolListChangedNotificationSchema, () => void heard.push('tools'));
    await streamOpen(server);
    expect(await say(client, 'touch', { uri: 'test://one' })).toBe('not subscribed');
    await client.subscribeResource({ uri: 'test://one' });
    await say(client, 'touch', { uri: 'test://one' });
    await say(client, 'announce', { text: 'hear' });
    await server.notify('hear ye');
    await client.setLoggingLevel('error');
    await server.notify('unheard');
    await say(client, 'grow', { name: 'branch' });
    await waitFor(() => heard.includes('tools'));
    expect(heard).toEqual(['test://one', 'hear', 'hear ye', 'tools']);
    expect(await say(client, 'branch')).toBe('branch');
    const states = await server.subscriptions();
    expect(states).toContainEqual({ sessionId: expect.any(String), uris: ['test://one'], level: 'error' });
    await client.unsubscribeResource({ uri: 'test://one' });
    expect(await say(client, 'touch', { uri: 'test://one' })).toBe('not subscribed');
  });

  test('journals the wire', async () => {
    const headers = await session(server.url);
    await (await post(server.url, call(1, 'echo', { text: 'x' }), { ...headers, 'x-mine': 'yes' })).text();
    await (await post(server.url, [ping, { jsonrpc: '2.0', id: 8, result: {} }], headers)).text();
    const ended = new AbortController();
    await fetch(server.url, { headers: { ...headers, accept }, signal: ended.signal });
    ended.abort();
    const seen = await waitFor(async () => {
      const entries = await server.requests();
      return entries.every(({ endedBy }) => endedBy) && entries;
    });
    expect(seen).toMatchObject([
      { http: 'POST', status: 200, endedBy: 'server', rpc: [{ method: 'initialize', id: 'init' }] },
      { http: 'POST', status: 200, rpc: [{ method: 'tools/call', id: 1, toolName: 'echo' }], headers: { 'x-mine': 'yes' } },
      { http: 'POST', status: 200, rpc: [{ method: 'ping', id: 7 }, { id: 8 }] },
      { http: 'GET', status: 200, endedBy: 'client', rpc: [], sessionId: headers['mcp-session-id'], protocolVersion: '2025-11-25' },
    ]);
    expect(seen[0]).not.toHaveProperty('sessionId');
    for (const { n, at, socket } of seen) expect(Math.min(n, at, socket)).toBeGreaterThan(0);
  });

  test('refuses what has no session, and what is no JSON', async () => {
    expect((await post(server.url, ping)).status).toBe(400);
    expect((await fetch(server.url, { headers: { accept } })).status).toBe(400);
    expect((await fetch(server.url, { method: 'POST', headers: { accept, 'content-type': 'application/json' }, body: '{' })).status).toBe(400);
    const headers = await session(server.url);
    expect((await fetch(server.url, { method: 'DELETE', headers })).status).toBe(200);
    expect((await post(server.url, ping, headers)).status).toBe(404);
  });

  const saidOfLost: Record<Exclude<LostDialect, 'adopts'>, [status: number, said: string | RegExp]> = {
    '404-json': [404, '{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}'],
    '404-json-own-id': [404, /"Session not found".*"id":7/],
    '404-text': [404, 'Session not found'],
    '404-html': [404, /<h1>/],
    '404-empty': [404, ''],
    '400-everything': [400, /-32000.*Bad Request: No valid session ID provided/],
    '400-not-initialized': [400, /Bad Request: Server not initialized/],
    '400-unknown-header': [400, /Bad Request: Unknown Mcp-Session-Id header/],
    '400-invalid-request': [400, /Invalid Request: Session not found/],
    '401-session': [401, /Unauthorized: Session not found/],
    '503-session': [503, /Session not found/],
    '400-32022': [400, /-32022.*"supported":\["2026-07-28"\]/],
  };

  test.each(Object.entries(saidOfLost))('says that a session is lost: %s', async (dialect, [status, said]) => {
    await server.behave({ lost: dialect as LostDialect });
    const headers = await session(server.url);
    await server.forget();
    expect(await server.sessions()).toEqual([]);
    for (const method of ['GET', 'DELETE']) expect((await fetch(server.url, { method, headers: { ...headers, accept } })).status).toBe(status);
    expect((await post(server.url, initialize, headers)).status).toBe(status);
    const refused = await post(server.url, ping, headers);
    expect(refused.status).toBe(status);
    expect(refused.headers.get('www-authenticate')).toBeNull();
    expect(refused.headers.has('content-type')).toBe(dialect !== '404-empty');
    expect(await refused.text()).toEqual(typeof said === 'string' ? said : expect.stringMatching(said));
  });

  test('adopts an unknown session', async () => {
    expect(lostDialects).toEqual([...Object.keys(saidOfLost), 'adopts']);
    await server.behave({ lost: 'adopts' });
    const headers = { 'mcp-session-id': 'not-yours', 'mcp-protocol-version': '2025-11-25' };
    const response = await post(server.url, call(1, 'echo', { text: 'mine' }), headers);
    expect(await firstMessage(response)).toMatchObject({ id: 1, result: { content: [{ text: 'mine' }] } });
    expect((await post(server.url, initialize, { 'mcp-session-id': 'nobodys' })).status).toBe(200);
    expect(await server.sessions()).toEqual(expect.arrayContaining(['not-yours', 'nobodys']));
  });

  test('resumes a cut call from its event store, in order and without other streams', async () => {
    const headers = await session(server.url);
    const [one] = await untilCut(await post(server.url, call(1, 'cutme', { nonce: 'resumed', ms: 20 }), headers));
    expect(one).toMatchObject({ data: '', id: expect.stringMatching(/::1$/) });
    expect(one).not.toHaveProperty('retry');
    const again = await fetch(server.url, { headers: { ...headers, accept, 'last-event-id': one?.id ?? '' } });
    expect(await firstMessage(again)).toMatchObject({ id: 1, result: { content: [{ text: 'done:resumed' }] } });
    expect(await run(server, 'resumed')).toMatchObject({ tool: 'cutme', finished: true });
    const unknown = await fetch(server.url, { headers: { ...headers, accept, 'last-event-id': `${one?.id}9` } });
    expect(unknown.status).toBe(400);
  });

  test('cuts after the work too, and shows progress before', async () => {
    const headers = await session(server.url);
    const response = await post(server.url, call(1, 'cutme', { nonce: 'late cut', ms: 5, after: true }, { progressToken: 9 }), headers);
    const seen = await untilCut(response);
    expect(seen.map(({ data }) => data && JSON.parse(data).params.progress)).toEqual(['', 1, 0]);
    const again = await fetch(server.url, { headers: { ...headers, accept, 'last-event-id': seen[0]?.id ?? '' } });
    const replayed: unknown[] = [];
    for await (const { data } of events(again)) {
      replayed.push(JSON.parse(data));
      if (replayed.length === 3) break;
    }
    expect(replayed).toMatchObject([{ params: { progress: 1 } }, { params: { progress: 0 } }, { id: 1 }]);
  });

  test('keeps the streams of its event store apart', async () => {
    const store = new OrderedEventStore();
    const message = (id: number) => ({ jsonrpc: '2.0' as const, id, result: {} });
    const first = await store.storeEvent('a::b', message(0));
    for (let id = 1; id < 30; id++) await store.storeEvent(id % 3 ? 'a::b' : 'c', message(id));
    const replayed: unknown[] = [];
    const send = async (eventId: string, sent: JSONRPCMessage) => void replayed.push([eventId, 'id' in sent && sent.id]);
    expect(await store.replayEventsAfter(first, { send })).toBe('a::b');
    expect(replayed).toHaveLength(20);
    expect(replayed.slice(0, 3)).toEqual([['a::b::2', 1], ['a::b::3', 2], ['a::b::4', 4]]);
    for (const unknown of ['a::b::22', 'a::b::0', 'a::b::', 'a::b', '', 'x::1']) expect(await store.getStreamIdForEventId(unknown)).toBeUndefined();
  });

  test('keeps what it said while nobody listened', async () => {
    const headers = await session(server.url);
    const listen = (lastEventId?: string) =>
      fetch(server.url, { headers: { ...headers, accept, ...(lastEventId && { 'last-event-id': lastEventId }) } });
    const first = events(await listen());
    await server.notify('one');
    const { value } = await first.next();
    await server.closeStreams();
    expect(await first.next()).toEqual({ done: true, value: undefined });
    await server.notify('two');
    await server.notify('three');
    const second = events(await listen((value as EventSourceMessage).id));
    expect((await second.next()).value).toMatchObject({ data: expect.stringContaining('two') });
    expect((await second.next()).value).toMatchObject({ data: expect.stringContaining('three') });
    await second.return(undefined);
  });

  test('forgets: streams end, calls are aborted, events are gone', async () => {
    const headers = await session(server.url);
    const stream = await fetch(server.url, { headers: { ...headers, accept } });
    const working = await post(server.url, call(1, 'work', { nonce: 'forgotten', ms: 60_000 }), headers);
    await waitFor(() => run(server, 'forgotten'));
    await server.forget();
    expect(await stream.text()).toBe('');
    expect(await working.text()).not.toContain('result');
    await waitFor(async () => (await run(server, 'forgotten'))?.aborted);
    expect((await post(server.url, ping, headers)).status).toBe(404);
  });

  test('cuts every connection', async () => {
    const headers = await session(server.url);
    const stream = await fetch(server.url, { headers: { ...headers, accept } });
    const working = await post(server.url, call(1, 'work', { nonce: 'uncut', ms: 1000 }), headers);
    await waitFor(() => run(server, 'uncut'));
    await server.cut();
    await untilCut(stream);
    await untilCut(working);
    // A call outlives its connection.
    await waitFor(async () => (await run(server, 'uncut'))?.finished);
    const cut = (await server.requests()).slice(1);
    expect(cut).toMatchObject([{ endedBy: 'server' }, { endedBy: 'server' }]);
    expect((await post(server.url, ping, headers)).status).toBe(200);
  });

  test('plays scripted faults', async () => {
    const headers = await session(server.url);
    const get = () => fetch(server.url, { headers: { ...headers, accept } });
    for (const status of [404, 405, 406, 409] as const) {
      await server.behave({ get: status });
      expect((await get()).status).toBe(status);
    }
    await server.behave({ get: 'close' });
    expect(await (await get()).text()).toBe('');
    await server.behave({ get: 'ok', getRetry: 1234 });
    const stream = await get();
    const { value } = (await stream.body?.getReader().read()) ?? {};
    expect(new TextDecoder().decode(value as Uint8Array)).toBe('retry: 1234\n\n');

    await server.behave({ post: { status: 429, headers: { 'retry-after': '1' }, body: 'slow', contentType: 'text/plain', times: 2, onlyMethod: 'ping' } });
    const busy = await post(server.url, ping, headers);
    expect([busy.status, busy.headers.get('retry-after'), busy.headers.get('content-type'), await busy.text()]).toEqual([429, '1', 'text/plain', 'slow']);
    expect((await post(server.url, call(1, 'echo', { text: 'other' }), headers)).status).toBe(200);
    expect((await post(server.url, ping, headers)).status).toBe(429);
    expect((await post(server.url, ping, headers)).status).toBe(200);
    await server.behave({ post: { status: 500, times: 1 } });
    expect((await post(server.url, initialize)).status).toBe(500);

    await server.behave({ reply: { onlyMethod: 'ping', times: 1, contentType: 'application/json', status: 203, body: '{"id":{{id}}}' } });
    const raw = await post(server.url, ping, headers);
    expect([raw.status, await raw.json()]).toEqual([203, { id: 7 }]);

    await server.behave({ endEmpty: { onlyMethod: 'ping', times: 1 } });
    const empty = await post(server.url, ping, headers);
    expect([empty.headers.get('content-type'), await empty.text()]).toEqual(['text/event-stream', '']);

    await server.behave({ sessionIdHeader: 'x'.repeat(2000) });
    expect((await post(server.url, initialize)).headers.get('mcp-session-id')).toHaveLength(2000);

    await server.clearRequests();
    await server.behave({ hang: { onlyMethod: 'ping', times: 1 } });
    const controller = new AbortController();
    const hanging = fetch(server.url, { method: 'POST', headers: { ...headers, accept }, body: JSON.stringify(ping), signal: controller.signal });
    const entry = await waitFor(async () => (await server.requests()).find(({ rpc }) => rpc.length > 0));
    expect(entry).not.toHaveProperty('status');
    controller.abort();
    await expect(hanging).rejects.toThrow();
    await waitFor(async () => (await server.requests())[0]?.endedBy === 'client');
  });
});

describe('other fixture servers', () => {
  test('one that answers in JSON', async () => {
    await using server = await startServer({ mode: 'json' });
    const client = await overHttp(server.url);
    expect(await say(client, 'echo', { text: 'json' })).toBe('json');
    const headers = await session(server.url);
    expect((await post(server.url, ping, headers)).headers.get('content-type')).toBe('application/json');
    await expect(post(server.url, call(1, 'cutme', { nonce: 'json' }), headers)).rejects.toThrow('fetch failed');
    const working = post(server.url, call(2, 'work', { nonce: 'owed', ms: 60_000 }), headers);
    await waitFor(() => run(server, 'owed'));
    await Promise.all([server.forget(), expect(working).rejects.toThrow('fetch failed')]);
  });

  test('one without sessions', async () => {
    await using server = await startServer({ sessions: false });
    const client = await overHttp(server.url);
    expect(client.transport?.sessionId).toBeUndefined();
    expect(await say(client, 'work', { nonce: 'stateless' })).toBe('done:stateless');
    expect((await fetch(server.url, { headers: { accept } })).status).toBe(405);
    expect((await post(server.url, ping, { 'mcp-session-id': 'whatever' })).status).toBe(200);
  });

  test('an older one, without and with an event store', async () => {
    await using server = await startServer({ protocolVersion: '2025-03-26', eventStore: true });
    const client = await overHttp(server.url);
    await client.ping();
    expect((await server.requests()).at(-1)).toMatchObject({ protocolVersion: '2025-03-26' });
    const headers = { ...(await session(server.url)), 'mcp-protocol-version': '2025-03-26' };
    const unprimed = await post(server.url, call(1, 'cutme', { nonce: 'unprimed' }), headers);
    expect(await untilCut(unprimed)).toEqual([]);
    const marked = await post(server.url, call(2, 'cutme', { nonce: 'marked' }, { progressToken: 1 }), headers);
    expect(await untilCut(marked)).toMatchObject([{ id: expect.stringMatching(/::1$/) }]);
  });

  test('one that is killed and restarted', async () => {
    await using server = await startServer();
    const { port, pid } = server;
    const headers = await session(server.url);
    const working = await post(server.url, call(1, 'work', { nonce: 'killed', ms: 60_000 }), headers);
    await waitFor(() => run(server, 'killed'));
    await server.kill();
    await untilCut(working);
    await expect(fetch(server.url)).rejects.toMatchObject({ cause: { code: 'ECONNREFUSED' } });
    await expect(server.requests()).rejects.toThrow('not running');
    await server.restart();
    expect(server.port).toBe(port);
    expect(server.pid).not.toBe(pid);
    expect(await server.requests()).toEqual([]);
    expect((await post(server.url, ping, headers)).status).toBe(404);
    await (await post(server.url, call(2, 'work', { nonce: 'killed' }), await session(server.url))).text();
    expect((await server.executions()).map(({ nonce, finished }) => [nonce, finished])).toEqual([['killed', undefined], ['killed', true]]);
  });

  test('one that cannot start says why', async () => {
    await using server = await startServer();
    await expect(startServer({ port: server.port })).rejects.toThrow('EADDRINUSE');
  });

  test('one that dies unasked fails what was asked of it', async () => {
    await using server = await startServer();
    const { pid = 0 } = server;
    // Stopped first, so that it cannot answer in its last moment.
    process.kill(pid, 'SIGSTOP');
    const asked = expect(server.requests()).rejects.toThrow(/exited \(SIGKILL\)/);
    process.kill(pid, 'SIGKILL');
    await asked;
  });
});

// ── Networks ────────────────────────────────────────────────────────────────────────────────────────────────────────

describe('the TCP proxy', () => {
  let server: FixtureProcess;
  beforeAll(async () => {
    server = await startServer({ eventStore: true });
  });
  afterAll(() => server.stop());

  test('passes on, cuts, refuses and accepts again', async () => {
    await using proxy = await startProxy(server.url);
    expect(proxy.url.pathname).toBe(server.url.pathname);
    const headers = await session(proxy.url);
    const stream = await fetch(proxy.url, { headers: { ...headers, accept } });
    expect(proxy.connections()).toBeGreaterThan(0);
    proxy.cut();
    await untilCut(stream);
    await waitFor(() => proxy.connections() === 0);
    await waitFor(async () => (await server.requests()).at(-1)?.endedBy === 'client');
    proxy.refuse();
    await expect(post(proxy.url, ping, headers)).rejects.toMatchObject({ cause: { code: 'ECONNREFUSED' } });
    await proxy.accept();
    expect((await post(proxy.url, ping, headers)).status).toBe(200);
  });

  test('swallows everything for a while', async () => {
    await using proxy = await startProxy(server.url);
    const headers = await session(proxy.url);
    await server.clearRequests();
    proxy.blackhole(true);
    const controller = new AbortController();
    const lost = post(proxy.url, call(1, 'work', { nonce: 'swallowed' }), headers);
    const given = fetch(proxy.url, { headers: { ...headers, accept }, signal: controller.signal });
    await waitFor(() => proxy.connections() >= 2);
    // A way round the proxy shows that the server is idle.
    await (await post(server.url, ping, headers)).text();
    expect((await server.requests()).map(({ rpc }) => rpc[0]?.method)).toEqual(['ping']);
    controller.abort();
    await expect(given).rejects.toThrow();
    proxy.blackhole(false);
    expect(await firstMessage(await lost)).toMatchObject({ id: 1 });
  });

  test('cuts in mid-stream', async () => {
    await using proxy = await startProxy(server.url);
    const headers = await session(proxy.url);
    let budget = 0;
    proxy.onResponseChunk((chunk) => {
      const text = chunk.toString();
      budget = text.includes('done:') ? text.indexOf('done:') : 0;
      return budget || undefined;
    });
    const cut = await untilCut(await post(proxy.url, call(1, 'work', { nonce: 'torn', ms: 10 }), headers));
    expect(cut).toMatchObject([{ data: '' }]);
    expect(budget).toBeGreaterThan(0);
    proxy.onResponseChunk(undefined);
    // The server answers 409 until it has noticed the cut.
    const again = await waitFor(async () => {
      const response = await fetch(proxy.url, { headers: { ...headers, accept, 'last-event-id': cut[0]?.id ?? '' } });
      return response.ok && response;
    });
    expect(await firstMessage(again)).toMatchObject({ id: 1 });
  });
});

describe('server-everything behind the recording proxy', () => {
  let everything: EverythingProcess;
  beforeAll(async () => {
    everything = await startEverything();
  });
  afterAll(() => everything.stop());

  test('is recorded, streams, and is cut in mid-call', async () => {
    await using proxy = await startRecordingProxy(everything.url);
    const client = await overHttp(proxy.url);
    expect(await say(client, 'echo', { message: 'hello' })).toContain('hello');
    await waitFor(() => proxy.requests().some(({ http, status }) => http === 'GET' && status === 200));
    expect(proxy.requests()[0]).toMatchObject({ http: 'POST', status: 200, rpc: [{ method: 'initialize', id: 0 }] });
    expect(proxy.requests().at(-1)).toMatchObject({ rpc: [{ method: 'tools/call', toolName: 'echo' }], endedBy: 'server' });

    const headers = { 'mcp-session-id': client.transport?.sessionId ?? '', 'mcp-protocol-version': '2025-11-25' };
    const cut = proxy.cutCall('trigger-long-running-operation');
    const response = await post(proxy.url, call(99, 'trigger-long-running-operation', { duration: 0.1, steps: 1 }), headers);
    const [primed] = await Promise.all([untilCut(response), cut]);
    expect(primed).toMatchObject([{ data: '', id: expect.any(String) }]);
    // Its event store hands over only what it had when it was asked, so it may have to be asked again.
    const resume = async () => {
      const request = { headers: { ...headers, accept, 'last-event-id': primed[0]?.id ?? '' }, signal: AbortSignal.timeout(200) };
      // It may ask for the client's roots meanwhile.
      return await firstMessage(await fetch(proxy.url, request), ({ id }) => id === 99).catch(() => undefined);
    };
    expect(await waitFor(resume)).toMatchObject({ id: 99 });
    expect(proxy.requests().at(-1)).toMatchObject({ http: 'GET', lastEventId: primed[0]?.id });

    const streams = proxy.requests().filter(({ http, endedBy }) => http === 'GET' && !endedBy);
    expect(streams).not.toEqual([]);
    proxy.cut();
    await waitFor(() => proxy.requests().every(({ endedBy }) => endedBy));
    proxy.clearRequests();
    expect(proxy.requests()).toEqual([]);
  });

  test('forgets its sessions in a restart, on the same port', async () => {
    await using proxy = await startRecordingProxy(everything.url);
    const headers = await session(proxy.url);
    const stream = await fetch(proxy.url, { headers: { ...headers, accept } });
    await everything.restart();
    await untilCut(stream);
    expect(proxy.requests().at(-1)).toMatchObject({ http: 'GET', endedBy: 'server' });
    const refused = await post(proxy.url, ping, headers);
    expect([refused.status, await refused.text()]).toEqual([400, expect.stringContaining('No valid session ID provided')]);
    await everything.kill();
    await expect(post(proxy.url, ping)).rejects.toThrow('fetch failed');
    await everything.restart();
  });

  test('hears when the client goes', async () => {
    await using proxy = await startRecordingProxy(everything.url);
    const headers = await session(proxy.url);
    const listen = (signal?: AbortSignal) => fetch(proxy.url, { headers: { ...headers, accept }, ...(signal && { signal }) });
    const controller = new AbortController();
    await listen(controller.signal);
    expect((await listen()).status).toBe(409);
    controller.abort();
    await waitFor(() => proxy.requests().some(({ endedBy }) => endedBy === 'client'));
    // The server has a place for a new stream once it has seen the old one go.
    await waitFor(async () => (await listen()).status === 200);
  });

  test('speaks the old SSE transport and stdio too', async () => {
    await using sse = await startEverythingSse();
    const old = await connected(new SSEClientTransport(sse.url) as Transport);
    expect(await say(old, 'echo', { message: 'old' })).toContain('old');
    const piped = await connected(new StdioClientTransport({ ...everythingStdio, stderr: 'ignore' }));
    expect(await say(piped, 'echo', { message: 'piped' })).toContain('piped');
  });
});

// ── Processes ───────────────────────────────────────────────────────────────────────────────────────────────────────

describe('the stdio fixture', () => {
  test('has the same tools, journals to a file, is noisy on request and crashes on request', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'support-'));
    onTestFinished(() => rm(directory, { recursive: true }));
    const journal = join(directory, 'journal');
    const transport = new StdioClientTransport({ ...fixtureStdio, env: { NOISY: '1', JOURNAL: journal }, stderr: 'pipe' });
    let stderr = '';
    transport.stderr?.on('data', (text) => (stderr += text));
    const noise: Error[] = [];
    transport.onerror = (error) => noise.push(error);
    const client = await connected(transport);
    expect(noise).toHaveLength(1);
    expect(await say(client, 'work', { nonce: 'piped' })).toBe('done:piped');
    const lines = (await readFile(journal, 'utf8')).trim().split('\n').map((line) => JSON.parse(line) as Execution);
    expect(lines).toMatchObject([{ nonce: 'piped' }, { nonce: 'piped', finished: true }]);
    await expect(say(client, 'crash')).rejects.toThrow('Connection closed');
    await waitFor(() => stderr.includes('crashes as told'));
  });
});

describe('a client in its own process', () => {
  const script = new URL('./example-script.ts', import.meta.url);

  test('talks with its test and ends by itself', async () => {
    await using server = await startServer();
    await using client = runScript(script, [server.url.href]);
    await client.next('ready');
    client.send({ type: 'say', text: 'hi' });
    expect(await client.next()).toMatchObject({ type: 'said', content: [{ text: 'hi' }] });
    client.send({ type: 'stop' });
    expect(await client.exit).toEqual({ code: 0, signal: null });
    expect(client.stdout).toBe('said hi\n');
    await expect(client.next()).rejects.toThrow('exited (0)');
  });

  test('can be killed, and says what it died of', async () => {
    await using server = await startServer();
    await using client = runScript(script, [server.url.href]);
    await client.next('ready');
    expect(await client.kill()).toEqual({ code: null, signal: 'SIGKILL' });
    await using failing = runScript(script, ['no url']);
    await expect(failing.next('ready')).rejects.toThrow('Invalid URL');
    expect(await failing.exit).toMatchObject({ code: 1 });
  });
});

async function run(server: FixtureProcess, nonce: string): Promise<Execution | undefined> {
  return (await server.executions()).find((execution) => execution.nonce === nonce);
}
