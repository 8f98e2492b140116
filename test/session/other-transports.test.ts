import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js';
import { InMemoryTransport } from '@modelcontextprotocol/sdk/inMemory.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { CreateMessageRequestSchema, type JSONRPCMessage } from '@modelcontextprotocol/sdk/types.js';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import {
  ClosedError,
  type ConnectOptions,
  DeadlineError,
  memoryStore,
  OutcomeUnknownError,
  RefusedError,
  type ResilientClient,
  SessionTransport,
  type Store,
  type Target,
  UnreachableError,
} from '../../src/index.ts';
import type { Execution } from '../support/contract.ts';
import { type EverythingProcess, startEverythingSse } from '../support/everything.ts';
import { startRecordingProxy } from '../support/recording-proxy.ts';
import { type FixtureProcess, fixtureStdio, startServer } from '../support/server.ts';
import { createFixtureServer, type FixtureServer } from '../support/tools.ts';
import { waitFor } from '../support/wait.ts';
import { clientOf, connected, failure, heardFrom, runsOf, say, temporaryDirectory, wellBehaved, wireOf } from './clients.ts';

/**
 * Connections that are a session by themselves: a pipe to a child process, the old HTTP+SSE transport, and whatever a function makes.
 * The session is gone with its connection, and the next call makes another.
 */

/** Waits until a client knows that its connection, and with it its session, is gone. */
const lost = (client: ResilientClient) => waitFor(() => client.session.state === 'lost', { what: 'the loss of the session' });

async function keysOf(store: Store): Promise<string[]> {
  const keys: string[] = [];
  for await (const key of store.keys('')) keys.push(key);
  return keys;
}

// ── A child process ─────────────────────────────────────────────────────────────────────────────────────────────────

interface Traced {
  target: Target;
  /** The processes that were ever started, in order. */
  pids(): Promise<number[]>;
  executions(): Promise<Execution[]>;
}

async function linesOf(file: string): Promise<string[]> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return text.split('\n').slice(0, -1);
}

/** A command whose processes say who they are: the stdio fixture, or other arguments for Node. */
async function traced({ args = fixtureStdio.args, env = {} }: { args?: string[]; env?: Record<string, string> } = {}): Promise<Traced> {
  const directory = await temporaryDirectory();
  const [pidFile, journal] = [join(directory, 'pids'), join(directory, 'journal')];
  const introduce = 'import { appendFileSync } from "node:fs"; appendFileSync(process.env.PIDS, process.pid + "\\n");';
  return {
    target: {
      command: fixtureStdio.command,
      args: ['--import', `data:text/javascript,${encodeURIComponent(introduce)}`, ...args],
      env: { PIDS: pidFile, JOURNAL: journal, ...env },
    },
    pids: async () => (await linesOf(pidFile)).map(Number),
    executions: async () => [...new Map((await linesOf(journal)).map((line) => JSON.parse(line) as Execution).map((execution) => [execution.id, execution])).values()],
  };
}

function isAlive(pid: number | undefined): boolean {
  try {
    return pid !== undefined && process.kill(pid, 0);
  } catch {
    return false;
  }
}

async function kill(pid: number | undefined): Promise<void> {
  if (pid !== undefined) process.kill(pid, 'SIGKILL');
  await waitFor(() => !isAlive(pid));
}

const inFlight = (server: Traced, ...nonces: string[]) =>
  waitFor(async () => {
    const started = new Set((await server.executions()).map(({ nonce }) => nonce));
    return nonces.every((nonce) => started.has(nonce));
  });

