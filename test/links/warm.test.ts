import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { ResilientClient } from '../../src/index.ts';
import { nodeRequester } from '../../src/links/requester.node.ts';
import type { HttpRequest, Requester } from '../../src/links/requester.ts';
import { freePort, listen } from '../support/ports.ts';
import { waitFor } from '../support/wait.ts';
import { type Script, ScriptedServer } from './scripted-server.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  vi.useRealTimers();
  vi.unstubAllEnvs();
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function requester(): Requester {
  const made = nodeRequester();
  cleanUps.push(() => made.close());
  return made;
}

async function scripted(script: Script, options?: { secure?: boolean }): Promise<ScriptedServer> {
  const server = await ScriptedServer.start(script, options);
  cleanUps.push(() => server.stop());
  return server;
}

/** A raw server, and a promise of its first connection. */
async function raw(): Promise<{ url: (protocol: string) => URL; connection: Promise<Socket> }> {
  const server = createServer();
  const connection = once(server, 'connection').then(([socket]) => {
    (socket as Socket).on('error', () => {});
    return socket as Socket;
  });
  const port = await listen(server);
  cleanUps.push(() => server.close());
  return { url: (protocol) => new URL(`${protocol}://127.0.0.1:${port}/mcp`), connection };
}

async function status(from: Requester, url: URL, method: HttpRequest['method'] = 'POST'): Promise<number> {
  const reply = await from.request({ method, url, headers: {}, signal: new AbortController().signal });
  await reply.read(() => {});
  // Until then its connection is not free again.
  await turn();
  return reply.status;
}

const ok: Script = (_, res) => res.end('ok');

describe.each([['http'], ['https']])('A connection that is opened before there is a request, over %s,', (protocol) => {
  const secure = protocol === 'https';

  it('is the one that the request goes over, and the next', async () => {
    vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0');
    const server = await scripted(ok, { secure });
    const http = requester();
    http.warm?.('POST', server.url);
    await waitFor(() => server.connections === 1);
    expect(server.seen).toEqual([]);
    expect(await status(http, server.url)).toBe(200);
    expect(await status(http, server.url)).toBe(200);
    expect(server.seen.map(({ socket }) => socket)).toEqual([1, 1]);
    // There is one already.
    http.warm?.('POST', server.url);
    expect(await status(http, server.url)).toBe(200);
    expect(server.connections).toBe(1);
  });

  it('is for one request: another at the same time has its own', async () => {
    vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0');
    const server = await scripted(ok, { secure });
    const http = requester();
    http.warm?.('POST', server.url);
    http.warm?.('POST', server.url);
    expect(await Promise.all([status(http, server.url), status(http, server.url)])).toEqual([200, 200]);
    expect(server.seen.map(({ socket }) => socket).sort()).toEqual([1, 2]);
  });
});

