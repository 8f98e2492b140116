import type { OAuthClientProvider } from '@modelcontextprotocol/sdk/client/auth.js';
import type { ClientOptions } from '@modelcontextprotocol/sdk/client/index.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import type { ClientCapabilities, Implementation } from '@modelcontextprotocol/sdk/types.js';
import type { HttpOptions } from './links/http-connector.ts';
import type { HeadersSource } from './links/headers.ts';
import type { FetchLike } from './links/requester.fetch.ts';
import type { CommandTarget } from './links/target.ts';
import type { SessionEvents } from './session/events.ts';
import type { Store } from './storage/store.ts';

/** A server: its URL, a command that starts it (Node only), or what makes an SDK transport to it. */
export type Target = URL | string | CommandTarget | (() => Transport);

export interface TimeoutOptions {
  /** How long a handshake may take, in ms, with everything that is tried again within it. Default 15,000. */
  readonly connect?: number;
  /** How long a call may take, in ms, with everything that is tried again within it; progress starts it afresh. Default 60,000. */
  readonly call?: number;
  /** How long a call may take in all, in ms, whatever progress it makes. Default 600,000. */
  readonly total?: number;
}

export interface RetryOptions {
  /** How often a call is sent again. Default: until its deadline. */
  readonly retries?: number;
  /** The first delay, in ms; each is drawn between 0 and its full length (full jitter). Default 100. */
  readonly minTimeout?: number;
  /** The longest delay, in ms. Default 2,000. */
  readonly maxTimeout?: number;
  /** How much longer each delay is than the one before. Default 2. */
  readonly factor?: number;
  /** How much may be sent again in all; `false`: as much as there is time for. Default `{ tokens: 100, ratio: 0.1 }`. */
  readonly budget?: RetryBudget | false;
}

/**
 * A bucket of repetitions: each takes a token, each call puts `ratio` of one back. While it is empty, or another call waits so
 * already, a call that finds nobody there waits for news of the server; and while it is empty, one that a server fails or puts off
 * (5xx, 429) is not sent again.
 */
export interface RetryBudget {
  /** What the bucket holds, and begins with. Default 100. */
  readonly tokens?: number;
  /** What each call puts back. Default 0.1: what is sent again is at most a tenth of what is asked for, in the long run. */
  readonly ratio?: number;
}

export interface RateLimit {
  /** How many calls are let out each second, in the long run. */
  readonly perSecond: number;
  /** How many may go out at once after a pause. */
  readonly burst: number;
}

export interface HistoryOptions {
  /** Default 100; 0: none. */
  readonly size?: number;
  /** Keep arguments and results too. They may be secret, and large. Default false. */
  readonly payloads?: boolean;
}

export interface CircuitBreaker {
  /** After so many attempts in a row that could not reach the server, the circuit opens. */
  readonly failures: number;
}

/** What a session needs to know. All times are in ms. */
export interface SessionOptions {
  /** Where the session is kept. Without one it lives as long as the client, and is ended (DELETE) when that is closed. */
  readonly store?: Store;
  /** The name of the session, for several with the same server. Default `'default'`. */
  readonly session?: string;
  /** On whose behalf. Sessions of different principals never meet. With an `authProvider` and no principal nothing is stored. */
  readonly principal?: string;
  /**
   * How long a session is kept since its last use, in ms. It is in use while a call is in flight or its notification stream is open.
   * Default 1 hour; `Infinity` is allowed. Where clients of one session say different things the longest counts.
   */
  readonly ttl?: number;
  /** Kept with the session, as JSON. */
  readonly metadata?: Readonly<Record<string, unknown>>;
  /** OAuth, as in the SDK. */
  readonly authProvider?: OAuthClientProvider;
  /** Headers for every request: an object, or a function (async if need be) that is asked before each one. */
  readonly headers?: HeadersSource;
  /** Makes the requests instead of node:http (on Node) or the global fetch (elsewhere). */
  readonly fetch?: FetchLike;
  /** Further settings of fetch, such as `credentials`. When given, requests go through fetch. */
  readonly requestInit?: NonNullable<HttpOptions['requestInit']>;
  /** How long things may take. */
  readonly timeout?: TimeoutOptions;
  /**
   * When the server has forgotten the session: `'replay'` starts a new one and sends again what was refused, `'fail'` fails the
   * refused calls with `SessionLostError`; the next call starts a new session. Default `'replay'`.
   */
  readonly onSessionLost?: 'replay' | 'fail';
  /**
   * What proves that the server still knows a stored session: the `'first-call'`, or a `'ping'` before `connect()` resolves, which then
   * takes a request and fails where the server cannot be reached. Default `'first-call'`.
   */
  readonly validate?: 'ping' | 'first-call';
  /** Whether to keep the server-to-client stream open, on which notifications come between calls. Default true. */
  readonly listen?: boolean;
  /** Listeners that are there from the first moment on: what happens while the client connects cannot be heard otherwise. */
  readonly on?: Partial<SessionEvents>;
  /** What a server may send at most. */
  readonly limits?: {
    /** The most characters that one answer or one event of the server may have. Default 64 Mi. */
    readonly responseBytes?: number;
  };
}

