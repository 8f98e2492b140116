import * as http from 'node:http';
import * as https from 'node:https';
import { isIP, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { urlToHttpOptions } from 'node:url';
import { afterIdle } from '../timers.ts';

/**
 * An idle socket is given up before the 5 s after which a Node server closes it: a request on a socket that the server is just
 * closing fails in a way that proves nothing.
 */
const IDLE_SOCKET = 4000;

/** As an agent opens them. `keepAliveInitialDelay` finds out that the other end of a long stream is gone. */
const SOCKET = { keepAlive: true, keepAliveInitialDelay: 1000, noDelay: true, timeout: IDLE_SOCKET };

/** How long a socket that was opened early waits for its request, in ms: a server may close one on which nothing comes, or wait for it alone. */
const EARLY = 1000;

/** On the socket itself, which is quicker than a map beside it. */
const SENT_AT = Symbol('sent at');
const OPENING = Symbol('opening');
type Pooled = Duplex & {
  /** When its last request went out, on the clock of `performance.now()`. */
  [SENT_AT]?: number;
  /** It was opened early, and is not ready yet. */
  [OPENING]?: boolean;
};

/** Where a socket leads to. */
interface Place {
  readonly host: string;
  readonly port: number;
  /** The name that a certificate has to have. */
  readonly servername: string;
}

interface Early {
  readonly place: Place;
  readonly socket: Socket;
  /** When it is too old, on the clock of `performance.now()`. */
  readonly goodUntil: number;
  /** Stops the timer for that. */
  stop(): void;
}

/** The connections over which requests are made, kept alive between them. */
export class Pool {
  readonly agent: http.Agent;
  readonly #secure: boolean;
  readonly #open: http.Agent['createConnection'];
  #early: Early | undefined;

  constructor(secure: boolean) {
    const settings: http.AgentOptions = { ...SOCKET, scheduling: 'lifo' };
    this.#secure = secure;
    this.agent = secure ? new https.Agent(settings) : new http.Agent(settings);
    this.#open = this.agent.createConnection.bind(this.agent);
    this.agent.createConnection = (options, ready) => this.#take(options) ?? this.#open(options, ready);
  }

  /** Whether a connection waits for its next request: the server keeps them. */
  get hasIdle(): boolean {
    return Object.keys(this.agent.freeSockets).length > 0;
  }

  /**
   * Opens a connection for the request that is about to come, while it is still being made. Where that fails the request finds out for
   * itself. One for which none comes is closed after a second, and keeps no process once it stands.
   */
  warm(url: URL): void {
    if (this.#early || this.hasIdle) return;
    const { hostname, port } = urlToHttpOptions(url);
    const host = hostname ?? '';
    const place = { host, port: Number(port ?? (this.#secure ? 443 : 80)), servername: isIP(host) ? '' : host };
    let socket: Socket & Pooled;
    try {
      // By this name an https agent keeps what makes the next handshake shorter.
      const name = { _agentKey: this.agent.getName({ ...SOCKET, ...place }) };
      socket = this.#open({ ...SOCKET, ...place, ...name }) as Socket;
    } catch {
      return;
    }
    const early = { place, socket, goodUntil: performance.now() + EARLY, stop: afterIdle(EARLY, () => socket.destroy()) };
    this.#early = early;
    socket[OPENING] = true;
    socket.once(this.#secure ? 'secureConnect' : 'connect', () => (socket[OPENING] = false));
    // For good: it may fail while it changes hands.
    socket.on('error', () => {});
    socket.once('close', () => {
      early.stop();
      if (this.#early === early) this.#early = undefined;
    });
    socket.unref();
  }

  /** A connection to the same server has broken off: those that only wait may be dead as well, and a call on one of them would be lost. */
  dropIdle(): void {
    this.#dropEarly();
    for (const sockets of Object.values(this.agent.freeSockets)) for (const socket of sockets ?? []) socket.destroy();
  }

  /**
   * Gives up sockets whose time is over. The agent has timers for that; but a program that was busy for long makes its next request before
   * they fire, and it would go out on a socket that the server has closed. Nor does it know when the server was done with the last request,
   * for it may have read the answer late: what it knows is when it asked.
   */
  weed(): void {
    const { freeSockets } = this.agent;
    const over = performance.now() - IDLE_SOCKET;
    for (const name in freeSockets) {
      for (const socket of freeSockets[name] ?? []) {
        if (((socket as Pooled)[SENT_AT] ?? 0) < over) socket.destroy();
      }
    }
  }

  /** Closes idle connections and everything in flight. */
  close(): void {
    this.#dropEarly();
    this.agent.destroy();
  }

  #dropEarly(): void {
    this.#early?.stop();
    this.#early?.socket.destroy();
    this.#early = undefined;
  }

  #take({ host, port, servername = '' }: https.RequestOptions): Socket | undefined {
    const early = this.#early;
    if (!early || host !== early.place.host || Number(port) !== early.place.port || servername !== early.place.servername) return undefined;
    this.#early = undefined;
    early.stop();
    const { socket, goodUntil } = early;
    // A server that has spoken before it was asked says that it closes. A program that was busy may be later than the timer.
    if (socket.destroyed || socket.readableLength > 0 || socket.readableEnded || performance.now() > goodUntil) {
      socket.destroy();
      return undefined;
    }
    socket.ref();
    return socket;
  }
}

/** A request goes out on a socket. */
export function markSent(socket: Pooled): void {
  socket[SENT_AT] = performance.now();
}

/** Whether what is written to a socket goes out at once. */
export function isOpen(socket: Socket & Pooled): boolean {
  return !socket.connecting && !socket[OPENING];
}