describe('A connection that is opened before there is a request', () => {
  it('has sent nothing while it is not ready: a request that ends with it was not sent', async () => {
    const { url, connection } = await raw();
    const http = requester();
    http.warm?.('POST', url('https'));
    const socket = await connection;
    // The first word of TLS: the connection stands, and is good for nothing yet.
    await once(socket, 'data');
    const dispatched = vi.fn<() => void>();
    const asked = http.request({ method: 'POST', url: url('https'), headers: {}, body: '{}', signal: new AbortController().signal, onDispatched: dispatched });
    setImmediate(() => socket.destroy());
    await expect(asked).rejects.toMatchObject({ name: 'NotSentError' });
    expect(dispatched).not.toHaveBeenCalled();
  });

  it('and is refused says nothing: the request hears of it', async () => {
    const url = new URL(`http://127.0.0.1:${await freePort()}/mcp`);
    const http = requester();
    http.warm?.('POST', url);
    await expect(status(http, url)).rejects.toMatchObject({ name: 'NotSentError' });
    await expect(status(http, url)).rejects.toMatchObject({ name: 'NotSentError' });
  });

  it('and cannot be trusted says nothing: the request hears of it', async () => {
    const server = await scripted(ok, { secure: true });
    const http = requester();
    http.warm?.('POST', server.url);
    await expect(status(http, server.url)).rejects.toMatchObject({ name: 'NotSentError', cause: { code: 'DEPTH_ZERO_SELF_SIGNED_CERT' } });
  });

  it('and that the server closes meanwhile is not used', async () => {
    const sockets: Socket[] = [];
    const server = createServer((socket) => {
      sockets.push(socket);
      socket.on('data', () => socket.write('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n'));
    });
    const url = new URL(`http://127.0.0.1:${await listen(server)}/mcp`);
    cleanUps.push(() => server.close());
    const http = requester();
    http.warm?.('POST', url);
    const first = await waitFor(() => sockets[0]);
    first.end();
    // The client has seen it, and has closed its side.
    await once(first, 'close');
    expect(await status(http, url)).toBe(200);
    expect(sockets).toHaveLength(2);
  });

  it('is closed after a second without one, and with its client', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const { url, connection } = await raw();
    const http = requester();
    http.warm?.('POST', url('http'));
    const socket = await connection;
    socket.resume();
    await vi.advanceTimersByTimeAsync(999);
    expect(socket.readableEnded).toBe(false);
    await vi.advanceTimersByTimeAsync(1);
    await once(socket, 'close');
    const other = await raw();
    http.warm?.('POST', other.url('http'));
    const second = await other.connection;
    second.resume();
    http.close();
    await once(second, 'close');
  });

  it('is not used once it is older than that, however busy the program was', async () => {
    const server = await scripted(ok);
    const http = requester();
    http.warm?.('POST', server.url);
    await waitFor(() => server.connections === 1);
    const now = performance.now() + 1_001;
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => now);
    const asked = status(http, server.url);
    clock.mockRestore();
    expect(await asked).toBe(200);
    expect(server.seen.map(({ socket }) => socket)).toEqual([2]);
  });

  it('and on which the server has spoken before it was asked is not used', async () => {
    const sockets: Socket[] = [];
    const server = createServer((socket) => {
      sockets.push(socket);
      if (sockets.length === 1) socket.end('HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n');
      socket.on('data', () => socket.write('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n'));
    });
    const url = new URL(`http://127.0.0.1:${await listen(server)}/mcp`);
    cleanUps.push(() => server.close());
    const http = requester();
    http.warm?.('POST', url);
    await waitFor(() => sockets[0]?.writableFinished);
    // What it said is here when the answer to somebody who asked later is.
    expect(await status(requester(), url)).toBe(200);
    expect(await status(http, url)).toBe(200);
    expect(sockets).toHaveLength(3);
  });

  it('may be in use for longer than it may wait', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    let answer = (): void => {};
    const server = await scripted((_, res) => void (answer = () => res.end('late')));
    const http = requester();
    http.warm?.('POST', server.url);
    const asked = status(http, server.url);
    while (server.seen.length === 0) await turn();
    await vi.advanceTimersByTimeAsync(3_000);
    answer();
    expect(await asked).toBe(200);
    expect(server.connections).toBe(1);
  });

  it('is found by the name of its host, too', async () => {
    const server = await scripted(ok);
    const url = new URL(server.url);
    url.hostname = 'localhost';
    const http = requester();
    http.warm?.('POST', url);
    expect(await status(http, url)).toBe(200);
    expect(server.connections).toBe(1);
  });

  it('for the stream of a server is opened only where that keeps connections: another may have one at a time', async () => {
    const server = await scripted((_, res) => res.setHeader('connection', 'close').end('ok'));
    const http = requester();
    expect(await status(http, server.url)).toBe(200);
    http.warm?.('GET', server.url);
    expect(await status(http, server.url)).toBe(200);
    expect(server.connections).toBe(2);
    server.script = ok;
    expect(await status(http, server.url)).toBe(200);
    http.warm?.('GET', server.url);
    await waitFor(() => server.connections === 4);
  });

  it('to another server is for that one only', async () => {
    const [one, other] = [await scripted(ok), await scripted(ok)];
    const http = requester();
    http.warm?.('POST', one.url);
    expect(await status(http, other.url)).toBe(200);
    expect(await status(http, one.url)).toBe(200);
    expect([one.connections, other.connections]).toEqual([1, 1]);
  });
});

it('Where one connection breaks off, those that wait for a call are given up: what was sent on them would be lost', async () => {
  const server = await scripted(({ method }, res) => {
    if (method === 'GET') res.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders();
    else res.end('ok');
  });
  const http = requester();
  expect(await status(http, server.url)).toBe(200);
  const stream = await http.request({ method: 'GET', url: server.url, headers: {}, signal: new AbortController().signal });
  const read = stream.read(() => {});
  expect(server.open).toBe(2);
  server.drop(2);
  await expect(read).rejects.toThrow('closed before the answer was complete');
  expect(await status(http, server.url)).toBe(200);
  expect(server.seen.map(({ socket }) => socket)).toEqual([1, 2, 3]);
});

it('A connection is not used again 4 s after its last request went out, however late its answer was read: the server may be closing it', async () => {
  let answer = (): void => {};
  const server = await scripted((_, res) => void (answer = () => res.end('late')));
  const http = requester();
  const began = performance.now();
  let passed = 0;
  const clock = vi.spyOn(performance, 'now').mockImplementation(() => began + passed);
  cleanUps.push(() => clock.mockRestore());
  const asked = status(http, server.url);
  while (server.seen.length === 0) await turn();
  passed = 3_900;
  answer();
  await asked;
  passed = 4_100;
  server.script = ok;
  await status(http, server.url);
  await status(http, server.url);
  expect(server.seen.map(({ socket }) => socket)).toEqual([1, 2, 2]);
});

it('What a client asks goes over the connection of its handshake, and what the server says of its own accord over another', async () => {
  const server = await scripted(({ method, body }, res) => {
    if (method === 'GET') {
      res.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders();
      return;
    }
    const { id, method: asked } = JSON.parse(body || '{}') as { id?: number; method?: string };
    if (id === undefined) return void res.writeHead(202).end();
    const result = asked === 'initialize' ? { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: 's', version: '1' } } : { content: [] };
    res.writeHead(200, { 'content-type': 'application/json', 'mcp-session-id': 'session' }).end(JSON.stringify({ jsonrpc: '2.0', id, result }));
  });
  await using client = new ResilientClient(server.url);
  await client.connect();
  await client.callTool({ name: 'echo' });
  await waitFor(() => server.seen.some(({ method }) => method === 'GET'));
  const places = server.seen.map(({ method, socket }) => `${method} ${socket}`);
  expect(places.filter((place) => place.startsWith('POST'))).toEqual(['POST 1', 'POST 1', 'POST 1']);
  expect(places.filter((place) => place.startsWith('GET'))).toEqual(['GET 2']);
  await using quiet = new ResilientClient(server.url, { listen: false });
  await quiet.connect();
  await quiet.callTool({ name: 'echo' });
  expect(server.connections).toBe(3);
});