describe('a server that is started as a child process', () => {
  test('is a whole server: tools, resources, progress, and questions to the client', async () => {
    const { target, pids } = await traced();
    const client = clientOf(target, { capabilities: { sampling: {} } });
    client.setRequestHandler(CreateMessageRequestSchema, () => ({ model: 'none', role: 'assistant', content: { type: 'text', text: 'because' } }));
    await client.connect();
    expect(client.getInstructions()).toBe('Use the fixture well.');
    expect(await say(client, 'echo', { text: 'piped' })).toBe('piped');
    expect((await client.readResource({ uri: 'test://one' })).contents).toMatchObject([{ text: 'one' }]);
    const steps: number[] = [];
    expect(await say(client, 'work', { nonce: 'steps', ms: 30, steps: 3 }, { onprogress: ({ progress }) => steps.push(progress) })).toBe('done:steps');
    expect(steps).toEqual([1, 2, 3]);
    for (const late of [false, true]) expect(await say(client, 'sample', { prompt: 'why', late })).toBe('because');
    expect(client.session).toMatchObject({ state: 'ready', resumed: false, id: undefined });
    expect(await pids()).toHaveLength(1);
  });

  test('that crashes in mid-call: the call fails with its last words, and the next one has a new process (G6)', async () => {
    const { target, pids } = await traced();
    const client = await connected(target);
    const heard = heardFrom(client);
    const error = await failure(say(client, 'crash'));
    expect(error).toBeInstanceOf(OutcomeUnknownError);
    expect(error.message).toContain('The fixture crashes as told');
    expect(heard.reset).toEqual([]);
    expect(await say(client, 'echo', { text: 'alive' })).toBe('alive');
    expect(heard.reset).toEqual([{ reason: expect.stringContaining('The fixture crashes as told'), adopted: false }]);
    const [first, second, ...others] = await pids();
    expect([isAlive(first), isAlive(second), others]).toEqual([false, true, []]);
  });

  test('that is killed between two calls: ten calls at once share one new process, and lose nothing', async () => {
    const { target, pids } = await traced();
    const client = await connected(target);
    const heard = heardFrom(client);
    await kill((await pids())[0]);
    await lost(client);
    const texts = Array.from({ length: 10 }, (_, i) => `call ${i}`);
    expect(await Promise.all(texts.map((text) => say(client, 'echo', { text })))).toEqual(texts);
    expect(heard.reset).toHaveLength(1);
    expect(await pids()).toHaveLength(2);
  });

  test('that is killed in mid-call: what may be repeated runs again on a new process, nothing else does (G1, G2)', async () => {
    const server = await traced();
    const client = await connected(server.target);
    const heard = heardFrom(client);
    const unsafe = ['one', 'two', 'three'].map((nonce) => failure(say(client, 'work', { nonce, ms: 60_000 })));
    const safe = say(client, 'look', { nonce: 'safe', ms: 500 }, { safe: true });
    await inFlight(server, 'one', 'two', 'three', 'safe');
    await kill((await server.pids())[0]);
    for (const error of await Promise.all(unsafe)) expect(error).toBeInstanceOf(OutcomeUnknownError);
    expect(await safe).toBe('done:safe');
    expect((await server.executions()).map(({ nonce }) => nonce).sort()).toEqual(['one', 'safe', 'safe', 'three', 'two']);
    expect(heard.reset).toHaveLength(1);
    expect(await server.pids()).toHaveLength(2);
  });

  test('that prints noise on stdout is understood all the same, and the noise is told', async () => {
    const { target } = await traced({ env: { NOISY: '1' } });
    const client = clientOf(target);
    const errors: Error[] = [];
    client.onerror = (error) => errors.push(error);
    await client.connect();
    expect(await say(client, 'echo', { text: 'through the noise' })).toBe('through the noise');
    expect(errors).toHaveLength(1);
  });

  test('does a call that is given up no longer, and goes on with the others', async () => {
    const server = await traced();
    const client = await connected(server.target);
    const giveUp = new AbortController();
    const aborted = failure(say(client, 'work', { nonce: 'aborted', ms: 60_000 }, { signal: giveUp.signal }));
    const late = failure(say(client, 'work', { nonce: 'late', ms: 60_000 }, { timeout: 500 }));
    const patient = say(client, 'work', { nonce: 'patient', ms: 1000 });
    await inFlight(server, 'aborted', 'late', 'patient');
    giveUp.abort();
    await aborted;
    expect(await late).toMatchObject({ code: 'DEADLINE', outcome: 'unknown' });
    expect(await patient).toBe('done:patient');
    await waitFor(async () => (await server.executions()).filter(({ aborted }) => aborted).length === 2);
    expect(await server.pids()).toHaveLength(1);
  });

  test.each(['close', 'end'] as const)('is gone when %s() has resolved', async (leave) => {
    const { target, pids } = await traced();
    const client = await connected(target);
    await say(client, 'echo', { text: 'x' });
    const [pid] = await pids();
    expect(isAlive(pid)).toBe(true);
    await client[leave]();
    expect(isAlive(pid)).toBe(false);
    expect(await failure(say(client, 'echo', { text: 'too late' }))).toMatchObject({ message: expect.stringMatching(/not connected/i) });
  });

  test('is ended by close() with a call in flight, and the call says that it may have run', async () => {
    const server = await traced();
    const client = await connected(server.target);
    const call = failure(say(client, 'work', { nonce: 'left', ms: 60_000 }));
    await inFlight(server, 'left');
    await client.close();
    const error = await call;
    expect(error).toBeInstanceOf(ClosedError);
    expect(error).toMatchObject({ outcome: 'unknown' });
    expect(isAlive((await server.pids())[0])).toBe(false);
  });

  test('is started anew by the same client after close()', async () => {
    const { target, pids } = await traced();
    const client = await connected(target);
    await client.close();
    await client.connect();
    expect(await say(client, 'echo', { text: 'again' })).toBe('again');
    const [first, second] = await pids();
    expect([isAlive(first), isAlive(second)]).toEqual([false, true]);
  });

  test('is never stored: each client has a process of its own', async () => {
    const { target, pids } = await traced();
    const store = memoryStore();
    const first = await connected(target, { store });
    await first.listTools();
    await first.subscribeResource({ uri: 'test://one' });
    expect(await keysOf(store)).toEqual([]);
    expect(first.session).toMatchObject({ key: undefined, expiresAt: undefined });
    await first.close();
    expect(await keysOf(store)).toEqual([]);
    const second = await connected(target, { store });
    expect(await say(second, 'echo', { text: 'x' })).toBe('x');
    expect(second.session.resumed).toBe(false);
    expect(await pids()).toHaveLength(2);
    expect(await keysOf(store)).toEqual([]);
  });

  test('that does not exist: the error names the command, at once', async () => {
    const client = clientOf({ command: './no-such-command' });
    const heard = heardFrom(client);
    const error = await failure(client.connect());
    expect(error).toBeInstanceOf(UnreachableError);
    expect(error.message).toMatch(/no-such-command.*ENOENT\. No call was sent\. Is the command installed/);
    expect(heard.retry).toEqual([]);
  });

  test('that dies at once: the error has its last words, and it is not started again and again', async () => {
    const { target, pids } = await traced({ args: ['--eval', 'console.error("No API key"); process.exit(1)'] });
    expect((await failure(clientOf(target).connect())).message).toContain('No API key');
    expect(await pids()).toHaveLength(1);
  });

  test('that never answers is not left behind', async () => {
    const { target, pids } = await traced({ args: ['--eval', 'process.stdin.resume()'] });
    const client = clientOf(target, { timeout: { connect: 1000 } });
    expect(await failure(client.connect())).toBeInstanceOf(DeadlineError);
    const [pid] = await pids();
    expect(pid).toBeDefined();
    await waitFor(() => !isAlive(pid));
  });
});

