import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { json } from 'node:stream/consumers';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import type { WebStandardStreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/webStandardStreamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { type Behaviour, type ControlRequest, type Controls, type ServerMessage, type ServerOptions, wellBehaved, type WireEntry } from './contract.ts';
import { refusal } from './dialects.ts';
import { OrderedEventStore } from './event-store.ts';
import { listen } from './ports.ts';
import { createFixtureServer, type FixtureServer, type ToolHost } from './tools.ts';
import { flushed, rpcEntries, WireJournal, wrapHead } from './wire-journal.ts';

const options = JSON.parse(process.argv[2] ?? '{}') as ServerOptions;
const { mode = 'sse', eventStore = false, sessions: stateful = true, protocolVersion: newest } = options;

interface Session {
  fixture: FixtureServer;
  transport: StreamableHTTPServerTransport;
}

/** One HTTP request that has not ended yet. */
interface Exchange {
  entry: WireEntry;
  res: ServerResponse;
  head: Promise<void>;
  bodyStart: Promise<void>;
}

const sessions = new Map<string, Session>();
const open = new Set<Exchange>();
const sockets = new Set<Socket>();
const journal = new WireJournal();
const behaviour: Behaviour = { ...wellBehaved };

const tell = (message: ServerMessage) => process.send?.(message);

const host: ToolHost = {
  journal: (execution) => tell({ type: 'execution', execution }),
  async cut(sessionId, requestId, bodyExpected) {
    const exchange = [...open].find(
      ({ entry }) => entry.http === 'POST' && entry.sessionId === sessionId && entry.rpc.some(({ id, method }) => method && id === requestId),
    );
    if (!exchange) return;
    // The client must have seen all that a stream shows before its answer: its head, and the first event id.
    if (mode === 'sse') {
      await (bodyExpected || isPrimed(exchange.entry) ? exchange.bodyStart : exchange.head);
      await flushed(exchange.res);
    }
    destroy(exchange);
  },
};

// The SDK primes the streams of clients that say they speak 2025-11-25.
const isPrimed = ({ protocolVersion = '' }: WireEntry) => eventStore && stateful && protocolVersion >= '2025-11-25';

function destroy({ entry, res }: Exchange): void {
  entry.endedBy ??= 'server';
  res.socket?.destroy();
}

// ── Sessions ────────────────────────────────────────────────────────────────────────────────────────────────────────

async function openSession(sessionIdGenerator?: () => string): Promise<Session> {
  const fixture = createFixtureServer(host);
  const transport = new StreamableHTTPServerTransport({
    ...(sessionIdGenerator && {
      sessionIdGenerator,
      onsessioninitialized: (id) => void sessions.set(id, session),
    }),
    ...(eventStore && stateful && { eventStore: new OrderedEventStore() }),
    ...(options.retryInterval !== undefined && { retryInterval: options.retryInterval }),
    enableJsonResponse: mode === 'json',
  });
  const session = { fixture, transport };
  fixture.mcp.server.onclose = () => transport.sessionId && sessions.delete(transport.sessionId);
  await fixture.mcp.connect(transport as Transport);
  return session;
}

/** Makes a session with a foreign id, by an `initialize` that nobody sent. */
async function adoptSession(id: string): Promise<Session> {
  const session = await openSession(() => id);
  const inner = (session.transport as unknown as { _webStandardTransport: WebStandardStreamableHTTPServerTransport })._webStandardTransport;
  const params = { protocolVersion: newest ?? '2025-11-25', capabilities: {}, clientInfo: { name: 'adopted', version: '0' } };
  const response = await inner.handleRequest(
    new Request('http://fixture/mcp', {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json, text/event-stream' },
      body: JSON.stringify({ jsonrpc: '2.0', id: randomUUID(), method: 'initialize', params }),
    }),
  );
  await response.text();
  return session;
}

// ── Requests ────────────────────────────────────────────────────────────────────────────────────────────────────────

async function handle(req: IncomingMessage, res: ServerResponse): Promise<void> {
  allowOtherOrigins(res);
  if (req.method === 'OPTIONS') return void res.writeHead(204).end();

  const entry = journal.record(req, res);
  track(entry, res);
  let body: unknown;
  if (entry.http === 'POST') {
    try {
      body = await json(req);
    } catch {
      return answerError(res, 400, -32700, 'Parse error: Invalid JSON');
    }
    entry.rpc = rpcEntries(body);
    if (Array.isArray(body)) entry.array = true;
    capVersion(body);
  }
  if (applyFault(entry, res)) return;
  if (entry.http === 'GET') await settled();

  const session = await findSession(entry, res);
  if (!session) return;
  if (entry.http === 'GET' && behaviour.getRetry !== null) {
    const retry = `retry: ${behaviour.getRetry}\n\n`;
    wrapHead(res, (write, status, headers) => {
      write(status, headers);
      if (status === 200) res.write(retry);
    });
  }
  const spoofed = behaviour.sessionIdHeader;
  if (spoofed !== null && isInitialize(entry)) {
    wrapHead(res, (write, status, headers) => write(status, { ...headers, 'mcp-session-id': spoofed }));
  }
  await session.transport.handleRequest(req, res, body);
}

function allowOtherOrigins(res: ServerResponse): void {
  const refused = new Set(behaviour.corsRefuses);
  if (refused.has('*')) return;
  const allowed = ['accept', 'authorization', 'content-type', 'last-event-id', 'mcp-protocol-version', 'mcp-session-id', 'x-user'];
  res.setHeader('access-control-allow-origin', '*');
  res.setHeader('access-control-allow-headers', allowed.filter((name) => !refused.has(name)).join(', '));
  // A browser would remember for 5 s what was allowed.
  res.setHeader('access-control-max-age', '0');
  res.setHeader('access-control-allow-methods', 'GET, POST, DELETE');
  if (!refused.has('mcp-session-id')) res.setHeader('access-control-expose-headers', 'Mcp-Session-Id');
}

const isInitialize = ({ rpc }: WireEntry) => rpc.some(({ method }) => method === 'initialize');

function track(entry: WireEntry, res: ServerResponse): void {
  const head = new Promise<void>((seen) => {
    wrapHead(res, (write, status, headers) => {
      write(status, headers);
      seen();
    });
  });
  const write = res.write.bind(res);
  const bodyStart = new Promise<void>((seen) => {
    res.write = ((chunk: Uint8Array, ...rest: []) => {
      const flowing = write(chunk, ...rest);
      seen();
      return flowing;
    }) as typeof res.write;
  });
  const exchange = { entry, res, head, bodyStart };
  open.add(exchange);
  res.once('close', () => open.delete(exchange));
}

/**
 * A client can come back for a stream before this process has noticed that its connection, which we ended, is gone; the SDK
 * would answer 409. Waiting for that keeps tests of cuts repeatable.
 */
async function settled(): Promise<void> {
  const ending = [...open].filter(({ entry, res }) => entry.endedBy || res.writableEnded);
  await Promise.all(ending.map(({ res }) => once(res, 'close')));
}

/** An older server agrees to an older version; asking it for that one has the same effect. */
function capVersion(body: unknown): void {
  if (!newest || typeof body !== 'object' || body === null || !('params' in body)) return;
  const params = body.params as { protocolVersion?: string } | undefined;
  if (params?.protocolVersion && params.protocolVersion > newest) params.protocolVersion = newest;
}

async function findSession(entry: WireEntry, res: ServerResponse): Promise<Session | undefined> {
  if (!stateful) {
    if (entry.http !== 'POST') return void answerError(res, 405, -32000, 'Method not allowed.');
    const session = await openSession();
    res.once('close', () => void session.fixture.mcp.close());
    return session;
  }
  if (entry.sessionId === undefined) {
    if (isInitialize(entry)) return openSession(randomUUID);
    return void answerError(res, 400, -32000, 'Bad Request: Mcp-Session-Id header is required');
  }
  const session = sessions.get(entry.sessionId);
  if (session) return session;
  if (behaviour.lost === 'adopts') return isInitialize(entry) ? openSession(() => entry.sessionId ?? '') : adoptSession(entry.sessionId);
  const { status, body, contentType } = refusal(behaviour.lost, entry.rpc[0]?.id ?? null);
  res.writeHead(status, contentType === null ? {} : { 'content-type': contentType }).end(body);
  return undefined;
}

function answerError(res: ServerResponse, status: number, code: number, message: string): void {
  res.writeHead(status, { 'content-type': 'application/json' });
  res.end(JSON.stringify({ jsonrpc: '2.0', error: { code, message }, id: null }));
}

/** Plays a scripted fault if one fits; says whether the request is dealt with. */
function applyFault(entry: WireEntry, res: ServerResponse): boolean {
  if (due(behaviour.hang, entry)) return true;

  const { post, reply, endEmpty, get } = behaviour;
  if (entry.http === 'POST' && due(post, entry)) {
    res.writeHead(post.status, { ...(post.contentType && { 'content-type': post.contentType }), ...post.headers }).end(post.body);
    return true;
  }
  if (due(reply, entry)) {
    const id = JSON.stringify(entry.rpc[0]?.id ?? null);
    res.writeHead(reply.status ?? 200, { 'content-type': reply.contentType }).end(reply.body.replaceAll('{{id}}', id));
    return true;
  }
  if (due(endEmpty, entry) || (entry.http === 'GET' && get === 'close')) {
    res.writeHead(200, { 'content-type': 'text/event-stream' }).end(entry.http === 'GET' && behaviour.getRetry !== null ? `retry: ${behaviour.getRetry}\n\n` : undefined);
    return true;
  }
  if (entry.http === 'GET' && typeof get === 'number') {
    answerError(res, get, -32000, `Scripted ${get}`);
    return true;
  }
  return false;
}

function due<F extends { onlyMethod?: string; times: number }>(fault: F | null, { http, rpc }: WireEntry): fault is F {
  const { onlyMethod, times = 0 } = fault ?? {};
  const fits = onlyMethod === undefined || onlyMethod === http || rpc.some(({ method }) => method === onlyMethod);
  if (!fault || times <= 0 || !fits) return false;
  fault.times--;
  return true;
}

// ── Controls ────────────────────────────────────────────────────────────────────────────────────────────────────────

const controls: Controls = {
  requests: () => journal.entries,
  clearRequests() {
    journal.entries = [];
  },
  async forget() {
    const lost = [...sessions.keys()];
    const orphans = [...open].filter(({ entry }) => entry.sessionId !== undefined && lost.includes(entry.sessionId));
    await Promise.all([...sessions.values()].map(({ fixture }) => fixture.mcp.close()));
    // The SDK ends event streams, but leaves a JSON answer that is still owed open for ever.
    if (mode === 'json') orphans.filter(({ entry }) => entry.http === 'POST').forEach(destroy);
  },
  cut() {
    for (const { entry } of open) entry.endedBy ??= 'server';
    for (const socket of sockets) socket.destroy();
  },
  closeStreams() {
    for (const { entry, res } of open) if (entry.http === 'GET') res.end();
  },
  async notify(text) {
    await Promise.all([...sessions.values()].map(({ fixture }) => fixture.log(text)));
  },
  subscriptions: () =>
    [...sessions].map(([sessionId, { fixture }]) => ({
      sessionId,
      uris: [...fixture.uris],
      ...(fixture.level && { level: fixture.level }),
    })),
  sessions: () => [...sessions.keys()],
  behave(patch) {
    Object.assign(behaviour, patch);
  },
  sync() {},
};

process.on('message', async ({ id, control, args }: ControlRequest) => {
  try {
    const run = controls[control] as (...args: unknown[]) => unknown;
    tell({ type: 'result', id, result: await run(...args) });
  } catch (error) {
    tell({ type: 'result', id, error: String(error) });
  }
});
process.on('disconnect', () => process.exit());

const server = createServer((req, res) => {
  handle(req, res).catch((error: unknown) => {
    console.error(error);
    res.destroy();
  });
});
server.on('connection', (socket) => {
  journal.connected(socket);
  sockets.add(socket);
  socket.once('close', () => sockets.delete(socket));
});
tell({ type: 'listening', port: await listen(server, options.port) });
