import { afterEach, beforeEach, expect, vi } from 'vitest';
import { Budget } from '../../src/calls/buckets.ts';
import { Calls, type CallsHost, type CallsOptions, type CallSpec } from '../../src/calls/calls.ts';
import { Deadline } from '../../src/calls/deadline.ts';
import { Flight, type GiveUp, type Waiter } from '../../src/calls/flight.ts';
import { Reachability } from '../../src/calls/reachability.ts';
import { type RetryContext, retrying } from '../../src/calls/retry.ts';
import { UnreachableError } from '../../src/errors.ts';
import { DEFAULTS } from '../../src/options.ts';

export const BACKOFF = { min: 100, max: 2000, factor: 2, floor: 0 };
export const RETRY = { retries: Number.POSITIVE_INFINITY, minTimeout: 100, maxTimeout: 2000, factor: 2 };
const NO_LIMIT = { tokens: Number.POSITIVE_INFINITY, ratio: 0 };
export const WHAT = 'tools/call "x"';

/** Tests run on a clock that stands until it is moved, and leave no timer (G9). */
export function onFakeClock(): void {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => {
    const timers = vi.getTimerCount();
    vi.restoreAllMocks();
    vi.useRealTimers();
    expect(timers, 'timers left').toBe(0);
  });
}

/** Lets everything happen that needs no time. */
export const settle = (): Promise<unknown> => vi.advanceTimersByTimeAsync(0);

/** The whole delay is drawn, or the given part of it. */
export const draw = (part: number): void => void vi.spyOn(Math, 'random').mockReturnValue(part);

/** How a promise settled, if it has. */
export interface Watched<T> {
  value?: T;
  error?: unknown;
  /** On the fake clock. */
  at?: number;
}

export function watch<T>(promise: Promise<T>): Watched<T> {
  const watched: Watched<T> = {};
  promise.then(
    (value) => Object.assign(watched, { value, at: performance.now() }),
    (error: unknown) => Object.assign(watched, { error, at: performance.now() }),
  );
  return watched;
}

/** A server of which only this matters: whether it is there. */
export class Place {
  there = false;
  /** When it was asked, on the fake clock. */
  readonly pings: number[] = [];
  readonly circuit: string[] = [];
  /** What a ping does instead. */
  answer: (() => Promise<unknown>) | undefined;

  readonly ping = (): Promise<unknown> => {
    this.pings.push(performance.now());
    return this.answer?.() ?? (this.there ? Promise.resolve() : Promise.reject(new UnreachableError('nobody answers the ping')));
  };

  readonly onCircuit = (open: boolean, reason: string): void => void this.circuit.push(`${open ? 'open' : 'closed'}: ${reason}`);
}

interface CallSettings extends Partial<Pick<RetryContext, 'safe' | 'retry' | 'budget' | 'reachability'>> {
  readonly call?: number;
  readonly total?: number;
  readonly signal?: AbortSignal;
  readonly giveUp?: GiveUp;
}

/** One call with its deadline and its attempts. */
export function callOf<T>(run: (attempt: number, signal: AbortSignal) => Promise<T>, settings: CallSettings = {}) {
  const { safe = true, retry = RETRY, budget = new Budget(NO_LIMIT), call = 60_000, total = call, signal, giveUp } = settings;
  const reachability = settings.reachability ?? new Reachability({ failures: Number.POSITIVE_INFINITY, backoff: BACKOFF }, new Place());
  const flight = new Flight(WHAT, giveUp);
  const told: { attempt: number; delay: number; reason: string }[] = [];
  const deadline = new Deadline({ call, total, signal }, (over) => flight.leave(waiter, over.by === 'signal' ? over.reason : new Error('Request timed out')));
  const waiter: Waiter = {
    get left() {
      return deadline.left;
    },
    progress: () => deadline.progress(),
  };
  flight.join(waiter);
  const attempt = (): Promise<T> => flight.attempt((attemptSignal) => run(flight.attempts, attemptSignal));
  const settled = retrying(attempt, { flight, safe, retry, budget, reachability, onRetry: (info) => told.push(info) }).finally(() => deadline.dispose());
  return { flight, settled, result: watch(settled), told };
}

const CALL: CallSpec = {
  method: 'tools/call',
  name: 'x',
  params: {},
  what: WHAT,
  onprogress: undefined,
  extends: true,
  safe: false,
  retry: RETRY,
  shareKey: undefined,
  counts: true,
  turn: () => true,
  durable: undefined,
  call: DEFAULTS.timeout.call,
  total: DEFAULTS.timeout.total,
  send: () => new Promise(() => {}),
};

/** The calls of a client, with its defaults, over a session that is not there. */
export function callsOf(place: Place, options: Partial<CallsOptions> = {}, host: Partial<CallsHost> = {}) {
  const calls = new Calls(
    {
      concurrency: DEFAULTS.concurrency,
      rateLimit: undefined,
      budget: DEFAULTS.budget,
      circuitFailures: Number.POSITIVE_INFINITY,
      pingBackoff: BACKOFF,
      history: DEFAULTS.history,
      ...options,
    },
    { cancelling: (abort) => (abort(), undefined), ping: place.ping, onRetry: () => {}, onCircuit: place.onCircuit, onSettled: () => {}, ...host },
  );
  return { calls, run: (spec: Partial<CallSpec>): Promise<unknown> => calls.run({ ...CALL, ...spec }) };
}