/** What a client needs to know. All times are in ms. */
export interface ConnectOptions extends SessionOptions {
  /** How the client names itself to the server. Default: this library's name and version. */
  readonly clientInfo?: Implementation;
  /** What the client offers to the server: sampling, elicitation, roots. A session is taken up only by a client that offers the same. */
  readonly capabilities?: ClientCapabilities;
  /** The rest of the SDK's client options. */
  readonly client?: Omit<ClientOptions, 'capabilities'>;
  /** How what may be sent again is sent again; `false`: nothing is. */
  readonly retry?: RetryOptions | false;
  /**
   * How many calls are in flight at a time; the others wait for their turn, in order. Default: 64, and up to 256 while answers come as
   * quickly as without that.
   */
  readonly concurrency?: number;
  /** How many calls are let out in a time. Counts what goes over the wire, what is sent again too. Default: as many as there are. */
  readonly rateLimit?: RateLimit;
  /**
   * Where the server cannot be reached, calls fail at once with `CircuitOpenError`, until a ping has found it again. Default `false`: they
   * wait for it, until their deadline.
   */
  readonly circuitBreaker?: CircuitBreaker | false;
  /** How long a list of tools is taken from the session instead of asking the server, in ms; `false`: never. Default 5 minutes. */
  readonly toolListTtl?: number | false;
  /** How many calls are remembered, and whether with their arguments and results. Default `{ size: 100, payloads: false }`. */
  readonly history?: HistoryOptions;
  /** Believe a server that says of a tool that it is read-only or idempotent, and send such calls again. Default false. */
  readonly trustAnnotations?: boolean;
  /** Gives up connecting. */
  readonly signal?: AbortSignal;
}

/** What one call can be given, beside the SDK's own options. */
export interface CallSettings {
  /** The call may be repeated: if it is not known what became of it, it is made again. */
  readonly safe?: boolean;
  /**
   * Makes the call durable: it outlives this process. Whoever makes it again with the same id, this process or the next, gets the one
   * answer, and the tool does not run again. Needs a `store`. Each call needs an id of its own.
   */
  readonly callId?: string;
  /** As the client's option, for this call. */
  readonly retry?: Omit<RetryOptions, 'budget'> | false;
  /** `false`: a list of tools is asked for, even if the session has one. */
  readonly cache?: boolean;
}

export const DEFAULTS = {
  session: 'default',
  ttl: 3_600_000,
  timeout: { connect: 15_000, call: 60_000, total: 600_000 },
  retry: { retries: Number.POSITIVE_INFINITY, minTimeout: 100, maxTimeout: 2_000, factor: 2 },
  budget: { tokens: 100, ratio: 0.1 },
  concurrency: { least: 64, most: 256 },
  toolListTtl: 300_000,
  history: { size: 100, payloads: false },
  pool: { max: 100, idleTimeout: 300_000 },
  responseBytes: 64 * 1024 * 1024,
} as const;
