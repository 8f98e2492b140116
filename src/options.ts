import type { OAuthClientProvider } from '@modelcontextprotocol/sdk/client/auth.js';
import type { ClientOptions } from '@modelcontextprotocol/sdk/client/index.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import type { ClientCapabilities, Implementation } from '@modelcontextprotocol/sdk/types.js';
import type { HttpOptions } from './links/http-connector.ts';
import { checkHeader, type HeadersSource } from './links/headers.ts';
import type { FetchLike } from './links/requester.fetch.ts';
import type { CommandTarget } from './links/target.ts';
import { EVENT_NAMES, type SessionEvents } from './session/events.ts';
import type { Store } from './storage/store.ts';
import { LONGEST_TIMER } from './timers.ts';

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
}

/** What a session needs to know. All times are in ms. */
export interface SessionOptions {
  /** Where the session is kept. Without one it lives as long as the client, and is ended (DELETE) when that is closed. */
  readonly store?: Store;
  /** The name of the session, for several with the same server. Default `'default'`. */
  readonly session?: string;
  /** On whose behalf. Sessions of different principals never meet. With an `authProvider` and no principal nothing is stored. */
  readonly principal?: string;
  /** How long an unused session is kept, since its last use. Default 1 hour; `Infinity` is allowed. */
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
  /** Believe a server that says of a tool that it is read-only or idempotent, and send such calls again. Default false. */
  readonly trustAnnotations?: boolean;
  /** Gives up connecting. */
  readonly signal?: AbortSignal;
}

export const DEFAULTS = {
  session: 'default',
  ttl: 3_600_000,
  timeout: { connect: 15_000, call: 60_000, total: 600_000 },
  retry: { retries: Number.POSITIVE_INFINITY, minTimeout: 100, maxTimeout: 2_000, factor: 2 },
  responseBytes: 64 * 1024 * 1024,
} as const;

type Check = (value: unknown, name: string) => void;

const SESSION_CHECKS: Readonly<Record<keyof SessionOptions, Check>> = {
  store: (value, name) => {
    const methods = ['get', 'set', 'delete', 'keys', 'close'] as const;
    if (!isObject(value) || methods.some((method) => typeof value[method] !== 'function')) throw new TypeError(`${name} must be a Store, such as fileStore(directory)`);
  },
  session: text,
  principal: text,
  ttl: (value, name) => duration(value, name, Number.POSITIVE_INFINITY),
  metadata: (value, name) => {
    if (!isObject(value)) throw new TypeError(`${name} must be a plain object`);
    try {
      JSON.stringify(value);
    } catch (error) {
      throw new TypeError(`${name} cannot be written as JSON`, { cause: error });
    }
  },
  authProvider: (value, name) => {
    if (!isObject(value) || typeof value['tokens'] !== 'function') throw new TypeError(`${name} must be an OAuthClientProvider of the SDK`);
  },
  headers: (value, name) => {
    if (typeof value === 'function') return;
    if (!isObject(value)) throw new TypeError(`${name} must be an object of strings, or a function that returns one`);
    for (const [header, content] of Object.entries(value)) checkHeader(header, content, name);
  },
  fetch: aFunction,
  requestInit: (value, name) => {
    object(value, name);
    const stranger = ['headers', 'method', 'body', 'signal', 'redirect'].find((each) => each in (value as object));
    if (stranger) throw new TypeError(`${name} must not have "${stranger}"${stranger === 'headers' ? ': give them in the option `headers`' : ''}`);
  },
  timeout: (value, name) => {
    if (!isObject(value)) throw new TypeError(`${name} must be an object, such as { call: 30_000 }`);
    known(value as object, ['connect', 'call', 'total'], name);
    for (const [each, time] of Object.entries(value as object)) duration(time, `${name}.${each}`, LONGEST_TIMER);
    const { call, total } = value as TimeoutOptions;
    if (call !== undefined && total !== undefined && call > total) throw new RangeError(`${name}.call must not be above ${name}.total`);
  },
  onSessionLost: (value, name) => {
    if (value !== 'replay' && value !== 'fail') throw new TypeError(`${name} must be 'replay' or 'fail'`);
  },
  listen: aBoolean,
  on: (value, name) => {
    object(value, name);
    known(value as object, EVENT_NAMES, name);
    for (const [event, listener] of Object.entries(value as object)) aFunction(listener, `${name}.${event}`);
  },
  limits: (value, name) => {
    object(value, name);
    known(value as object, ['responseBytes'], name);
    const { responseBytes } = value as { responseBytes?: unknown };
    if (responseBytes !== undefined && !(Number.isInteger(responseBytes) && (responseBytes as number) >= 1024)) {
      throw new RangeError(`${name}.responseBytes must be a whole number of at least 1024`);
    }
  },
};

