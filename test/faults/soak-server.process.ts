import { randomUUID } from 'node:crypto';
import { openSync, writeSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { json } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { Server } from '@modelcontextprotocol/sdk/server/index.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { CallToolRequestSchema, ErrorCode, ListToolsRequestSchema, McpError } from '@modelcontextprotocol/sdk/types.js';
import { OrderedEventStore } from '../support/event-store.ts';
import { listen } from '../support/ports.ts';

/*
 * A server of the SDK for very many calls: one tool, whose executions go into a file. They are there before anything else happens, so
 * that a SIGKILL loses none.
 */
const { mode, eventStore, journal, port } = JSON.parse(process.argv[2] ?? '{}') as { mode: 'sse' | 'json'; eventStore: boolean; journal: string; port: number };
const executions = openSync(journal, 'a');
const sessions = new Map<string, StreamableHTTPServerTransport>();

const effect = { name: 'effect', inputSchema: { type: 'object' as const } };

function createMcpServer(): Server {
  const server = new Server({ name: 'soak', version: '1.0.0' }, { capabilities: { tools: { listChanged: true }, logging: {} } });
  server.setRequestHandler(ListToolsRequestSchema, () => ({ tools: [effect] }));
  server.setRequestHandler(CallToolRequestSchema, async ({ params }, { _meta, sendNotification, signal }) => {
    const { nonce, ms = 0, steps = 1, note = false } = (params.arguments ?? {}) as { nonce?: number; ms?: number; steps?: number; note?: boolean };
    if (params.name !== effect.name || nonce === undefined) throw new McpError(ErrorCode.InvalidParams, `there is no such tool: ${params.name}`);
    writeSync(executions, `${nonce}\n`);
    if (note) await server.sendLoggingMessage({ level: 'info', data: `note ${nonce}` });
    for (let step = 1; step <= steps; step++) {
      if (ms > 0) await sleep(ms / steps, undefined, { signal });
      if (_meta?.progressToken !== undefined && steps > 1) {
        await sendNotification({ method: 'notifications/progress', params: { progressToken: _meta.progressToken, progress: step, total: steps, message: String(nonce) } });
      }
    }
    // The second part tells one execution from another; the third is more than one byte a character.
    return { content: [{ type: 'text', text: `done:${nonce}:${randomUUID().slice(0, 8)}:✓` }] };
  });
  return server;
}

async function openSession(): Promise<StreamableHTTPServerTransport> {
  const transport: StreamableHTTPServerTransport = new StreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    onsessioninitialized: (id) => void sessions.set(id, transport),
    onsessionclosed: (id) => void sessions.delete(id),
    ...(eventStore ? { eventStore: new OrderedEventStore() } : {}),
    enableJsonResponse: mode === 'json',
  });
  await createMcpServer().connect(transport as Transport);
  return transport;
}

async function handle(req: IncomingMessage, res: ServerResponse): Promise<void> {
  const body = req.method === 'POST' ? await json(req) : undefined;
  const id = req.headers['mcp-session-id'];
  const session = typeof id === 'string' ? sessions.get(id) : await openSession();
  if (session) return session.handleRequest(req, res, body);
  res.writeHead(404, { 'content-type': 'application/json' }).end('{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}');
}

const server = createServer({ keepAliveTimeout: 60_000 }, (req, res) => {
  // Who left in the middle of a request, or of its answer, is no fault of this server.
  handle(req, res).catch(() => res.destroy());
});

process.on('message', (message) => {
  if (message !== 'forget') return;
  const forgotten = [...sessions.values()];
  sessions.clear();
  for (const session of forgotten) void session.close();
});
process.on('SIGTERM', () => process.exit());
process.on('disconnect', () => process.exit());
process.send?.({ port: await listen(server, port) });
