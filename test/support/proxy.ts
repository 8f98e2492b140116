import { connect, createServer, type Server, type Socket } from 'node:net';
import { listen } from './ports.ts';

/** Sees each piece of a response before it is passed on. A number lets only so many bytes of it through and then cuts. */
export type ResponseHook = (chunk: Buffer) => number | void;

interface Connection {
  client: Socket;
  upstream: Socket;
}

/** A bad network between a client and a server: a TCP proxy in this process. */
export async function startProxy(target: URL): Promise<TcpProxy> {
  const proxy = new TcpProxy(target);
  await proxy.accept();
  return proxy;
}

export class TcpProxy {
  readonly #target: URL;
  readonly #connections = new Set<Connection>();
  #listener: Server | undefined;
  #port = 0;
  #blackhole = false;
  #hook: ResponseHook | undefined;

  constructor(target: URL) {
    this.#target = target;
  }

  /** The target's, by way of this proxy. */
  get url(): URL {
    return Object.assign(new URL(this.#target), { hostname: '127.0.0.1', port: String(this.#port) });
  }

  /** How many connections are open. */
  connections(): number {
    return this.#connections.size;
  }

  /** Resets every connection, on both sides. */
  cut(): void {
    for (const connection of this.#connections) reset(connection);
  }

  /** New connections are refused. Open ones stay. */
  refuse(): void {
    this.#listener?.close();
    this.#listener = undefined;
  }

  /** Listens (again), always on the same port. */
  async accept(): Promise<void> {
    if (this.#listener) return;
    this.#listener = createServer((client) => this.#open(client));
    this.#port = await listen(this.#listener, this.#port);
  }

  /** While on, connections are accepted and kept, but nothing passes in either direction. */
  blackhole(on: boolean): void {
    this.#blackhole = on;
    for (const { client, upstream } of this.#connections) {
      this.#flow(client);
      this.#flow(upstream);
    }
  }

  onResponseChunk(hook: ResponseHook | undefined): void {
    this.#hook = hook;
  }

  stop(): void {
    this.refuse();
    this.cut();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stop();
  }

  #open(client: Socket): void {
    const upstream = connect(Number(this.#target.port), this.#target.hostname);
    const connection = { client, upstream };
    this.#connections.add(connection);
    client.once('close', () => this.#connections.delete(connection));
    this.#forward(client, upstream, (chunk) => void this.#pass(chunk, client, upstream));
    this.#forward(upstream, client, (chunk) => {
      const limit = this.#hook?.(chunk);
      if (limit === undefined) this.#pass(chunk, upstream, client);
      else client.write(chunk.subarray(0, limit), () => reset(connection));
    });
  }

  #forward(from: Socket, to: Socket, onData: (chunk: Buffer) => void): void {
    from.setNoDelay();
    from.on('data', onData);
    from.on('error', () => to.resetAndDestroy());
    from.on('close', () => to.destroySoon());
    this.#flow(from);
  }

  #pass(chunk: Buffer, from: Socket, to: Socket): void {
    if (to.write(chunk)) return;
    from.pause();
    to.once('drain', () => this.#flow(from));
  }

  #flow(socket: Socket): void {
    if (this.#blackhole) socket.pause();
    else socket.resume();
  }
}

function reset({ client, upstream }: Connection): void {
  client.resetAndDestroy();
  upstream.resetAndDestroy();
}
