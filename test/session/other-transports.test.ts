import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { InMemoryTransport } from '@modelcontextprotocol/sdk/inMemory.js';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { LoggingMessageNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { ClosedError, memoryStore, OutcomeUnknownError, RefusedError, SessionTransport } from '../../src/index.ts';
import type { Execution } from '../support/contract.ts';
import { everythingStdio, startEverythingSse, type EverythingProcess } from '../support/everything.ts';
import { startProxy } from '../support/proxy.ts';
import { startRecordingProxy } from '../support/recording-proxy.ts';
import { fixtureStdio, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { clientOf, connected, failure, heardFrom, say, startClients, stayed, temporaryDirectory, wireOf } from './clients.ts';

/** Sessions that are a connection: a process, the old SSE stream, whatever an SDK transport holds. */

describe('a server over stdio', () => {
  /** Writes down the process id of a server. */
  const tellPid = 'data:text/javascript,import{writeFileSync}from"node:fs";writeFileSync(process.env.PID,String(process.pid))';

  /** The fixture as a target, its own log of executions, and whether its newest process is there. */
  async function fixture(env: Record<string, string> = {}) {
    const directory = await temporaryDirectory();
    const [journal, pid] = [join(directory, 'journal'), join(directory, 'pid')];
    return {
      target: { command: fixtureStdio.command, args: ['--import', tellPid, ...fixtureStdio.args], env: { ...env, JOURNAL: journal, PID: pid } },
      executions: async () => (await readFile(journal, 'utf8').catch(() => '')).split('\n').filter(Boolean).map((line) => JSON.parse(line) as Execution),
      alive: async () => isAlive(Number(await readFile(pid, 'utf8'))),
    };
  }

  test('answers many calls at once, reports progress, and notifies', async () => {
    const { target } = await fixture();
    const client = await connected(target);
    const messages: unknown[] = [];
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => void messages.push(params.data));
    const texts = Array.from({ length: 50 }, (_, i) => `text ${i}`);
    expect(await Promise.all(texts.map((text) => say(client, 'echo', { text })))).toEqual(texts);
    const steps: number[] = [];
    await say(client, 'work', { nonce: 'steps', ms: 20, steps: 3 }, { onprogress: ({ progress }) => void steps.push(progress) });
    expect(steps).toEqual([1, 2, 3]);
    await say(client, 'announce', { text: 'heard' });
    expect(messages).toEqual(['heard']);
    expect(client.session).toMatchObject({ state: 'ready', resumed: false, id: undefined, expiresAt: undefined });
    expect(client.getInstructions()).toContain('fixture');
  });

  test('that crashes in mid-call fails it with the outcome unknown and its last words; the next call starts a new process', async () => {
    const { target, executions } = await fixture();
    const client = await connected(target);
    const { reset } = heardFrom(client);
    const running = failure(say(client, 'work', { nonce: 'in flight', ms: 600_000 }));
    await waitFor(async () => (await executions()).length === 1);
    const calls = [running, failure(say(client, 'crash'))];
    for (const error of await Promise.all(calls)) {
      expect(error).toBeInstanceOf(OutcomeUnknownError);
      expect(error.message).toContain('The fixture crashes as told');
    }
    expect(client.session.state).toBe('lost');
    expect(await Promise.all(['a', 'b', 'c'].map((text) => say(client, 'echo', { text })))).toEqual(['a', 'b', 'c']);
    expect(reset).toEqual([{ reason: expect.stringContaining('crashes as told'), adopted: false }]);
    expect((await executions()).map(({ nonce }) => nonce)).toEqual(['in flight']);
  });

  test('that crashes in a safe call runs it again in a new process (G1)', async () => {
    const { target, executions } = await fixture();
    const client = await connected(target);
    const call = say(client, 'look', { nonce: 'again', ms: 1000 }, { safe: true });
    await waitFor(async () => (await executions()).length === 1);
    await failure(say(client, 'crash'));
    expect(await call).toBe('done:again');
    expect((await executions()).filter(({ finished, aborted }) => !finished && !aborted)).toHaveLength(2);
  });

  test('has its subscriptions and log level back after a crash', async () => {
    const { target } = await fixture();
    const client = await connected(target);
    await client.subscribeResource({ uri: 'test://one' });
    await failure(say(client, 'crash'));
    expect(await say(client, 'touch', { uri: 'test://one' })).toBe('touched');
  });

  test('may talk noise on its standard output: it is told, and skipped', async () => {
    const { target } = await fixture({ NOISY: '1' });
    const client = clientOf(target);
    const errors: Error[] = [];
    client.onerror = (error) => void errors.push(error);
    await client.connect();
    expect(await say(client, 'echo', { text: 'through the noise' })).toBe('through the noise');
    expect(errors.map(({ message }) => message).join()).toMatch(/JSON/);
  });

  test('is ended by close(); calls in flight settle with ClosedError, and the client can connect again', async () => {
    const { target, executions, alive } = await fixture();
    const client = await connected(target, { store: memoryStore() });
    const call = failure(say(client, 'work', { nonce: 'left', ms: 600_000 }));
    await waitFor(async () => (await executions()).length === 1);
    await client.close();
    expect(await call).toBeInstanceOf(ClosedError);
    expect(await call).toMatchObject({ outcome: 'unknown' });
    expect(client.session.state).toBe('closed');
    expect(await alive()).toBe(false);
    await client.connect();
    expect(await alive()).toBe(true);
    expect(await say(client, 'echo', { text: 'again' })).toBe('again');
  });

  test('leaves a call that timed out alone, and drops its late answer', async () => {
    const { target, executions } = await fixture();
    const client = await connected(target);
    expect(await failure(say(client, 'work', { nonce: 'slow', ms: 600_000 }, { timeout: 200 }))).toMatchObject({ name: 'DeadlineError', outcome: 'unknown' });
    await waitFor(async () => (await executions()).at(-1)?.aborted);
    expect(await say(client, 'echo', { text: 'next' })).toBe('next');
  });

  test('works with server-everything', async () => {
    const client = await connected(everythingStdio);
    expect(await say(client, 'echo', { message: 'hello' })).toBe('Echo: hello');
  });

  test('that cannot be started fails connect(), and says why', async () => {
    const client = clientOf({ command: 'no-such-command-anywhere' }, { retry: false });
    const error = await failure(client.connect());
    expect(error).toMatchObject({ name: 'UnreachableError', outcome: 'not-sent', message: expect.stringContaining('ENOENT') });
  });

  test('that exits at once fails connect() with its last words', async () => {
    const client = clientOf({ command: process.execPath, args: ['-e', 'console.error("No API key given"); process.exit(2)'] }, { retry: false });
    const error = await failure(client.connect());
    expect(error.message).toContain('No API key given');
  });
});

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

describe('a server of the old HTTP+SSE transport', () => {
  let everything: EverythingProcess;
  beforeAll(async () => {
    everything = await startEverythingSse();
  });
  afterAll(() => everything.stop());

  test('is found by its URL, after one POST that it refuses, and calls work', async () => {
    await using proxy = await startRecordingProxy(everything.url);
    const client = await connected(proxy.url);
    const texts = Array.from({ length: 20 }, (_, i) => `text ${i}`);
    expect(await Promise.all(texts.map((message) => say(client, 'echo', { message })))).toEqual(texts.map((text) => `Echo: ${text}`));
    expect(client.session.state).toBe('ready');
    expect(proxy.requests().slice(0, 3).map(({ http, rpc }) => [http, rpc[0]?.method])).toEqual([['POST', 'initialize'], ['GET', undefined], ['POST', 'initialize']]);
    await client.close();
    await waitFor(() => proxy.requests().find(({ http }) => http === 'GET')?.endedBy === 'client');
  });

  test('whose stream is cut: what was in flight is unknown, and the next call is on a new session', async () => {
    await using proxy = await startProxy(everything.url);
    const client = await connected(proxy.url);
    const { reset } = heardFrom(client);
    const running = failure(say(client, 'trigger-long-running-operation', { duration: 600, steps: 1 }));
    expect(await say(client, 'echo', { message: 'one' })).toBe('Echo: one');
    proxy.cut();
    expect(await running).toBeInstanceOf(OutcomeUnknownError);
    expect(await Promise.all(['two', 'three'].map((message) => say(client, 'echo', { message })))).toEqual(['Echo: two', 'Echo: three']);
    expect(reset).toMatchObject([{ adopted: false }]);
  });

  test('that is restarted is connected to again', async () => {
    await using own = await startEverythingSse();
    const client = await connected(own.url);
    await own.restart();
    expect(await say(client, 'echo', { message: 'again' })).toBe('Echo: again');
  });

  test('does not keep a process that has closed its client', async () => {
    await using child = startClients();
    child.send({ type: 'connect', url: everything.url.href });
    await child.next('connected');
    child.send({ type: 'echo', times: 3, argument: 'message', prefix: 'Echo: ' });
    expect(await child.next('echoed')).toMatchObject({ wrong: [] });
    child.send({ type: 'close' });
    expect((await child.next('closed')).took).toBeLessThan(1000);
    expect(await child.exit).toEqual({ code: 0, signal: null });
    expect(stayed(child)).toBeLessThan(1000);
  });

  test.each([400, 404, 405])('is looked for after a %d to the handshake', async (status) => {
    await using server = await startServer();
    await server.behave({ post: { status, times: 1000 }, get: 404 });
    const client = clientOf(server.url, { retry: false });
    expect(await failure(client.connect())).toMatchObject({ name: 'RefusedError', status });
    expect((await server.requests()).map(({ http }) => http)).toEqual(['POST', 'GET']);
  });

  test.each([401, 403, 429, 500, 503])('is not looked for after a %d, which is the server\'s true word', async (status) => {
    await using server = await startServer();
    await server.behave({ post: { status, times: 1000 } });
    const error = await failure(clientOf(server.url, { retry: false }).connect());
    if (status < 500) expect(error).toBeInstanceOf(RefusedError);
    else expect(error).toBeInstanceOf(OutcomeUnknownError);
    expect(error.message).toContain(String(status));
    expect(await wireOf(server, 'GET')).toEqual([]);
  });

  test('that accepts the stream and says nothing on it fails connect() in time, and is let go (G4, G9)', async () => {
    await using server = await startServer();
    await server.behave({ post: { status: 405, times: 1000 }, hang: { onlyMethod: 'GET', times: 1000 } });
    const client = clientOf(server.url, { timeout: { connect: 500 } });
    const start = performance.now();
    expect(await failure(client.connect())).toMatchObject({ name: 'DeadlineError', timeout: 500 });
    expect(performance.now() - start).toBeLessThan(750);
    await client.close();
    await waitFor(async () => {
      const gets = await wireOf(server, 'GET');
      return gets.length > 0 && gets.every(({ endedBy }) => endedBy === 'client');
    });
  });
});

describe('a function that makes a transport', () => {
  /** A server in this process, and what connects to it. */
  function inMemory(): { target: () => Transport; ends: Transport[]; servers: McpServer[] } {
    const ends: Transport[] = [];
    const servers: McpServer[] = [];
    const target = (): Transport => {
      const [ours, theirs] = InMemoryTransport.createLinkedPair();
      const server = new McpServer({ name: 'in memory', version: '1.0.0' });
      server.registerTool('count', {}, () => ({ content: [{ type: 'text', text: String(servers.length) }] }));
      server.registerTool('never', {}, () => new Promise<never>(() => {}));
      servers.push(server);
      ends.push(theirs);
      void server.connect(theirs);
      return ours;
    };
    return { target, ends, servers };
  }

  test('is asked once for each session; one that closes is replaced', async () => {
    const { target, servers } = inMemory();
    const client = await connected(target);
    const { reset } = heardFrom(client);
    expect(await say(client, 'count')).toBe('1');
    expect(await say(client, 'count')).toBe('1');
    const running = failure(say(client, 'never'));
    await servers[0]?.close();
    expect(await running).toBeInstanceOf(OutcomeUnknownError);
    expect(await Promise.all([say(client, 'count'), say(client, 'count')])).toEqual(['2', '2']);
    expect(reset).toHaveLength(1);
  });

  test('may make a transport that answers late: the answer is dropped and counted', async () => {
    const { target, ends } = inMemory();
    const transport = new SessionTransport(target);
    const client = clientOf(() => { throw new Error('not used'); });
    await client.close();
    const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
    const bare = new Client({ name: 'bare', version: '1.0.0' });
    onTestFinished(() => bare.close());
    await bare.connect(transport);
    const seen: { id?: unknown; method?: string }[] = [];
    const [theirs] = ends as [Transport];
    const { onmessage } = theirs;
    theirs.onmessage = (message, extra) => {
      seen.push(message as { id?: unknown });
      onmessage?.(message, extra);
    };
    await failure(bare.callTool({ name: 'never', arguments: {} }, undefined, { timeout: 50 }));
    const { id } = seen.find(({ method }) => method === 'tools/call') as { id: number };
    await theirs.send({ jsonrpc: '2.0', id, result: { content: [] } });
    expect(transport.droppedMessages).toBe(1);
    expect(seen).toMatchObject([{ method: 'tools/call' }, { method: 'notifications/cancelled', params: { requestId: id } }]);
  });

  test('may make the SDK\'s own HTTP transport', async () => {
    await using server = await startServer();
    const client = await connected(() => new StreamableHTTPClientTransport(server.url) as Transport);
    expect(await say(client, 'echo', { text: 'by the SDK' })).toBe('by the SDK');
    expect(await wireOf(server, 'initialize')).toHaveLength(1);
  });

  test('that throws fails connect() with what it threw, and can be asked again', async () => {
    const { target } = inMemory();
    let broken = true;
    const client = clientOf(() => {
      if (broken) throw new Error('no transport today');
      return target();
    }, { retry: false });
    expect((await failure(client.connect())).message).toContain('no transport today');
    broken = false;
    await client.connect();
    expect(await say(client, 'count')).toBe('1');
  });

  test('is never stored', async () => {
    const store = memoryStore();
    const client = await connected(inMemory().target, { store });
    await say(client, 'count');
    await client.close();
    const keys: string[] = [];
    for await (const key of store.keys('')) keys.push(key);
    expect(keys).toEqual([]);
  });
});

describe('a target that makes no sense is told at once', () => {
  test.each<[string, unknown, string]>([
    ['no URL', 'not a url', 'not a URL'],
    ['another protocol', 'ftp://example.com/mcp', 'http or https'],
    ['credentials in the URL', 'http://user:secret@example.com/mcp', 'user name or password'],
    ['nothing', undefined, 'target must be'],
    ['null', null, 'target must be'],
    ['a number', 7, 'target must be'],
    ['an empty command', { command: '' }, 'target must be'],
    ['an object of another kind', { url: 'http://example.com' }, 'target must be'],
  ])('%s', (_, target, message) => {
    expect(() => new SessionTransport(target as string)).toThrow(TypeError);
    expect(() => new SessionTransport(target as string)).toThrow(message);
    expect(() => new SessionTransport(target as string)).not.toThrow('secret');
  });
});
