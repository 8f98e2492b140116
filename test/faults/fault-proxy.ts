import * as http from 'node:http';
import { createServer, type Server, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { listen } from '../support/ports.ts';
import { Dice } from './dice.ts';
import { type Fault, isFlapping, planConnection, planFault } from './plan.ts';
import { breakOff, headersOf, relayWith, reset } from './raw-answer.ts';
import { type Handshake, WireRules } from './wire-rules.ts';

/** One request as it passed by. */
export interface Passing {
  readonly at: number;
  /** Its seat, its place there, and which of the lives of its seat it is. */
  readonly client: string;
  /** `POST tools/call`, `GET`, … */
  readonly what: string;
  readonly nonces: readonly number[];
  /** What the plan knows it by. */
  readonly key: string;
  readonly fault?: Fault;
  /** Whether the server got it. */
  passed: boolean;
  /** What the client was answered, as far as it was. */
  status?: number;
}

export interface FaultProxyOptions {
  readonly seed: number;
  readonly lane: number;
  /** The server's. */
  readonly port: number;
  /** How many calls there are in all. */
  readonly calls: number;
  onRequest(): void;
  onFault(fault: Fault): void;
  onViolation(what: string): void;
}

/** Requests that are remembered for the timeline of a call. */
const MEMORY = 20_000;
/** How many of the requests are hit. */
const SHARES: Readonly<Record<string, number>> = { initialize: 0.15, GET: 0.2, DELETE: 0.2, other: 0.1 };
const CALL_SHARE = 0.24;

interface Message {
  readonly id?: unknown;
  readonly method?: string;
  readonly params?: { readonly arguments?: { readonly nonce?: unknown }; readonly _meta?: { readonly nonce?: unknown } };
}

/** A bad network before one server. What it does to which request and connection is planned by the seed. */
export class FaultProxy {
  readonly rules: WireRules;
  readonly #options: FaultProxyOptions;
  readonly #agent = new http.Agent({ keepAlive: true });
  readonly #http: http.Server;
  readonly #sockets = new Set<Socket>();
  readonly #attempts: Uint8Array;
  readonly #counts = new Map<string, number>();
  readonly #passings: Passing[] = [];
  /** Requests that took up the stream of an answer. */
  resumes = 0;
  #listener: Server | undefined;
  #connections = 0;
  #requests = 0;
  #port = 0;

  constructor(options: FaultProxyOptions) {
    this.#options = options;
    this.#attempts = new Uint8Array(options.calls);
    this.rules = new WireRules(options.onViolation);
    this.#http = http.createServer({ keepAliveTimeout: 60_000, requestTimeout: 0, headersTimeout: 0 }, (req, res) => {
      // Whatever breaks here is, to the client, a connection that broke.
      this.#handle(req, res).catch(() => reset(res.socket));
    });
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}/mcp`;
  }

  /** What passed by for a call, and some of it before. */
  timeline(nonce: number): Passing[] {
    return this.#passings.filter(({ nonces }) => nonces.includes(nonce)).sort((a, b) => a.at - b.at);
  }

  /** Listens (again), always on the same port. */
  async accept(): Promise<void> {
    if (this.#listener) return;
    this.#listener = createServer((socket) => void this.#connect(socket));
    this.#port = await listen(this.#listener, this.#port);
  }

  /** Nobody is there any more: what is open is reset, and who comes is refused. */
  refuse(): void {
    this.#listener?.close();
    this.#listener = undefined;
    for (const socket of this.#sockets) reset(socket);
  }

  stop(): void {
    this.refuse();
    this.#agent.destroy();
  }

  async #connect(socket: Socket): Promise<void> {
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    socket.on('error', () => {});
    const fault = planConnection(this.#options.seed, this.#options.lane, this.#connections++);
    if (fault) {
      this.#options.onFault(fault);
      if (fault.kind === 'reset') reset(socket);
      else if (fault.kind === 'cut') socket.end().resume();
      // Takes what comes, so that its end is seen, and does nothing with it.
      else if (fault.kind === 'half-open') socket.resume();
      if (fault.kind !== 'delay') return;
      await sleep(fault.ms);
    }
    if (!socket.destroyed) this.#http.emit('connection', socket);
  }

  async #handle(req: http.IncomingMessage, res: http.ServerResponse): Promise<void> {
    const { seed, onRequest, onFault } = this.#options;
    const body = req.method === 'POST' ? await text(req) : '';
    const passing = this.#note(req, body);
    onRequest();
    const { fault, client } = passing;
    if (req.method === 'GET' && this.#isFlappingStream(req, client)) {
      const dice = new Dice(seed, 'flap', client, passing.key);
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      if (dice.chance(0.3)) res.write('data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"flap"}}\n\n');
      res.end(`retry: ${dice.pick([0, 1, 1, 1, 200, 2 ** 32])}\n\n`);
      return;
    }
    if (req.method === 'GET' && req.headers['last-event-id'] !== undefined && !isOwnStream(req)) this.resumes++;
    const handshake = passing.what === 'POST initialize' ? this.rules.handshake(client) : undefined;
    res.once('close', () => {
      if (handshake) handshake.endedBy ??= 'client';
    });

    if (fault?.phase === 'request') {
      onFault(fault);
      if (fault.kind !== 'delay') {
        if (handshake && fault.kind !== 'half-open') handshake.endedBy = 'answer';
        if (fault.kind === 'status') return this.#answer(res, passing, fault);
        return breakOff(res, fault);
      }
      await sleep(fault.ms);
    }
    // What was held up reaches the server even if its client is gone by now.
    passing.passed = true;
    const upstream = await this.#forward(req, body, res);
    passing.status = upstream.statusCode ?? 0;
    try {
      if (fault?.phase === 'forwarded') {
        onFault(fault);
        delete passing.status;
        endHandshake(handshake, fault);
        await (fault.kind === 'status' ? this.#answer(res, passing, fault) : breakOff(res, fault));
      } else if (fault && fault.phase !== 'request') {
        endHandshake(handshake, fault);
        if (await relayWith(fault, upstream, res)) onFault(fault);
      } else await relay(upstream, res, handshake);
    } finally {
      upstream.destroy();
    }
  }

  #note(req: http.IncomingMessage, body: string): Passing {
    const client = String(req.headers['x-client'] ?? '?');
    const session = req.headers['mcp-session-id'] as string | undefined;
    const parsed = body === '' ? [] : (JSON.parse(body) as Message | Message[]);
    const messages = Array.isArray(parsed) ? parsed : [parsed];
    const nonces = messages.map(nonceOf).filter((nonce) => nonce !== undefined);
    const method = messages[0] ? (messages[0].method ?? 'answer') : undefined;
    const what = `${req.method ?? ''}${method === undefined ? '' : ` ${method}`}`;
    for (const { id, method } of messages) if (method !== undefined) this.rules.request(client, session, id);
    this.rules.sentAgain(client, nonces);
    const [first] = nonces;
    const kind = `${client.split('.', 2).join('.')} ${what}`;
    const key = first === undefined ? `${kind} ${this.#count(kind)}` : `call ${first} ${(this.#attempts[first] = (this.#attempts[first] ?? 0) + 1)}`;
    const share = first === undefined ? (SHARES[method ?? req.method ?? ''] ?? SHARES['other']) : CALL_SHARE;
    const fault = planFault(this.#options.seed, key, share ?? 0);
    const passing: Passing = { at: Date.now(), client, what, nonces, key, passed: false, ...(fault ? { fault } : {}) };
    this.#passings[this.#requests++ % MEMORY] = passing;
    return passing;
  }

  #count(key: string): number {
    const count = (this.#counts.get(key) ?? 0) + 1;
    this.#counts.set(key, count);
    return count;
  }

  #isFlappingStream(req: http.IncomingMessage, client: string): boolean {
    const flaps = isFlapping(Number(client.split('.')[1])) && isOwnStream(req);
    if (flaps) this.rules.stream(client, String(req.headers['mcp-session-id']));
    return flaps;
  }

  #answer(res: http.ServerResponse, passing: Passing, { status, wait }: Fault): void {
    passing.status = status;
    if (wait !== undefined) this.rules.putOff(passing.client, passing.nonces, wait);
    res.writeHead(status, { 'content-type': 'text/plain', ...(wait === undefined ? {} : { 'retry-after': String(wait) }) }).end(`says the proxy: ${status}`);
  }

  #forward(req: http.IncomingMessage, body: string, res: http.ServerResponse): Promise<http.IncomingMessage> {
    const { host: _, connection: __, 'x-client': ___, ...headers } = req.headers;
    return new Promise((resolve, reject) => {
      const { method, url: path } = req;
      const upstream = http.request({ host: '127.0.0.1', port: this.#options.port, method: method ?? 'GET', path, headers, agent: this.#agent });
      upstream.once('response', (response) => {
        response.on('error', () => {});
        resolve(response);
      });
      upstream.on('error', reject);
      // Its client has left, and a server sees that.
      res.once('close', () => upstream.destroy());
      upstream.end(body);
    });
  }
}

