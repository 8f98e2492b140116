import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { json } from 'node:stream/consumers';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { callTool, checkHealth, type ConnectOptions, memoryStore, type OneOffOptions, OutcomeUnknownError, RefusedError, type Target, UnreachableError } from '../../src/index.ts';
import { failure, runsOf, started, stayed, temporaryDirectory, timed, wireOf } from '../session/clients.ts';
import { runScript } from '../support/client-process.ts';
import { wellBehaved } from '../support/contract.ts';
import { startEverything, startEverythingSse } from '../support/everything.ts';
import { freePort } from '../support/ports.ts';
import { type FixtureProcess, fixtureStdio, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { entryOf } from './entries.ts';

/** Item 8: one call and no more, and whether a server is well. */

/** A server that knows nothing but the protocol of 2024-11-05, with its HTTP+SSE transport. */
async function startOldServer() {
  const results: Record<string, object> = { initialize: { protocolVersion: '2024-11-05', capabilities: {}, serverInfo: { name: 'old', version: '1' } }, ping: {} };
  let stream: ServerResponse | undefined;
  const http = createServer(async (req, res) => {
    if (req.method === 'GET') (stream = res).writeHead(200, { 'content-type': 'text/event-stream' }).write('event: endpoint\ndata: /messages\n\n');
    else if (req.url !== '/messages') res.writeHead(405).end();
    else {
      const { id, method } = (await json(req)) as { id?: number; method: string };
      res.writeHead(202).end();
      if (id !== undefined) stream?.write(`event: message\ndata: ${JSON.stringify({ jsonrpc: '2.0', id, result: results[method] })}\n\n`);
    }
  });
  await new Promise<void>((listening) => http.listen(0, '127.0.0.1', listening));
  const { port } = http.address() as AddressInfo;
  const stop = (): void => {
    http.closeAllConnections();
    http.close();
  };
  return { url: `http://127.0.0.1:${port}/sse`, [Symbol.asyncDispose]: async () => stop() };
}

let server: FixtureProcess;
beforeAll(async () => void (server = await startServer({ eventStore: true })));
afterAll(() => server.stop());
beforeEach(async () => {
  await server.behave(wellBehaved);
  await server.forget();
  await server.clearRequests();
});

const once = { content: [{ type: 'text', text: 'once' }] };
const echo = (options?: OneOffOptions) => callTool(server.url, 'echo', { text: 'once' }, options);
/** What went over the wire, by its name. */
const wire = async () => (await server.requests()).map(({ http, rpc }) => rpc[0]?.method ?? http);

describe('callTool()', () => {
  it('with a store: the second call sends one request, on the session of the first', async () => {
    const store = memoryStore();
    expect(await echo({ store })).toEqual(once);
    expect(await wire()).toEqual(['initialize', 'notifications/initialized', 'tools/call']);
    await server.clearRequests();
    expect(await echo({ store })).toEqual(once);
    expect(await wire()).toEqual(['tools/call']);
    expect(await server.sessions()).toHaveLength(1);
  });

  it('without a store ends its session', async () => {
    expect(await echo()).toEqual(once);
    expect(await wire()).toEqual(['initialize', 'notifications/initialized', 'tools/call', 'DELETE']);
    expect(await server.sessions()).toEqual([]);
  });

  it('listens to notifications only where it is asked to', async () => {
    await callTool(server.url, 'work', { nonce: 'silent', ms: 50 }, { listen: undefined } as unknown as OneOffOptions);
    expect(await wireOf(server, 'GET')).toEqual([]);
    await callTool(server.url, 'work', { nonce: 'listening', ms: 50 }, { listen: true });
    expect(await wireOf(server, 'GET')).toHaveLength(1);
  });

  it('needs no arguments where the tool has none, and leaves those that it is given as they are', async () => {
    expect(await callTool(server.url, 'roots').catch((error: unknown) => error)).toMatchObject({ isError: true });
    const args = Object.freeze({ text: 'once' });
    expect(await callTool(server.url, 'echo', args)).toEqual(once);
  });

  it('hands over an isError result, and leaves its session in order', async () => {
    expect(await callTool(server.url, 'no-such-tool')).toMatchObject({ isError: true });
    expect(await server.sessions()).toEqual([]);
  });

  it('tells of the progress', async () => {
    const steps: number[] = [];
    await callTool(server.url, 'work', { nonce: 'steps', ms: 30, steps: 3 }, { onprogress: ({ progress }) => steps.push(progress) });
    expect(steps).toEqual([1, 2, 3]);
  });

  it('G1, G2 repeats what is safe, and nothing else', async () => {
    const cut = async (nonce: string, options: OneOffOptions) => {
      await server.behave({ endEmpty: { onlyMethod: 'tools/call', times: 1 } });
      return callTool(server.url, 'work', { nonce }, options);
    };
    expect(await cut('safe', { safe: true })).toMatchObject({ content: [{ text: 'done:safe' }] });
    expect(await failure(cut('unsafe', {}))).toBeInstanceOf(OutcomeUnknownError);
    expect(await server.sessions()).toEqual([]);
  });

  it('G3 is durable with a callId', async () => {
    const store = memoryStore();
    const call = () => callTool(server.url, 'work', { nonce: 'durable' }, { store, callId: 'durable' });
    expect(await call()).toEqual(await call());
    expect(await runsOf(server, 'durable')).toHaveLength(1);
    expect(await entryOf(store, 'durable')).toBeDefined();
  });

  it('over stdio starts the server, and ends it', async () => {
    expect(await callTool(fixtureStdio, 'echo', { text: 'once' })).toEqual(once);
  });

  it('that cannot connect fails as connecting does', async () => {
    const url = `http://127.0.0.1:${await freePort()}/mcp`;
    expect(await failure(callTool(url, 'echo', { text: 'once' }, { retry: false }))).toBeInstanceOf(UnreachableError);
    await server.behave({ post: { onlyMethod: 'initialize', times: 1, status: 401 } });
    expect(await failure(echo())).toBeInstanceOf(RefusedError);
    expect(await server.sessions()).toEqual([]);
  });

  it('is given up by its signal, before, while it connects, and while it runs', async () => {
    const reason = new Error('enough');
    expect(await failure(echo({ signal: AbortSignal.abort(reason) }))).toBe(reason);
    expect(await server.requests()).toEqual([]);

    const connecting = new AbortController();
    await server.behave({ hang: { onlyMethod: 'initialize', times: 1 } });
    const handshake = failure(echo({ signal: connecting.signal }));
    await waitFor(async () => (await wireOf(server, 'initialize')).length > 0);
    connecting.abort(reason);
    expect(await handshake).toBe(reason);

    const running = new AbortController();
    const call = failure(callTool(server.url, 'work', { nonce: 'given up', ms: 60_000 }, { signal: running.signal }));
    await started(server, 'given up');
    running.abort(reason);
    expect(await call).toBe(reason);
    await waitFor(async () => (await runsOf(server, 'given up'))[0]?.aborted);
    await waitFor(async () => (await server.sessions()).length === 0);
  });

  const nonsense: { what: string; args: unknown[] }[] = [
    { what: 'no tool', args: [] },
    { what: 'a tool without a name', args: [''] },
    { what: 'a tool that is no name', args: [{ name: 'echo' }] },
    { what: 'arguments in a list', args: ['echo', ['once']] },
    { what: 'arguments that are null', args: ['echo', null] },
    { what: 'arguments that are a text', args: ['echo', 'once'] },
    { what: 'an unknown option', args: ['echo', {}, { sotre: memoryStore() }] },
    { what: 'options that are null', args: ['echo', {}, null] },
    { what: 'a store that is none', args: ['echo', {}, { store: {} }] },
    { what: 'safe: "yes"', args: ['echo', {}, { safe: 'yes' }] },
    { what: 'a callId without a store', args: ['echo', {}, { callId: 'x' }] },
    { what: 'an empty callId', args: ['echo', {}, { store: memoryStore(), callId: '' }] },
    { what: 'an onprogress that is no function', args: ['echo', {}, { onprogress: true }] },
    { what: 'a signal that is none', args: ['echo', {}, { signal: {} }] },
  ];

  it.each(nonsense)('with $what is a TypeError at once', async ({ args }) => {
    expect(await failure((callTool as (...all: unknown[]) => Promise<unknown>)(server.url, ...args))).toBeInstanceOf(TypeError);
    expect(await server.requests()).toEqual([]);
  });
});

describe('G9 a script that makes a call and asks for health', () => {
  it.each([{ kept: true }, { kept: false }])('ends by itself at once (store: $kept)', async ({ kept }) => {
    const directory = kept ? [await temporaryDirectory()] : [];
    for (const session of ['new', 'resumed']) {
      await server.clearRequests();
      await using script = runScript(new URL('./one-off.process.ts', import.meta.url), [server.url.href, ...directory]);
      const { code } = await script.exit;
      expect({ code, stderr: script.stderr }).toEqual({ code: 0, stderr: '' });
      expect(JSON.parse(script.stdout.split('\n')[0] ?? '')).toEqual({ ...once, ok: true, session: kept ? 'resumed' : 'new', resources: [] });
      expect(stayed(script as never)).toBeLessThan(500);
      // With a store: what the first process has to do before, the second one has no more.
      if (kept) expect(await wire()).toEqual([...(session === 'new' ? ['initialize', 'notifications/initialized'] : []), 'tools/call', 'ping']);
    }
    expect(await server.sessions()).toHaveLength(kept ? 1 : 0);
  });
});

describe('checkHealth()', () => {
  const fixture = { name: 'fixture', version: '1.0.0' };
  const well = { ok: true, latency: expect.any(Number), era: '2025-11-25', server: fixture };

  it('of a server that is well says who it is, and whether the session is a new one', async () => {
    const store = memoryStore();
    expect(await checkHealth(server.url, { store })).toEqual({ ...well, session: 'new' });
    await server.clearRequests();
    expect(await checkHealth(server.url, { store })).toEqual({ ...well, session: 'resumed' });
    expect(await wire()).toEqual(['ping']);
  });

  it('without a store leaves nothing behind', async () => {
    expect(await checkHealth(server.url)).toEqual({ ...well, session: 'new' });
    expect(await wire()).toEqual(['initialize', 'notifications/initialized', 'ping', 'DELETE']);
    expect(await server.sessions()).toEqual([]);
  });

  it('of a server that has forgotten the stored session says that it is a new one', async () => {
    const store = memoryStore();
    await checkHealth(server.url, { store });
    await server.forget();
    expect(await checkHealth(server.url, { store })).toEqual({ ...well, session: 'new' });
    const error = await server.forget().then(() => checkHealth(server.url, { store, onSessionLost: 'fail' }));
    expect(error).toMatchObject({ ok: false, error: { code: 'SESSION_LOST' } });
  });

  it('of a server of an older protocol says which', async () => {
    await using old = await startServer({ protocolVersion: '2025-03-26' });
    expect(await checkHealth(old.url)).toMatchObject({ ok: true, era: '2025-03-26' });
  });

  it('of a server over stdio', async () => {
    expect(await checkHealth(fixtureStdio)).toEqual({ ...well, session: 'new' });
    expect(await checkHealth({ command: './no-such-command' })).toMatchObject({ ok: false, error: { code: 'UNREACHABLE' } });
  });

  it('of a server of the old HTTP+SSE transport says by which version it speaks', async () => {
    await using old = await startEverythingSse();
    expect(await checkHealth(old.url)).toMatchObject({ ok: true, era: '2025-11-25', session: 'new' });
    await using older = await startOldServer();
    expect(await checkHealth(older.url)).toEqual({ ...well, era: '2024-11-05', server: { name: 'old', version: '1' }, session: 'new' });
  });

  it('of a server that is down, at once', async () => {
    const url = `http://127.0.0.1:${await freePort()}/mcp`;
    const health = await checkHealth(url);
    expect(health).toEqual({ ok: false, latency: expect.any(Number), error: expect.any(UnreachableError) });
    // It was asked once, and not until timeout.connect is over.
    expect(health.latency).toBeLessThan(5000);
  });

  it('of a server that is down for the stored session', async () => {
    await using own = await startServer();
    const store = memoryStore();
    await checkHealth(own.url, { store });
    await own.kill();
    expect(await checkHealth(own.url, { store })).toMatchObject({ ok: false, error: { code: 'UNREACHABLE' } });
  });

  it('of a wrong path', async () => {
    await using everything = await startEverything();
    const health = await checkHealth(new URL('/nowhere', everything.url));
    expect(health).toEqual({ ok: false, latency: expect.any(Number), error: expect.any(RefusedError) });
    expect(health.error?.message).toMatch(/404.*path/);
  });

  it('of a server that wants authorization', async () => {
    await server.behave({ post: { onlyMethod: 'initialize', times: 9, status: 401 } });
    expect(await checkHealth(server.url)).toMatchObject({ ok: false, error: { code: 'REFUSED', status: 401 } });
    await server.behave({ post: { onlyMethod: 'ping', times: 9, status: 401 } });
    expect(await checkHealth(server.url)).toMatchObject({ ok: false, era: '2025-11-25', server: fixture, error: { code: 'REFUSED', status: 401 } });
  });

  it.each([
    { what: 'shakes no hands', onlyMethod: 'initialize', timeout: { connect: 200 } },
    { what: 'answers no ping', onlyMethod: 'ping', timeout: { call: 200 } },
  ])('G4 of a server that $what: no longer than its timeout', async ({ onlyMethod, timeout }) => {
    await server.behave({ hang: { onlyMethod, times: 1 } });
    const health = await checkHealth(server.url, { timeout });
    expect(health).toMatchObject({ ok: false, error: { code: 'DEADLINE', timeout: 200 } });
    expect(health.latency).toBeLessThan(450);
  });

  it.each([200, 400])('of a server that speaks newer versions only (HTTP %i): says which', async (status) => {
    const data = { supported: ['2026-07-28', '2026-03-15'], requested: '2025-11-25' };
    const body = `{"jsonrpc":"2.0","id":{{id}},"error":{"code":-32022,"message":"Unsupported protocol version","data":${JSON.stringify(data)}}}`;
    await server.behave({ reply: { onlyMethod: 'initialize', times: 1, status, contentType: 'application/json', body } });
    const health = await checkHealth(server.url);
    expect(health).toMatchObject({ ok: false, era: '2026-07-28', error: { outcome: 'refused' } });
    expect(health.server).toBeUndefined();
  });

  it.each([
    { what: 'is no MCP server', body: '<html>', contentType: 'text/html' },
    { what: 'answers nonsense', body: '{"jsonrpc":"2.0","id":{{id}},"result":{"supported":5}}', contentType: 'application/json' },
    { what: 'answers an error whose data is nonsense', body: '{"jsonrpc":"2.0","id":{{id}},"error":{"code":-32022,"message":"no","data":{"supported":[null,{}]}}}', contentType: 'application/json' },
    { what: 'answers an error without data', body: '{"jsonrpc":"2.0","id":{{id}},"error":{"code":-32022,"message":"no"}}', contentType: 'application/json' },
  ])('of what $what', async ({ body, contentType }) => {
    await server.behave({ reply: { onlyMethod: 'initialize', times: 1, contentType, body } });
    const health = await checkHealth(server.url);
    expect(health).toEqual({ ok: false, latency: expect.any(Number), error: expect.any(Error) });
  });

  it('of a function that throws', async () => {
    const broken: Target = () => {
      throw new Error('no transport');
    };
    expect(await checkHealth(broken)).toMatchObject({ ok: false, error: { message: 'no transport' } });
  });

  it('is given up by its signal, and fails by that reason', async () => {
    const reason = new Error('enough');
    expect(await failure(checkHealth(server.url, { signal: AbortSignal.abort(reason) }))).toBe(reason);
    await server.behave({ hang: { onlyMethod: 'ping', times: 1 } });
    const asking = new AbortController();
    const health = failure(checkHealth(server.url, { signal: asking.signal }));
    await waitFor(async () => (await wireOf(server, 'ping')).length > 0);
    asking.abort(reason);
    expect(await health).toBe(reason);
  });

  it('does not wait long for a server that does not let it go', async () => {
    await server.behave({ hang: { onlyMethod: 'DELETE', times: 1 } });
    expect(await timed(checkHealth(server.url))).toBeLessThan(3000);
  });

  const nonsense: ConnectOptions[] = [{ sotre: 1 } as ConnectOptions, { timeout: { connect: -1 } }, { retry: true } as unknown as ConnectOptions];
  it.each(nonsense)('throws for options that make no sense: %j', async (options) => {
    const error = await failure(checkHealth(server.url, options));
    expect(error instanceof TypeError || error instanceof RangeError).toBe(true);
    expect(await server.requests()).toEqual([]);
  });
});