// ── The old HTTP+SSE transport ──────────────────────────────────────────────────────────────────────────────────────

describe('a server of the old HTTP+SSE transport', () => {
  let server: EverythingProcess;
  beforeAll(async () => void (server = await startEverythingSse()));
  afterAll(() => server.stop());

  const echo = (client: ResilientClient, message: string) => say(client, 'echo', { message });

  test('is found out by connect(url), and is a whole server', async () => {
    await using proxy = await startRecordingProxy(server.url);
    const client = await connected(proxy.url, { headers: () => ({ 'x-tenant': 'ours' }) });
    expect(await echo(client, 'old')).toBe('Echo: old');
    expect((await client.listTools()).tools.map(({ name }) => name)).toContain('echo');
    const steps: number[] = [];
    await say(client, 'trigger-long-running-operation', { duration: 0.1, steps: 3 }, { onprogress: ({ progress }) => steps.push(progress) });
    expect(steps).toEqual([1, 2, 3]);
    const [attempt, stream, ...posts] = proxy.requests();
    expect(attempt).toMatchObject({ http: 'POST', status: 404, rpc: [{ method: 'initialize' }] });
    expect(stream).toMatchObject({ http: 'GET', status: 200 });
    expect(posts.map(({ status }) => status)).toEqual(posts.map(() => 202));
    expect(posts.map(({ rpc }) => rpc[0]?.method).slice(0, 3)).toEqual(['initialize', 'notifications/initialized', 'tools/call']);
    expect(proxy.requests().map(({ headers }) => headers['x-tenant'])).toEqual(proxy.requests().map(() => 'ours'));
  });

  test('that is restarted: ten calls share one new session, and no second attempt at the new transport is made (G6)', async () => {
    await using proxy = await startRecordingProxy(server.url);
    const client = await connected(proxy.url);
    const heard = heardFrom(client);
    expect(await echo(client, 'before')).toBe('Echo: before');
    await server.kill();
    await lost(client);
    await server.restart();
    proxy.clearRequests();
    const messages = Array.from({ length: 10 }, (_, i) => `call ${i}`);
    expect(await Promise.all(messages.map((message) => echo(client, message)))).toEqual(messages.map((message) => `Echo: ${message}`));
    expect(heard.reset).toHaveLength(1);
    expect(proxy.requests().filter(({ rpc }) => rpc[0]?.method === 'initialize')).toMatchObject([{ status: 202 }]);
    expect(proxy.requests().filter(({ http }) => http === 'GET')).toHaveLength(1);
  });

  test('that is down: calls wait until it is back; one that was in flight is not known', async () => {
    const client = await connected(server.url);
    const heard = heardFrom(client);
    const cut = failure(say(client, 'trigger-long-running-operation', { duration: 60, steps: 600 }, { onprogress: () => void server.kill() }));
    expect(await cut).toBeInstanceOf(OutcomeUnknownError);
    const calls = ['one', 'two'].map((message) => echo(client, message));
    await waitFor(() => heard.retry.length > 0);
    await server.restart();
    expect(await Promise.all(calls)).toEqual(['Echo: one', 'Echo: two']);
    expect(heard.reset).toHaveLength(1);
  });

  test('is never stored, and its stream is closed by close()', async () => {
    await using proxy = await startRecordingProxy(server.url);
    const store = memoryStore();
    const client = await connected(proxy.url, { store });
    expect(await echo(client, 'x')).toBe('Echo: x');
    expect(await keysOf(store)).toEqual([]);
    await client.close();
    expect(await keysOf(store)).toEqual([]);
    const stream = await waitFor(() => proxy.requests().find(({ http, endedBy }) => http === 'GET' && endedBy));
    expect(stream.endedBy).toBe('client');
    expect(proxy.requests().filter(({ http }) => http === 'DELETE')).toEqual([]);
  });
});

