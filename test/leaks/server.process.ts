import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { setImmediate as turn } from 'node:timers/promises';
import { listen } from '../support/ports.ts';
import { LEFT, type Left } from './traces.ts';

/**
 * An MCP server that keeps nothing but its open sessions and streams, so that it can be asked a million times. What a tool does is in its
 * name; the fixture of the other tests keeps a journal of everything.
 */
interface Rpc {
  readonly jsonrpc: '2.0';
  readonly id?: string | number;
  readonly method?: string;
  readonly params?: { readonly name?: string; readonly protocolVersion?: string; readonly arguments?: { readonly nonce?: string }; readonly _meta?: { readonly progressToken?: number } };
}

/** By session: its notification streams. */
const sessions = new Map<string, Set<ServerResponse>>();
/** Sessions that a client knows, and what it asked last: of one whose handshake it gave up it cannot know. */
const known = new Map<string, string>();
/** What clients have open here, beside the question how much it is. */
const open = { connections: new Set<Socket>(), exchanges: 0 };
/** What was refused once, to be granted the next time. */
const refused = new Set<string>();

const tools = ['json', 'stream'].map((name) => ({ name, inputSchema: { type: 'object' } }));
const say = (text: string, more: object = {}): object => ({ content: [{ type: 'text', text }], ...more });
const result = (id: Rpc['id'], result: object): object => ({ jsonrpc: '2.0', id, result });
const failure = (id: Rpc['id'] | null, code: number, message: string): object => ({ jsonrpc: '2.0', id, error: { code, message } });
const event = (message: object, id?: string): string => `${id === undefined ? '' : `id: ${id}\n`}data: ${JSON.stringify(message)}\n\n`;

function answer(res: ServerResponse, status: number, body: object): void {
  const json = JSON.stringify(body);
  res.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(json) }).end(json);
}

function openStream(res: ServerResponse): void {
  res.writeHead(200, { 'content-type': 'text/event-stream' });
  res.flushHeaders();
}

/** The first time it says no. */
function refuses(res: ServerResponse, { params }: Rpc, status: number, headers: Record<string, string> = {}): boolean {
  const nonce = params?.arguments?.nonce ?? '';
  if (refused.delete(nonce)) return false;
  refused.add(nonce);
  res.writeHead(status, { 'content-type': 'text/plain', ...headers }).end('not now');
  return true;
}

function callTool(message: Rpc, session: string, res: ServerResponse): void {
  const { id, params } = message;
  const done = result(id, say(params?.name ?? ''));
  switch (params?.name) {
    case 'stream':
      openStream(res);
      return void res.end(event(done));
    case 'progress':
      openStream(res);
      for (let progress = 1; progress <= 3; progress++) {
        res.write(event({ jsonrpc: '2.0', method: 'notifications/progress', params: { progressToken: params._meta?.progressToken, progress, total: 3 } }));
      }
      return void res.end(event(done));
    case 'error':
      return answer(res, 200, failure(id, -32050, 'it went wrong'));
    case 'is-error':
      return answer(res, 200, result(id, say('it went wrong', { isError: true })));
    case 'refuse':
      return void res.writeHead(400, { 'content-type': 'text/plain' }).end('no');
    case 'busy':
      return refuses(res, message, 503) ? undefined : answer(res, 200, done);
    case 'limited':
      return refuses(res, message, 429, { 'retry-after': '0' }) ? undefined : answer(res, 200, done);
    case 'hang':
      return;
    case 'cut':
      openStream(res);
      res.write(`id: ${String(id)}\ndata:\n\n`, () => res.socket?.destroy());
      return;
    case 'ask':
      openStream(res);
      res.write(event({ jsonrpc: '2.0', id: `ask-${String(id)}`, method: 'roots/list' }));
      return void res.end(event(done));
    case 'note':
      for (const stream of sessions.get(session) ?? []) stream.write(event({ jsonrpc: '2.0', method: 'notifications/message', params: { level: 'info', data: 'note' } }));
      return answer(res, 200, done);
    case 'forget':
      end(session);
      return answer(res, 200, done);
    default:
      return answer(res, 200, done);
  }
}

function end(session: string): void {
  for (const stream of sessions.get(session) ?? []) stream.end();
  sessions.delete(session);
  known.delete(session);
}

function initialize({ id, params }: Rpc, res: ServerResponse, newest: string | null): void {
  const session = randomUUID();
  sessions.set(session, new Set());
  res.setHeader('mcp-session-id', session);
  const capabilities = { tools: { listChanged: true }, logging: {}, resources: { subscribe: true } };
  answer(res, 200, result(id, { protocolVersion: newest ?? params?.protocolVersion, capabilities, serverInfo: { name: 'lean', version: '1' } }));
}

/** What was closed before this was asked is gone a few turns later. */
async function leftBy(asking: Socket): Promise<Left> {
  const connections = (): number => [...open.connections].filter((socket) => socket !== asking).length;
  for (let turns = 0; turns < 100 && connections() + open.exchanges > 0; turns++) await turn();
  return { sessions: [...known.values()], connections: connections(), exchanges: open.exchanges };
}

async function handle(req: IncomingMessage, res: ServerResponse): Promise<void> {
  const { pathname, searchParams } = new URL(req.url ?? '', 'http://localhost');
  if (pathname === LEFT) return answer(res, 200, await leftBy(req.socket));
  open.exchanges++;
  res.once('close', () => open.exchanges--);
  const body = req.method === 'POST' ? (JSON.parse(await text(req)) as Rpc | Rpc[]) : undefined;
  if (body !== undefined && !Array.isArray(body) && body.method === 'initialize') return initialize(body, res, searchParams.get('newest'));
  const session = String(req.headers['mcp-session-id']);
  const streams = sessions.get(session);
  if (!streams) return answer(res, 404, failure(null, -32001, 'Session not found'));
  known.set(session, `${req.method} ${Array.isArray(body) ? 'array' : [body?.method, body?.params?.name].join(' ')}`);
  if (req.method === 'DELETE') {
    end(session);
    return void res.writeHead(200).end();
  }
  if (req.method === 'GET') {
    openStream(res);
    const last = req.headers['last-event-id'];
    // The stream of a call that was cut: its answer, and that is all.
    if (last !== undefined) return void res.end(event(result(Number(last), say('cut')), `${String(last)}-end`));
    streams.add(res);
    res.once('close', () => streams.delete(res));
    return;
  }
  if (Array.isArray(body)) return answer(res, 200, body.map(({ id, params }) => result(id, say(params?.name ?? ''))));
  if (body?.id === undefined || body.method === undefined) return void res.writeHead(202).end();
  if (body.method === 'tools/call') callTool(body, session, res);
  else answer(res, 200, result(body.id, body.method === 'tools/list' ? { tools } : {}));
}

const server = createServer((req, res) => void handle(req, res).catch(() => res.destroy()));
// An idle connection stays until its client closes it.
server.keepAliveTimeout = 0;
server.on('connection', (socket: Socket) => {
  open.connections.add(socket);
  socket.once('close', () => open.connections.delete(socket));
});
process.send?.({ type: 'listening', port: await listen(server) });
process.on('disconnect', () => process.exit());