/** Whether a GET is for the session's own stream: the SDK's servers name its events so, and any other event is of a call. */
function isOwnStream({ headers }: http.IncomingMessage): boolean {
  return String(headers['last-event-id'] ?? '_GET_stream').startsWith('_GET_stream');
}

/** An answer as it is. */
function relay(upstream: http.IncomingMessage, res: http.ServerResponse, handshake: Handshake | undefined): Promise<void> {
  return new Promise((resolve) => {
    res.writeHead(upstream.statusCode ?? 502, headersOf(upstream));
    // A stream has a head long before its first event.
    res.flushHeaders();
    upstream.on('data', (bytes: Buffer) => void res.write(bytes));
    upstream.once('end', () => {
      if (handshake) handshake.endedBy ??= 'answer';
      res.end(resolve);
    });
    upstream.once('error', () => reset(res.socket));
    upstream.once('close', resolve);
    res.once('close', resolve);
  });
}

/** However it ends, it is not the client that ends it; but where nothing comes any more it is. */
function endHandshake(handshake: Handshake | undefined, { kind }: Fault): void {
  if (handshake && kind !== 'half-open' && kind !== 'delay') handshake.endedBy ??= 'answer';
}

function nonceOf({ params }: Message): number | undefined {
  const nonce = params?.arguments?.nonce ?? params?._meta?.nonce;
  return typeof nonce === 'number' ? nonce : undefined;
}
