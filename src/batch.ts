import type { Calls } from './calls/calls.ts';
import { Gate } from './calls/gate.ts';
import { onAbort } from './signals.ts';
import { type BatchRequest, checkRequests, send, type SettledResults } from './batch-requests.ts';
import { checkBatchOptions } from './checks.ts';
import type { CallOptions, ResilientClient } from './client.ts';
import { DeadlineError } from './errors.ts';
import { describeRequest } from './session/outcome.ts';
import type { Parcel } from './session/parcel.ts';
import type { SessionTransport } from './session/transport.ts';
import { after } from './timers.ts';

export type { BatchRequest, SettledResults } from './batch-requests.ts';

export interface BatchOptions {
  /**
   * How many of its requests are in flight at a time; the others wait, which counts against the time of the batch but not their own.
   * Default: as many as the client's `concurrency` lets out, for which an array is one call.
   */
  readonly concurrency?: number;
  /** How long all of it may take, in ms: what is not answered by then fails with `DeadlineError`. Default: the client's `timeout.total`. */
  readonly timeout?: number;
  /** Gives up what is not answered. */
  readonly signal?: AbortSignal;
  /**
   * `'array'`: as JSON arrays, for a server of which you know that it takes them (the spec has them in 2025-03-26 only). `'single'`:
   * side by side, always. Default: as the version of the session says.
   */
  readonly wire?: 'array' | 'single';
}

/** What the calls of a batch have in common. */
export interface BatchContext {
  /** When its time is over, on the clock of `performance.now()`, and how long that was, in ms. */
  readonly endsAt: number;
  readonly timeout: number;
  /** The place of this call in an array, where there is one. */
  readonly seat: Seat | undefined;
}

export interface BatchHost {
  readonly calls: Calls;
  readonly session: SessionTransport;
  readonly timeout: { readonly call: number; readonly total: number };
  /** Makes known what the call with these options belongs to. */
  enrol(options: CallOptions, context: BatchContext): void;
}

/** The SDK's servers take as many. */
const MOST_IN_ARRAY = 100;

/** Makes the requests. What is wrong with one of them, its options too, is that one's own failure. */
export async function runBatch<T extends readonly BatchRequest[]>(client: ResilientClient, requests: T, options: BatchOptions, host: BatchHost): Promise<SettledResults<T>> {
  checkBatchOptions(options);
  checkRequests(requests);
  const { signal, wire, concurrency, timeout = Math.max(host.timeout.call, host.timeout.total) } = options;
  const inArrays = wire !== 'single' && host.session.takesArrays(wire === 'array');
  const together = inArrays ? Math.min(MOST_IN_ARRAY, concurrency ?? MOST_IN_ARRAY) : 1;
  const gate = new Gate(concurrency === undefined ? host.calls.concurrency : Math.floor(concurrency / together));
  const endsAt = performance.now() + timeout;
  // Ends the waiting for a turn. What has had its turn ends by itself: it has the same deadline, and the same signal.
  const over = new AbortController();
  const late = new Error('the time of the batch is over');
  const stop = after(timeout, () => over.abort(late));
  const release = signal ? onAbort(signal, () => over.abort(signal.reason)) : () => {};
  try {
    const turns = turnsOf(requests, together);
    return (await Promise.allSettled(requests.map((request, i) => make(request, turns[i] as Turn)))) as SettledResults<T>;
  } finally {
    stop();
    release();
  }

  async function make(request: BatchRequest, turn: Turn): Promise<unknown> {
    turn.begun ??= begin(turn.size);
    const begun = await turn.begun.catch((error: unknown) => {
      throw error === late ? waitedTooLong(request, timeout) : error;
    });
    const seat = begun.seat?.();
    try {
      return await call(request, seat);
    } finally {
      seat?.leave();
      begun.leave();
    }
  }

  async function begin(size: number): Promise<Begun> {
    if (!gate.tryEnter()) await gate.enter(over.signal, Number.POSITIVE_INFINITY, 'the batch');
    const leave = atLast(size, () => gate.leave());
    // Its attempts take their turn at the client's limit by themselves.
    if (size === 1) return { leave };
    try {
      const free = atLast(size, await host.calls.turn(over.signal, endsAt - performance.now(), `An array of ${size} requests`));
      const parcel = host.session.parcel(size, wire === 'array');
      return { leave, seat: () => new Seat(parcel, free) };
    } catch (error) {
      gate.leave();
      throw error;
    }
  }

  async function call(request: BatchRequest, seat: Seat | undefined): Promise<unknown> {
    const both = either(request.options?.signal, signal);
    const callOptions: CallOptions = { ...request.options, ...(both.signal ? { signal: both.signal } : {}) };
    host.enrol(callOptions, { endsAt, timeout, seat });
    try {
      return await send(client, request, callOptions);
    } finally {
      both.release();
    }
  }
}

/** What goes out together has its turn together: the requests of an array, or a single one. */
interface Turn {
  size: number;
  begun?: Promise<Begun>;
}

interface Begun {
  /** A place in the array, where it is one. */
  seat?(): Seat;
  /** A call is settled. */
  leave(): void;
}

/** The turn of each request. */
function turnsOf(requests: readonly BatchRequest[], together: number): Turn[] {
  let open: Turn = { size: together };
  return requests.map(({ options }) => {
    // A durable call may wait for another process: nobody else is to wait with it.
    if (options?.callId !== undefined) return { size: 1 };
    if (open.size === together) open = { size: 0 };
    open.size++;
    return open;
  });
}

/** A place in an array, for the first attempt of a call. The array waits for all who have one, and has its turn until all of these are over. */
class Seat {
  readonly #parcel: Parcel;
  readonly #free: () => void;
  taken = false;

  constructor(parcel: Parcel, free: () => void) {
    this.#parcel = parcel;
    this.#free = free;
  }

  async take<T>(attempt: () => Promise<T>): Promise<T> {
    this.taken = true;
    try {
      return await this.#parcel.gather(attempt);
    } finally {
      this.#free();
    }
  }

  /** The call is settled: if it never went out, nobody waits for it. */
  leave(): void {
    if (this.taken) return;
    this.taken = true;
    this.#parcel.skip();
    this.#free();
  }
}

function waitedTooLong({ method, params }: BatchRequest, timeout: number): DeadlineError {
  const what = describeRequest({ method, params: params as Record<string, unknown> });
  return new DeadlineError(`${what} was not answered within the ${timeout} ms of its batch.`, { advice: 'It was not sent: it waited for its turn.', outcome: 'not-sent', timeout });
}

/** Calls `task` the last of `times` times that it is called itself. */
function atLast(times: number, task: () => void): () => void {
  let left = times;
  return () => {
    left--;
    if (left === 0) task();
  };
}

/** Aborts with the first of two signals. `AbortSignal.any` would hold on to a long-lived one. */
function either(own: AbortSignal | undefined, shared: AbortSignal | undefined): { readonly signal: AbortSignal | undefined; release(): void } {
  if (!own || !shared) return { signal: own ?? shared, release: () => {} };
  const both = new AbortController();
  const releases = [own, shared].map((signal) => onAbort(signal, () => both.abort(signal.reason)));
  return { signal: both.signal, release: () => releases.forEach((release) => release()) };
}
