import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { createGzip } from 'node:zlib';
import { send } from '../support/client-script.ts';
import { type Asked, BadServer, echoed, event, GOOD, JSON_TYPE, SSE } from './bad-server.ts';

/** A server in a process of its own that answers a call of the tool `flood` with more than anybody can hold. */

const MB = 1_000_000;
const CHUNK = 64 * 1024;
/** So much is sent of what has an end. */
const HUGE = 300 * MB;
/** The same of what is many messages: each of them takes its time, but not more memory than one. */
const MANY = 120 * MB;

interface Sink {
  write(piece: string | Uint8Array): boolean;
  readonly destroyed: boolean;
  once(event: 'drain' | 'close' | 'error', listener: () => void): unknown;
}

/** Writes a piece again and again, as fast as it is taken, until so many bytes are out, or nobody takes it any more. */
async function pour(sink: Sink, piece: string | Uint8Array, bytes = Number.POSITIVE_INFINITY): Promise<void> {
  const size = Buffer.byteLength(piece as string);
  for (let written = 0; written < bytes && !sink.destroyed; written += size) {
    if (!sink.write(piece)) await Promise.race([once(sink as unknown as NodeJS.EventEmitter, 'drain'), once(sink as unknown as NodeJS.EventEmitter, 'close')]);
  }
}

const progress = ({ rpc }: Asked): string =>
  event(JSON.stringify({ jsonrpc: '2.0', method: 'notifications/progress', params: { progressToken: rpc.params?._meta?.progressToken ?? 0, progress: 1, message: 'x'.repeat(1000) } }));
const repeat = (piece: string): string => piece.repeat(Math.ceil(CHUNK / piece.length));

const FLOODS: Readonly<Record<string, (asked: Asked, res: ServerResponse) => Promise<unknown>>> = {
  'endless-json': async (_, res) => {
    res.writeHead(200, JSON_TYPE).write('{"jsonrpc":"2.0","id":1,"result":{"x":"');
    await pour(res, 'x'.repeat(CHUNK));
  },
  'endless-tools': async ({ rpc }, res) => {
    res.writeHead(200, JSON_TYPE).write(`{"jsonrpc":"2.0","id":${rpc.id},"result":{"tools":[`);
    await pour(res, repeat('{"name":"tool","inputSchema":{"type":"object"}},'));
  },
  'json-in-small-pieces': async (_, res) => {
    res.writeHead(200, JSON_TYPE).write('{"jsonrpc":"2.0","id":1,"result":{"x":"');
    res.socket?.setNoDelay(true);
    // Each in a chunk of its own.
    await pour(res.socket as unknown as Sink, '2\r\nxx\r\n'.repeat(CHUNK / 8));
  },
  'endless-line': async (_, res) => {
    res.writeHead(200, SSE).write('data: ');
    await pour(res, 'x'.repeat(CHUNK));
  },
  'endless-line-of-wide-characters': async (_, res) => {
    res.writeHead(200, SSE).write('data: ');
    await pour(res, '\u20ac'.repeat(CHUNK / 2));
  },
  'endless-comment': async (_, res) => {
    res.writeHead(200, SSE).write(': ');
    await pour(res, 'x'.repeat(CHUNK));
  },
  'event-of-300-mb': async ({ rpc }, res) => {
    res.writeHead(200, SSE).write(`data: {"jsonrpc":"2.0","id":${rpc.id},"result":{"content":[{"type":"text","text":"`);
    await pour(res, 'x'.repeat(CHUNK), HUGE);
    res.end('"}]}}\n\n');
  },
  'event-of-300-mb-in-short-lines': async (_, res) => {
    res.writeHead(200, SSE);
    await pour(res, repeat('data:x\n'), HUGE);
    res.end('\n');
  },
  'gzip-bomb': async (_, res) => {
    res.writeHead(200, { ...JSON_TYPE, 'content-encoding': 'gzip' });
    await bomb(res);
  },
  'gzip-bomb-of-events': async (_, res) => {
    res.writeHead(200, { ...SSE, 'content-encoding': 'gzip' });
    await bomb(res);
  },
  'gzip-bomb-of-a-refusal': async (_, res) => {
    res.writeHead(500, { ...JSON_TYPE, 'content-encoding': 'gzip' });
    await bomb(res);
  },
  'endless-refusal': async (_, res) => {
    res.writeHead(500, { 'content-type': 'text/plain' });
    await pour(res, 'x'.repeat(CHUNK));
  },
  'endless-answer-to-nothing': async (_, res) => {
    res.writeHead(202, { 'content-type': 'text/plain' });
    await pour(res, 'x'.repeat(CHUNK));
  },
  'progress-flood': async (asked, res) => {
    res.writeHead(200, SSE);
    await pour(res, repeat(progress(asked)), MANY);
    res.end(event(echoed(asked.rpc)));
  },
  'notification-flood': async (asked, res) => {
    res.writeHead(200, SSE);
    await pour(res, repeat(event(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"${'x'.repeat(1000)}"}}`)), MANY);
    res.end(event(echoed(asked.rpc)));
  },
  // Each of them is answered by a request, to which this server says nothing.
  'flood-of-questions': async (asked, res) => {
    res.writeHead(200, SSE);
    await pour(res, repeat(event('{"jsonrpc":"2.0","id":7,"method":"ping"}')), 2 * MB);
    res.end(event(echoed(asked.rpc)));
  },
  'flood-of-foreign-answers': async (asked, res) => {
    res.writeHead(200, SSE);
    await pour(res, repeat(event(`{"jsonrpc":"2.0","id":7,"result":{"x":"${'x'.repeat(1000)}"}}`, '1')), MANY);
    res.end(event(echoed(asked.rpc)));
  },
};

/** A thousand times as much as goes over the wire. */
async function bomb(res: ServerResponse): Promise<void> {
  const gzip = createGzip({ level: 9 });
  gzip.pipe(res);
  res.once('close', () => gzip.destroy());
  gzip.on('error', () => {});
  gzip.write('data: {"jsonrpc":"2.0","id":1,"result":{"x":"');
  await pour(gzip, 'x'.repeat(CHUNK), HUGE);
  gzip.end();
}

const server = await BadServer.start(async (asked, res) => {
  if (asked.rpc.id === 7 && asked.rpc.method === undefined) return undefined;
  const flood = asked.rpc.params?.name;
  const start = flood === undefined || asked.rpc.method !== 'tools/call' ? undefined : FLOODS[flood];
  if (!start) return GOOD;
  res.on('error', () => {});
  // The rest of it is nobody's.
  await start(asked, res).catch(() => {});
  return undefined;
});
send({ type: 'listening', url: server.url.href });