describe('the fallback to the old transport', () => {
  let server: FixtureProcess;
  beforeAll(async () => void (server = await startServer()));
  afterAll(() => server.stop());
  beforeEach(async () => {
    await server.behave(wellBehaved);
    await server.clearRequests();
  });

  /** What connecting fails with where `initialize` is refused once. */
  async function refused(status: number, options: ConnectOptions = {}): Promise<{ client: ResilientClient; error: Error }> {
    await server.behave({ post: { status, times: 1, onlyMethod: 'initialize', body: 'Not here', contentType: 'text/plain' } });
    const client = clientOf(server.url, { retry: false, ...options });
    return { client, error: await failure(client.connect()) };
  }

  test.each([400, 404, 405])('is tried on %i to initialize; where it fails too, the first refusal is told, and the next attempt starts afresh', async (status) => {
    const { client, error } = await refused(status);
    expect(error).toBeInstanceOf(RefusedError);
    expect(error).toMatchObject({ status, message: expect.stringContaining('Not here') });
    expect((await server.requests()).map(({ http }) => http)).toEqual(['POST', 'GET']);
    await client.connect();
    expect(await say(client, 'echo', { text: 'by the new transport' })).toBe('by the new transport');
    expect(client.session.id).toBeDefined();
  });

  test.each([401, 403, 406, 410, 415, 429, 500, 502, 503])('is not tried on %i to initialize', async (status) => {
    const { error } = await refused(status);
    expect(error.message).toContain(String(status));
    expect((await server.requests()).map(({ http }) => http)).toEqual(['POST']);
  });

  test.each([400, 404, 405])('is not tried on %i to anything but initialize', async (status) => {
    const client = await connected(server.url, { listen: false, retry: false });
    await server.behave({ post: { status, times: 1, onlyMethod: 'tools/call', body: 'Not here', contentType: 'text/plain' } });
    // A 404 with a session id says that the session is lost, and the call is made on a new one.
    await say(client, 'echo', { text: 'x' }).catch(() => {});
    expect(await wireOf(server, 'GET')).toEqual([]);
    expect(await say(client, 'echo', { text: 'next' })).toBe('next');
  });
});

