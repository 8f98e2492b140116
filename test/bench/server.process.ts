/**
 * The server of the benchmark: MCP over Streamable HTTP, written by hand on node:http so that it is never what a client waits for. It
 * answers by event streams, as the SDK's servers do, keeps sessions, takes JSON arrays, and counts what comes.
 */
import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { listen } from '../support/ports.ts';
import { serve } from './remote.ts';

interface Message {
  readonly id?: number | string;
  readonly method?: string;
  readonly params?: { readonly protocolVersion?: string; readonly name?: string; readonly arguments?: { readonly text?: string } };
}

const VERSION = '2025-11-25';
const STREAM = { 'content-type': 'text/event-stream', 'cache-control': 'no-cache, no-transform' };
const TOOLS = ['echo', 'hang', 'look', 'work'].map((name) => ({
  name,
  description: `The tool ${name} of the benchmark's server.`,
  inputSchema: { type: 'object', properties: { text: { type: 'string' } }, required: ['text'] },
}));

interface Held {
  readonly answer: object;
  res: ServerResponse;
}

const sessions = new Set<string>();
const sockets = new Set<Socket>();
/** How often each text was echoed: a call that ran twice is seen. Off unless asked for, because it grows. */
let runs: Map<string, number> | undefined;
/** Answers that are held back until they are released, by the id of their stream's first event; without an event store nobody can come back for them. */
const holding = new Map<string, Held>();
let eventStore = false;
let streams = 0;
/** So many may wait to be accepted: where a crowd is more, the kernel resets some, and that is no matter of the client's. */
const BACKLOG = 4096;

let opened = 0;
let peak = 0;
let requests = 0;

const server = createServer((req, res) => {
  requests++;
  if (req.method === 'POST') read(req, (body) => post(req, res, body));
  else if (!known(req)) refuse(res);
  else if (req.method === 'GET') listenTo(req, res);
  else {
    sessions.delete(req.headers['mcp-session-id'] as string);
    res.writeHead(200).end();
  }
});
server.keepAliveTimeout = 60_000;
server.on('connection', (socket) => {
  opened++;
  sockets.add(socket);
  peak = Math.max(peak, sockets.size);
  socket.setNoDelay();
  socket.once('close', () => sockets.delete(socket));
});

function read(req: IncomingMessage, then: (body: string) => void): void {
  let body = '';
  req.setEncoding('utf8');
  req.on('data', (text: string) => (body += text));
  req.once('end', () => then(body));
}

function known(req: IncomingMessage): boolean {
  return sessions.has(req.headers['mcp-session-id'] as string);
}

function refuse(res: ServerResponse): void {
  res.writeHead(404, { 'content-type': 'application/json' }).end('{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}');
}

function post(req: IncomingMessage, res: ServerResponse, body: string): void {
  const message = JSON.parse(body) as Message | Message[];
  if (!Array.isArray(message) && message.method === 'initialize') {
    const id = randomUUID();
    sessions.add(id);
    res.writeHead(200, { ...STREAM, 'mcp-session-id': id }).end(event(answer(message)));
    return;
  }
  if (!known(req)) {
    refuse(res);
    return;
  }
  if (!Array.isArray(message) && message.params?.name === 'hold') {
    hold(message, res);
    return;
  }
  const answers = (Array.isArray(message) ? message : [message]).filter(({ id, method }) => id !== undefined && method !== undefined).map(answer);
  if (answers.length === 0) res.writeHead(202).end();
  else if (answers.includes(undefined)) res.writeHead(200, STREAM).flushHeaders();
  else res.writeHead(200, STREAM).end(answers.map(event).join(''));
}

/** A stream whose answer is to be released. */
function hold(message: Message, res: ServerResponse): void {
  const stream = `held_${++streams}`;
  holding.set(stream, { answer: answer(message) ?? {}, res });
  res.writeHead(200, STREAM).flushHeaders();
  if (eventStore) res.write(`id: ${stream}\ndata:\n\n`);
}

/** The session's own stream, or that of an answer which is taken up again. */
function listenTo(req: IncomingMessage, res: ServerResponse): void {
  res.writeHead(200, STREAM).flushHeaders();
  const held = holding.get(String(req.headers['last-event-id']));
  if (held) held.res = res;
}

/** `undefined`: none, ever. */
function answer({ id, method, params }: Message): object | undefined {
  if (method === 'tools/call') {
    if (params?.name === 'hang') return undefined;
    const text = params?.arguments?.text ?? '';
    runs?.set(text, (runs.get(text) ?? 0) + 1);
    return { result: { content: [{ type: 'text', text }] }, jsonrpc: '2.0', id };
  }
  if (method === 'tools/list') return { result: { tools: TOOLS }, jsonrpc: '2.0', id };
  if (method === 'initialize') {
    const result = { protocolVersion: params?.protocolVersion ?? VERSION, capabilities: { tools: { listChanged: true } }, serverInfo: { name: 'bench', version: '1.0.0' } };
    return { result, jsonrpc: '2.0', id };
  }
  return { result: {}, jsonrpc: '2.0', id };
}

function event(message: object | undefined): string {
  return `event: message\ndata: ${JSON.stringify(message)}\n\n`;
}

const controls = {
  /** Returns the port, and when it began to listen (Unix time in ms). */
  listen: async (port: number) => ({ port: await listen(server, port, BACKLOG), at: Date.now() }),
  count: () => ({ sockets: sockets.size, opened, peak, requests }),
  /** Counts from here on. */
  reset: () => {
    opened = 0;
    peak = sockets.size;
    requests = 0;
  },
  /** Whoever comes next has to open a connection. */
  drop: () => {
    for (const socket of sockets) socket.destroy();
  },
  /** Whether answers that are held back can be had after their connection broke. */
  events: (on: boolean) => {
    eventStore = on;
  },
  /** How many answers are held back. */
  held: () => holding.size,
  /** Breaks all connections; returns when (Unix time in ms). What is held back is released as soon as somebody comes back for it. */
  cut: () => {
    const at = Date.now();
    for (const socket of sockets) socket.resetAndDestroy();
    for (const [stream, held] of holding) {
      if (!eventStore) continue;
      const broken = held.res;
      const timer = setInterval(() => {
        if (held.res === broken) return;
        clearInterval(timer);
        holding.delete(stream);
        held.res.end(`id: ${stream}_1\n${event(held.answer)}`);
      }, 1);
    }
    return at;
  },
  /** Nothing is held back any more. */
  let: () => holding.clear(),
  forget: () => sessions.clear(),
  watch: () => {
    runs = new Map();
  },
  ran: () => [...(runs ?? [])],
};
export type ServerControls = typeof controls;
serve(controls);
