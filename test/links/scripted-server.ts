import { createServer, type IncomingHttpHeaders, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import type { Server as NetServer, Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { listen } from '../support/ports.ts';
import { selfSigned } from './self-signed.ts';

export interface Seen {
  method: string;
  path: string;
  headers: IncomingHttpHeaders;
  body: string;
  /** The serial number of the connection. */
  socket: number;
  /** Settles when the connection or the exchange is over. */
  closed: Promise<void>;
}

export type Script = (request: Seen, res: ServerResponse, raw: IncomingMessage) => unknown;

/** A server in this process that answers as the test says, and keeps what it was asked. */
export class ScriptedServer {
  readonly seen: Seen[] = [];
  readonly #sockets = new Map<Socket, number>();
  readonly #server: NetServer;
  readonly #secure: boolean;
  #count = 0;
  #port = 0;
  script: Script;

  constructor(script: Script, { secure = false } = {}) {
    this.script = script;
    this.#secure = secure;
    const onRequest = (req: IncomingMessage, res: ServerResponse): void => void this.#handle(req, res);
    const server: Server = secure ? createSecureServer(selfSigned, onRequest) : createServer(onRequest);
    server.on(secure ? 'secureConnection' : 'connection', (socket: Socket) => {
      this.#sockets.set(socket, ++this.#count);
      socket.on('error', () => {});
      socket.once('close', () => this.#sockets.delete(socket));
    });
    this.#server = server;
  }

  static async start(script: Script, options?: { secure?: boolean }): Promise<ScriptedServer> {
    const server = new ScriptedServer(script, options);
    server.#port = await listen(server.#server);
    return server;
  }

  get url(): URL {
    return new URL(`${this.#secure ? 'https' : 'http'}://127.0.0.1:${this.#port}/mcp`);
  }

  /** How many connections were made so far. */
  get connections(): number {
    return this.#count;
  }

  /** How many are open now. */
  get open(): number {
    return this.#sockets.size;
  }

  /** Breaks one connection off. */
  drop(serial: number): void {
    for (const [socket, each] of this.#sockets) if (each === serial) socket.destroy();
  }

  async stop(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets.keys()) socket.destroy();
    await closed;
  }

  async #handle(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const closed = new Promise<void>((resolve) => res.once('close', resolve));
    const body = await text(req).catch(() => '');
    const seen: Seen = { method: req.method ?? '', path: req.url ?? '', headers: req.headers, body, socket: this.#sockets.get(req.socket) ?? 0, closed };
    this.seen.push(seen);
    await this.script(seen, res, req);
  }
}

/** Writes pieces so that each goes out before the next. */
export async function writePieces(res: ServerResponse, pieces: Iterable<string | Uint8Array>): Promise<void> {
  for (const piece of pieces) {
    await new Promise<unknown>((written) => res.write(piece, written));
    await new Promise((next) => setImmediate(next));
  }
}
