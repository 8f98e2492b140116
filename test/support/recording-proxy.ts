import { createServer, request, type IncomingHttpHeaders, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { pipeline } from 'node:stream/promises';
import type { WireEntry } from './contract.ts';
import { listen } from './ports.ts';
import { flushed, rpcEntries, WireJournal } from './wire-journal.ts';

/** An HTTP proxy in this process that notes what went over the wire to a server which is not ours. */
export async function startRecordingProxy(target: URL): Promise<RecordingProxy> {
  const proxy = new RecordingProxy(target);
  await proxy.start();
  return proxy;
}

export class RecordingProxy {
  readonly #target: URL;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #journal = new WireJournal();
  readonly #open = new Set<WireEntry>();
  #port = 0;
  #cutting: { toolName: string; done: () => void } | undefined;

  constructor(target: URL) {
    this.#target = target;
    this.#server = createServer((req, res) => void this.#handle(req, res));
    this.#server.on('connection', (socket) => {
      this.#journal.connected(socket);
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
    });
  }

  async start(): Promise<void> {
    this.#port = await listen(this.#server);
  }

  /** The target's, by way of this proxy. */
  get url(): URL {
    return Object.assign(new URL(this.#target), { hostname: '127.0.0.1', port: String(this.#port) });
  }

  requests(): WireEntry[] {
    return [...this.#journal.entries];
  }

  clearRequests(): void {
    this.#journal.entries = [];
  }

  /** Destroys every connection. */
  cut(): void {
    for (const entry of this.#open) entry.endedBy ??= 'server';
    for (const socket of this.#sockets) socket.destroy();
  }

  /**
   * Cuts the next call of that tool as soon as its response has begun: after the first event of a stream, or after the head of
   * anything else. Resolves when that has happened.
   */
  cutCall(toolName: string): Promise<void> {
    return new Promise((done) => {
      this.#cutting = { toolName, done };
    });
  }

  stop(): void {
    this.#server.close();
    this.cut();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stop();
  }

  async #handle(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const entry = this.#journal.record(req, res);
    this.#open.add(entry);
    const upstream = request(new URL(req.url ?? '/', this.#target), {
      method: req.method,
      headers: { ...endToEnd(req.headers), host: this.#target.host },
      agent: false,
    });
    res.once('close', () => {
      this.#open.delete(entry);
      upstream.destroy();
    });
    const sent: Buffer[] = [];
    req.on('data', (chunk: Buffer) => sent.push(chunk));
    req.on('end', () => {
      entry.rpc = rpcEntries(parsed(Buffer.concat(sent).toString()));
    });
    req.pipe(upstream);
    try {
      const answer = await new Promise<IncomingMessage>((resolve, reject) => upstream.once('response', resolve).on('error', reject));
      // Before the pipeline hears of it, which ends the client's side too.
      answer.once('error', () => (entry.endedBy ??= 'server'));
      res.writeHead(answer.statusCode ?? 502, endToEnd(answer.headers));
      await flushed(res);
      const cut = this.#claimCut(entry, res);
      const streams = answer.headers['content-type']?.includes('text/event-stream');
      if (cut && !streams) cut();
      await pipeline(answer, (source: AsyncIterable<Buffer>) => (cut ? firstEvent(source, res, cut) : source), res);
    } catch {
      // Whatever went wrong upstream looks like a lost connection from here.
      if (!res.writableEnded) entry.endedBy ??= 'server';
      res.destroy();
    }
  }

  #claimCut(entry: WireEntry, res: ServerResponse): (() => void) | undefined {
    const cutting = this.#cutting;
    if (!cutting || !entry.rpc.some(({ toolName }) => toolName === cutting.toolName)) return undefined;
    this.#cutting = undefined;
    return () => {
      entry.endedBy ??= 'server';
      res.socket?.destroy();
      cutting.done();
    };
  }
}

/** Passes on no more than the first event of a stream. */
async function* firstEvent(source: AsyncIterable<Buffer>, res: ServerResponse, cut: () => void): AsyncGenerator<Buffer> {
  for await (const chunk of source) {
    const end = chunk.indexOf('\n\n');
    yield end < 0 ? chunk : chunk.subarray(0, end + 2);
    if (end < 0) continue;
    await flushed(res);
    return cut();
  }
}

const hopByHop = new Set(['connection', 'keep-alive', 'transfer-encoding', 'host']);

function endToEnd(headers: IncomingHttpHeaders): IncomingHttpHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !hopByHop.has(name)));
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