const CLIENT_CHECKS: Readonly<Record<Exclude<keyof ConnectOptions, keyof SessionOptions>, Check>> = {
  clientInfo: (value, name) => {
    if (!isObject(value) || typeof value['name'] !== 'string' || typeof value['version'] !== 'string') throw new TypeError(`${name} must have a name and a version`);
  },
  capabilities: object,
  client: object,
  retry: (value, name) => {
    if (value === false) return;
    if (!isObject(value)) throw new TypeError(`${name} must be false, or an object such as { retries: 3 }`);
    known(value as object, ['retries', 'minTimeout', 'maxTimeout', 'factor'], name);
    const { retries, minTimeout, maxTimeout, factor } = value as Record<string, unknown>;
    if (retries !== undefined && retries !== Number.POSITIVE_INFINITY && !(Number.isInteger(retries) && (retries as number) >= 0)) {
      throw new RangeError(`${name}.retries must be a whole number of 0 or more, or Infinity`);
    }
    if (minTimeout !== undefined) duration(minTimeout, `${name}.minTimeout`, LONGEST_TIMER);
    if (maxTimeout !== undefined) duration(maxTimeout, `${name}.maxTimeout`, LONGEST_TIMER);
    if (factor !== undefined && !(typeof factor === 'number' && factor >= 1 && factor <= 100)) throw new RangeError(`${name}.factor must be a number from 1 to 100`);
    if (((minTimeout as number | undefined) ?? DEFAULTS.retry.minTimeout) > ((maxTimeout as number | undefined) ?? DEFAULTS.retry.maxTimeout)) {
      throw new RangeError(`${name}.minTimeout must not be above ${name}.maxTimeout`);
    }
  },
  trustAnnotations: aBoolean,
  signal: (value, name) => {
    if (!(value instanceof AbortSignal)) throw new TypeError(`${name} must be an AbortSignal`);
  },
};

/** Throws a TypeError or RangeError that names the option which makes no sense. */
export function checkSessionOptions(options: SessionOptions): void {
  check(options, SESSION_CHECKS);
}

/** The same for the options of a client. */
export function checkConnectOptions(options: ConnectOptions): void {
  check(options, { ...SESSION_CHECKS, ...CLIENT_CHECKS });
}

/** The session's part of a client's options. */
export function sessionOptionsOf(options: ConnectOptions): SessionOptions {
  return Object.fromEntries(Object.entries(options).filter(([name]) => name in SESSION_CHECKS));
}

function check(options: object, checks: Readonly<Record<string, Check>>): void {
  if (!isObject(options)) throw new TypeError('the options must be an object');
  known(options, Object.keys(checks), 'options');
  for (const [name, value] of Object.entries(options)) {
    if (value !== undefined) checks[name]?.(value, name);
  }
}

/** A misspelt option that is silently ignored is the worst kind of default. */
function known(value: object, names: readonly string[], where: string): void {
  const stranger = Object.keys(value).find((name) => !names.includes(name));
  if (stranger !== undefined) throw new TypeError(`${where} has no "${stranger}"; it knows ${names.join(', ')}`);
}

/** A time in ms: above 0, and what a timer can hold. `Infinity` only where it is said. */
export function duration(value: unknown, name: string, longest: number): void {
  if (typeof value !== 'number' || Number.isNaN(value)) throw new TypeError(`${name} must be a number of milliseconds`);
  if (value <= 0 || value > longest) throw new RangeError(`${name} must be above 0 and at most ${longest} ms, not ${value}`);
}

function text(value: unknown, name: string): void {
  if (typeof value !== 'string' || value === '' || value.length > 1024 || /[\ud800-\udfff]/u.test(value)) {
    throw new TypeError(`${name} must be a string of 1 to 1024 well-formed characters`);
  }
}

function aFunction(value: unknown, name: string): void {
  if (typeof value !== 'function') throw new TypeError(`${name} must be a function`);
}

function aBoolean(value: unknown, name: string): void {
  if (typeof value !== 'boolean') throw new TypeError(`${name} must be true or false`);
}

function object(value: unknown, name: string): void {
  if (!isObject(value)) throw new TypeError(`${name} must be an object`);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
