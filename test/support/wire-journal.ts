import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { RpcEntry, WireEntry } from './contract.ts';

interface RpcMessage {
  method?: string;
  id?: string | number | null;
  params?: { name?: string };
}

/** Notes every HTTP request: who asked what on which connection, and who ended it. */
export class WireJournal {
  entries: WireEntry[] = [];
  #count = 0;
  readonly #sockets = new WeakMap<Socket, number>();
  #socketCount = 0;

  /** Call it for every new connection: serial numbers follow the order of arrival. */
  connected(socket: Socket): void {
    this.#sockets.set(socket, ++this.#socketCount);
  }

  record(req: IncomingMessage, res: ServerResponse): WireEntry {
    const headers = Object.fromEntries(Object.entries(req.headers).map(([name, value]) => [name, String(value)]));
    const sessionId = headers['mcp-session-id'];
    const protocolVersion = headers['mcp-protocol-version'];
    const lastEventId = headers['last-event-id'];
    const entry: WireEntry = {
      n: ++this.#count,
      at: Date.now(),
      http: req.method as WireEntry['http'],
      ...(sessionId !== undefined && { sessionId }),
      ...(protocolVersion !== undefined && { protocolVersion }),
      ...(lastEventId !== undefined && { lastEventId }),
      rpc: [],
      headers,
      socket: this.#sockets.get(req.socket) ?? 0,
    };
    this.entries.push(entry);
    wrapHead(res, (write, status, headers) => {
      entry.status = status;
      write(status, headers);
    });
    res.once('close', () => {
      entry.endedBy ??= res.writableEnded ? 'server' : 'client';
      entry.until = this.#count;
    });
    return entry;
  }
}

type WriteHead = (status: number, headers?: OutgoingHttpHeaders) => void;

/** Wraps the writing of a response's head, whoever writes it (Node itself comes through here too). */
export function wrapHead(res: ServerResponse, wrap: (write: WriteHead, ...head: Parameters<WriteHead>) => void): void {
  const write = res.writeHead.bind(res) as WriteHead;
  res.writeHead = ((...head: Parameters<WriteHead>) => {
    wrap(write, ...head);
    return res;
  }) as typeof res.writeHead;
}

/** The JSON-RPC messages of a body: one, an array of them, or none. */
export function rpcEntries(body: unknown): RpcEntry[] {
  const messages = Array.isArray(body) ? body : [body];
  return messages
    .filter((message): message is RpcMessage => typeof message === 'object' && message !== null)
    .map(({ method, id, params }) => ({
      ...(method !== undefined && { method }),
      ...(id !== undefined && { id }),
      ...(method === 'tools/call' && params?.name !== undefined && { toolName: params.name }),
    }));
}

/** Resolves when the kernel has all that was written to a response so far. */
export async function flushed(res: ServerResponse): Promise<void> {
  res.flushHeaders();
  // Node corks what it writes in small pieces; the callback of a later write comes after all of them.
  await new Promise<unknown>((done) => (res.socket ? res.socket.write('', done) : done(undefined)));
}