// ── What a function makes ───────────────────────────────────────────────────────────────────────────────────────────

interface InProcess {
  target: () => Transport;
  /** The servers that were made, in order. */
  servers: FixtureServer[];
  /** How many of them are still connected. */
  open(): number;
  executions(): Promise<Execution[]>;
}

/** A server in this process, as somebody's tests would have it. */
function inProcess(): InProcess {
  const servers: FixtureServer[] = [];
  const executions = new Map<string, Execution>();
  const open = new Set<FixtureServer>();
  return {
    servers,
    open: () => open.size,
    executions: async () => [...executions.values()],
    target: () => {
      const [near, far] = InMemoryTransport.createLinkedPair();
      const server = createFixtureServer({ journal: (execution) => void executions.set(execution.id, execution) });
      server.mcp.server.onclose = () => void open.delete(server);
      open.add(server);
      servers.push(server);
      void server.mcp.connect(far as Transport);
      return near as Transport;
    },
  };
}

describe('a function that makes a transport', () => {
  test('is asked once per session: its close loses the session, and the next call makes a new one', async () => {
    const { target, servers, open } = inProcess();
    const client = await connected(target);
    const heard = heardFrom(client);
    expect(await say(client, 'echo', { text: 'one' })).toBe('one');
    expect(await say(client, 'echo', { text: 'two' })).toBe('two');
    expect(servers).toHaveLength(1);

    await servers[0]?.mcp.close();
    expect(client.session.state).toBe('lost');
    expect(servers).toHaveLength(1);
    const texts = Array.from({ length: 10 }, (_, i) => `call ${i}`);
    expect(await Promise.all(texts.map((text) => say(client, 'echo', { text })))).toEqual(texts);
    expect(servers).toHaveLength(2);
    expect(heard.reset).toEqual([{ reason: expect.any(String), adopted: false }]);
    expect(open()).toBe(1);
  });

  test('has its subscriptions and its log level restored on the new session', async () => {
    const { target, servers } = inProcess();
    const client = await connected(target);
    await client.subscribeResource({ uri: 'test://one' });
    await client.setLoggingLevel('warning');
    await servers[0]?.mcp.close();
    expect(await say(client, 'touch', { uri: 'test://one' })).toBe('touched');
    expect(servers[1]?.level).toBe('warning');
  });

  test('that is closed in mid-call: the call is not known, and did not run twice (G2)', async () => {
    const { target, servers, executions } = inProcess();
    const client = await connected(target);
    const call = failure(say(client, 'work', { nonce: 'cut', ms: 60_000 }));
    await waitFor(async () => (await runsOf({ executions }, 'cut'))[0]);
    await servers[0]?.mcp.close();
    expect(await call).toBeInstanceOf(OutcomeUnknownError);
    expect(await say(client, 'echo', { text: 'next' })).toBe('next');
    expect(await runsOf({ executions }, 'cut')).toMatchObject([{ aborted: true }]);
  });

  test('is let go by close(), and nothing is stored for it', async () => {
    const { target, open } = inProcess();
    const store = memoryStore();
    const client = await connected(target, { store });
    expect(await say(client, 'echo', { text: 'x' })).toBe('x');
    await client.close();
    expect(open()).toBe(0);
    expect(await keysOf(store)).toEqual([]);
  });

  test('a late answer over its transport is dropped and counted', async () => {
    const [near, far] = InMemoryTransport.createLinkedPair();
    const received: JSONRPCMessage[] = [];
    far.onmessage = (message) => {
      received.push(message);
      if (!('method' in message) || !('id' in message)) return;
      const result = { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: 'deaf', version: '1.0.0' } };
      if (message.method === 'initialize') void far.send({ jsonrpc: '2.0', id: message.id, result });
      else if (message.method === 'ping') void far.send({ jsonrpc: '2.0', id: message.id, result: {} });
    };
    const transport = new SessionTransport(() => near as Transport);
    const client = new ClientV1({ name: 'bare', version: '1.0.0' });
    onTestFinished(() => client.close());
    await client.connect(transport);
    const errors: Error[] = [];
    client.onerror = (error) => errors.push(error);
    const giveUp = new AbortController();
    const call = failure(client.callTool({ name: 'deaf' }, undefined, { signal: giveUp.signal }));
    const asked = await waitFor(() => received.find((message) => 'method' in message && message.method === 'tools/call'));
    giveUp.abort();
    await call;
    const { id } = asked as { id: number };
    await waitFor(() => received.some((message) => 'method' in message && message.method === 'notifications/cancelled' && message.params?.['requestId'] === id));
    expect(transport.droppedMessages).toBe(0);
    await far.send({ jsonrpc: '2.0', id, result: { content: [] } });
    expect(await client.ping()).toEqual({});
    expect(transport.droppedMessages).toBe(1);
    expect(errors).toEqual([]);
  });

  const impossible: { what: string; returned: unknown }[] = [
    { what: 'nothing', returned: undefined },
    { what: 'null', returned: null },
    { what: 'an object that is no transport', returned: {} },
    { what: 'a promise of one', returned: Promise.resolve(inProcess().target()) },
  ];

  test.each(impossible)('that returns $what: the error says so at once, and it is not asked again', async ({ returned }) => {
    let asked = 0;
    const client = clientOf(() => {
      asked++;
      return returned as Transport;
    });
    const heard = heardFrom(client);
    const error = await failure(client.connect());
    expect(error).toBeInstanceOf(TypeError);
    expect(error.message).toMatch(/function.*transport/);
    expect([asked, heard.retry]).toEqual([1, []]);
  });

  test('that throws: what it threw is told as it is', async () => {
    const reason = new Error('No transport today');
    const client = clientOf(() => {
      throw reason;
    });
    expect(await failure(client.connect())).toBe(reason);
  });

  test('that fails later: the calls that need a new transport fail, until it works again', async () => {
    const { target, servers } = inProcess();
    let broken = false;
    const client = await connected(() => (broken ? (undefined as unknown as Transport) : target()));
    const heard = heardFrom(client);
    broken = true;
    await servers[0]?.mcp.close();
    expect(await failure(say(client, 'echo', { text: 'x' }))).toBeInstanceOf(TypeError);
    broken = false;
    expect(await say(client, 'echo', { text: 'y' })).toBe('y');
    expect(heard.reset).toHaveLength(1);
  });

  test('that makes one which never starts, or never answers: connecting ends at its deadline, and the transport is closed', async () => {
    let closed = 0;
    const silent = (start: () => Promise<void>): Transport => ({ start, send: async () => {}, close: async () => void closed++ });
    for (const start of [() => new Promise<void>(() => {}), async () => {}]) {
      const client = clientOf(() => silent(start), { timeout: { connect: 300 } });
      const error = await failure(client.connect());
      expect(error).toBeInstanceOf(DeadlineError);
      expect(error.message).toContain('timeout.connect');
    }
    await waitFor(() => closed === 2);
  });
});
