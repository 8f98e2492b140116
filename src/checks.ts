import { checkHeader } from './links/headers.ts';
import { type CallSettings, type ConnectOptions, DEFAULTS, type HistoryOptions, type RateLimit, type RetryBudget, type SessionOptions, type TimeoutOptions } from './options.ts';
import type { LeaseOptions, PoolOptions } from './registry/pool.ts';
import { EVENT_NAMES } from './session/events.ts';
import { LONGEST_TIMER } from './timers.ts';

type Check = (value: unknown, name: string) => void;

const SESSION_CHECKS: Readonly<Record<keyof SessionOptions, Check>> = {
  store: (value, name) => {
    const methods = ['get', 'set', 'delete', 'keys', 'lock', 'close'] as const;
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
  validate: (value, name) => {
    if (value !== 'ping' && value !== 'first-call') throw new TypeError(`${name} must be 'ping' or 'first-call'`);
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
  retry: checkRetry,
  concurrency: (value, name) => count(value, name, 1),
  rateLimit: (value, name) => {
    object(value, name);
    known(value as object, ['perSecond', 'burst'], name);
    const { perSecond, burst } = value as Partial<RateLimit>;
    number(perSecond, `${name}.perSecond`, Number.MIN_VALUE, 1e9);
    number(burst, `${name}.burst`, 1, 1e9);
  },
  circuitBreaker: (value, name) => {
    if (value === false) return;
    if (!isObject(value)) throw new TypeError(`${name} must be false, or an object such as { failures: 5 }`);
    known(value, ['failures'], name);
    count(value['failures'], `${name}.failures`, 1);
  },
  toolListTtl: (value, name) => {
    if (value !== false) duration(value, name, Number.POSITIVE_INFINITY);
  },
  history: (value, name) => {
    object(value, name);
    known(value as object, ['size', 'payloads'], name);
    const { size, payloads } = value as HistoryOptions;
    if (size !== undefined) count(size, `${name}.size`, 0);
    if (payloads !== undefined) aBoolean(payloads, `${name}.payloads`);
  },
  trustAnnotations: aBoolean,
  signal: aSignal,
};

const { session, principal, metadata, authProvider, headers, on } = SESSION_CHECKS;
const LEASE_CHECKS: Readonly<Record<keyof LeaseOptions, Check>> = { session, principal, metadata, authProvider, headers, on, signal: aSignal };

/** What the SDK's own options of a call are. */
const SDK_OPTIONS = ['timeout', 'maxTotalTimeout', 'resetTimeoutOnProgress', 'signal', 'onprogress', 'relatedRequestId', 'resumptionToken', 'onresumptiontoken', 'task', 'relatedTask'];

/** Throws a TypeError or RangeError that names the setting of a call which makes no sense. */
export function checkCallSettings({ safe, callId, retry, cache, ...sdk }: CallSettings & { readonly [P in 'timeout' | 'maxTotalTimeout' | 'signal' | 'onprogress']?: unknown }): void {
  // A misspelt callId would be the worst: the call would not be durable, and nobody would know.
  const stranger = Object.keys(sdk).find((name) => !SDK_OPTIONS.includes(name));
  if (stranger !== undefined) throw new TypeError(`the options of a call have no "${stranger}"; they know safe, callId, retry, cache, ${SDK_OPTIONS.join(', ')}`);
  if (sdk.timeout !== undefined) duration(sdk.timeout, 'timeout', LONGEST_TIMER);
  if (sdk.signal !== undefined) aSignal(sdk.signal, 'signal');
  if (sdk.onprogress !== undefined) aFunction(sdk.onprogress, 'onprogress');
  if (sdk.maxTotalTimeout !== undefined) duration(sdk.maxTotalTimeout, 'maxTotalTimeout', LONGEST_TIMER);
  if (safe !== undefined) aBoolean(safe, 'safe');
  if (cache !== undefined) aBoolean(cache, 'cache');
  if (callId !== undefined) text(callId, 'callId');
  if (retry === undefined) return;
  if (retry !== false && 'budget' in retry) throw new TypeError('retry.budget is for all calls of a client: give it to the client');
  checkRetry(retry, 'retry');
}

/** The same for a batch. */
export function checkBatchOptions(options: object): void {
  if (!isObject(options)) throw new TypeError('the options of a batch must be an object');
  known(options, ['concurrency', 'timeout', 'signal', 'wire'], 'the options of a batch');
  const { concurrency, timeout, signal, wire } = options;
  if (concurrency !== undefined) count(concurrency, 'concurrency', 1);
  if (timeout !== undefined) duration(timeout, 'timeout', LONGEST_TIMER);
  if (signal !== undefined) aSignal(signal, 'signal');
  if (wire !== undefined && wire !== 'array' && wire !== 'single') throw new TypeError("wire must be 'array' or 'single'");
}

/** The same for the options of a pool. */
export function checkPoolOptions(options: PoolOptions): void {
  object(options, 'the options of a pool');
  const given = Object.fromEntries(Object.entries(options).filter(([name, value]) => !(name in LEASE_CHECKS && value === undefined)));
  const personal = Object.keys(given).find((name) => name in LEASE_CHECKS);
  if (personal !== undefined) throw new TypeError(`${personal} belongs to one user or session, and a pool's options are for all: give it to lease()`);
  const shared = Object.fromEntries(Object.entries<Check>({ ...SESSION_CHECKS, ...CLIENT_CHECKS }).filter(([name]) => !(name in LEASE_CHECKS)));
  const idleTimeout: Check = (value, name) => duration(value, name, Number.POSITIVE_INFINITY);
  check(given, { ...shared, max: (value, name) => count(value, name, 1), idleTimeout });
}

/** The same for the options of a lease. */
export function checkLeaseOptions(options: LeaseOptions): void {
  check(options, LEASE_CHECKS);
}

/** The same for how a pool is closed. 0: at once. */
export function checkPoolClose(options: object): void {
  check(options, { timeout: (value, name) => number(value, name, 0, Number.POSITIVE_INFINITY) });
}

/** The same for a registry of sessions. */
export function checkSessionsOptions(store: unknown, options: object): void {
  SESSION_CHECKS.store(store, 'the store');
  check(options, { access: aFunction });
}

/** The same for which of its sessions are meant. */
export function checkSessionFilter(filter: object): void {
  const url: Check = (value, name) => {
    if (!(value instanceof URL) && !(typeof value === 'string' && URL.canParse(value))) throw new TypeError(`${name} is not a URL (http://host/path)`);
  };
  check(filter, { url, principal: text, name: text, expired: aBoolean });
  // Left out, it means everybody's: that must not come about by a user who is not known.
  const missing = Object.entries(filter).find(([, value]) => value === undefined)?.[0];
  if (missing !== undefined) throw new TypeError(`${missing} is undefined: leave it out if it does not matter`);
}

/** The same for how a registry cleans up. */
export function checkCleanupOptions(options: object, again: 'once' | 'again' = 'once'): void {
  const interval: Check = (value, name) => duration(value, name, LONGEST_TIMER);
  check(options, { end: aBoolean, unreadable: aBoolean, ...(again === 'again' ? { interval, onError: aFunction } : {}) });
}

/** The same for a TTL. */
export function checkTtl(ttl: unknown): void {
  SESSION_CHECKS.ttl(ttl, 'ttl');
}

/** How a call is sent again: of a client, or of one call. */
function checkRetry(value: unknown, name: string): void {
  if (value === false) return;
  if (!isObject(value)) throw new TypeError(`${name} must be false, or an object such as { retries: 3 }`);
  known(value, ['retries', 'minTimeout', 'maxTimeout', 'factor', 'budget'], name);
  const { retries, minTimeout, maxTimeout, factor, budget } = value;
  if (retries !== undefined && retries !== Number.POSITIVE_INFINITY) count(retries, `${name}.retries`, 0, ', or Infinity');
  if (minTimeout !== undefined) duration(minTimeout, `${name}.minTimeout`, LONGEST_TIMER);
  if (maxTimeout !== undefined) duration(maxTimeout, `${name}.maxTimeout`, LONGEST_TIMER);
  if (factor !== undefined) number(factor, `${name}.factor`, 1, 100);
  if (((minTimeout as number | undefined) ?? DEFAULTS.retry.minTimeout) > ((maxTimeout as number | undefined) ?? DEFAULTS.retry.maxTimeout)) {
    throw new RangeError(`${name}.minTimeout must not be above ${name}.maxTimeout`);
  }
  if (budget === undefined || budget === false) return;
  object(budget, `${name}.budget`);
  known(budget as object, ['tokens', 'ratio'], `${name}.budget`);
  const { tokens, ratio } = budget as RetryBudget;
  if (tokens !== undefined) number(tokens, `${name}.budget.tokens`, 0, Number.MAX_SAFE_INTEGER);
  if (ratio !== undefined) number(ratio, `${name}.budget.ratio`, 0, 1000);
}

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
  // A user who is not known must not get everybody's session.
  if ('principal' in options && options['principal'] === undefined) throw new TypeError('principal is undefined: leave it out if there is only one user');
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
function duration(value: unknown, name: string, longest: number): void {
  if (typeof value !== 'number' || Number.isNaN(value)) throw new TypeError(`${name} must be a number of milliseconds`);
  const range = longest === Number.POSITIVE_INFINITY ? 'above 0 ms, or Infinity' : `above 0 and at most ${longest} ms`;
  if (value <= 0 || value > longest) throw new RangeError(`${name} must be ${range}, not ${value}`);
}

/** A whole number. */
function count(value: unknown, name: string, least: number, or = ''): void {
  if (!Number.isSafeInteger(value) || (value as number) < least) throw new RangeError(`${name} must be a whole number of ${least} or more${or}`);
}

function number(value: unknown, name: string, least: number, most: number): void {
  if (typeof value !== 'number' || Number.isNaN(value)) throw new TypeError(`${name} must be a number`);
  if (value < least || value > most) throw new RangeError(`${name} must be ${least === Number.MIN_VALUE ? 'above 0 and' : `at least ${least} and`} at most ${most}, not ${value}`);
}

function text(value: unknown, name: string): void {
  if (typeof value !== 'string' || value === '' || value.length > 1024 || /[\ud800-\udfff]/u.test(value)) {
    throw new TypeError(`${name} must be a string of 1 to 1024 well-formed characters`);
  }
}

function aFunction(value: unknown, name: string): void {
  if (typeof value !== 'function') throw new TypeError(`${name} must be a function`);
}

function aSignal(value: unknown, name: string): void {
  if (!(value instanceof AbortSignal)) throw new TypeError(`${name} must be an AbortSignal`);
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
