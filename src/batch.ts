import type { Client } from '@modelcontextprotocol/sdk/client/index.js';
import type { Calls } from './calls/calls.ts';
import { Gate } from './calls/gate.ts';
import { onAbort } from './calls/signals.ts';
import type { CallOptions, ResilientClient } from './client.ts';
import { DeadlineError } from './errors.ts';
import { checkBatchOptions } from './checks.ts';
import { describeRequest } from './session/outcome.ts';
import type { Parcel } from './session/parcel.ts';
import type { SessionTransport } from './session/transport.ts';
import { after } from './timers.ts';

/** The SDK's verbs by the method that they send: with them come the result's type, and what the SDK does with it. */
const VERBS = {
  ping: (client, _, options) => client.ping(options),
  'completion/complete': (client, params, options) => client.complete(params, options),
  'logging/setLevel': (client, { level }: { level: Parameters<Client['setLoggingLevel']>[0] }, options) => client.setLoggingLevel(level, options),
  'prompts/get': (client, params, options) => client.getPrompt(params, options),
  'prompts/list': (client, params, options) => client.listPrompts(params, options),
  'resources/list': (client, params, options) => client.listResources(params, options),
  'resources/read': (client, params, options) => client.readResource(params, options),
  'resources/subscribe': (client, params, options) => client.subscribeResource(params, options),
  'resources/templates/list': (client, params, options) => client.listResourceTemplates(params, options),
  'resources/unsubscribe': (client, params, options) => client.unsubscribeResource(params, options),
  'tools/call': (client, params, options) => client.callTool(params, undefined, options),
  'tools/list': (client, params, options) => client.listTools(params, options),
} satisfies Record<string, (client: ResilientClient, params: never, options: CallOptions) => Promise<unknown>>;

type Verbs = typeof VERBS;
type Schema = Parameters<Client['request']>[1];

/** One request of the SDK, with the options of that call. */
type KnownRequest<M extends keyof Verbs = keyof Verbs> = M extends keyof Verbs
  ? { readonly method: M; readonly params?: Parameters<Verbs[M]>[1]; readonly options?: CallOptions }
  : never;

/** Any other request, with the schema of its result. */
interface OtherRequest {
  readonly method: string;
  readonly params?: Record<string, unknown>;
  readonly schema: Schema;
  readonly options?: CallOptions;
}

export type BatchRequest = KnownRequest | OtherRequest;

type ResultOf<R> = R extends { readonly schema: infer S }
  ? S extends { _output: infer O }
    ? O
    : unknown
  : R extends { readonly method: infer M extends keyof Verbs }
    ? Awaited<ReturnType<Verbs[M]>>
    : unknown;

/** One settled result for each request, at its place. */
export type SettledResults<T extends readonly BatchRequest[]> = { -readonly [I in keyof T]: PromiseSettledResult<ResultOf<T[I]>> };

export interface BatchOptions {
  /** How many of its requests are in flight at a time, beside the client's own limit. Default: the client's `concurrency`. */
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

/** A place in an array, taken by the first attempt of a call. An array waits for all who have one. */
class Seat {
  readonly #parcel: Parcel;
  taken = false;

  constructor(parcel: Parcel) {
    this.#parcel = parcel;
  }

  take<T>(send: () => T): T {
    this.taken = true;
    return this.#parcel.gather(send);
  }

  /** The call is settled: if it never went out, nobody waits for it. */
  leave(): void {
    if (!this.taken) this.#parcel.skip();
    this.taken = true;
  }
}

export async function runBatch<T extends readonly BatchRequest[]>(client: ResilientClient, requests: T, options: BatchOptions, host: BatchHost): Promise<SettledResults<T>> {
  checkBatchOptions(options);
  checkRequests(requests);
  const { signal, wire, timeout = host.timeout.total, concurrency = host.calls.concurrency } = options;
  const endsAt = performance.now() + timeout;
  const over = new AbortController();
  const stop = after(timeout, () => over.abort(new Error('the time of the batch is over')));
  const release = signal ? onAbort(signal, () => over.abort(signal.reason)) : () => {};
  const gate = new Gate(concurrency);
  const run = (request: BatchRequest, seat: Seat | undefined): Promise<unknown> => single(client, request, { endsAt, timeout, seat }, signal, host);
  const waited = (error: unknown, { method, params }: BatchRequest): unknown => {
    if (error !== over.signal.reason || signal?.aborted) return error;
    const what = describeRequest({ method, params: params as Record<string, unknown> });
    return new DeadlineError(`${what} was not answered within the ${timeout} ms of its batch.`, { advice: 'It was not sent: it waited for its turn.', outcome: 'not-sent', timeout });
  };
  /** Everything that goes in one request has one turn. */
  const inTurn = async (these: readonly number[], task: () => Promise<readonly PromiseSettledResult<unknown>[]>): Promise<void> => {
    try {
      if (!gate.tryEnter()) await gate.enter(over.signal, Number.POSITIVE_INFINITY, 'the batch');
    } catch (error) {
      for (const i of these) results[i] = { status: 'rejected', reason: waited(error, requests[i] as BatchRequest) };
      return;
    }
    try {
      const settled = await task();
      these.forEach((i, n) => (results[i] = settled[n] as PromiseSettledResult<unknown>));
    } finally {
      gate.leave();
    }
  };
  const results: PromiseSettledResult<unknown>[] = Array.from({ length: requests.length });
  const inArrays = wire === 'array' || (wire === undefined && host.session.takesArrays);
  try {
    const all = [...requests.keys()];
    // A durable call may wait for another process: nobody else is to wait with it.
    const together = inArrays ? all.filter((i) => requests[i]?.options?.callId === undefined) : [];
    const alone = inArrays ? all.filter((i) => requests[i]?.options?.callId !== undefined) : all;
    await Promise.all([
      ...chunks(together, MOST_IN_ARRAY).map((these) => inTurn(these, () => asArray(these.map((i) => requests[i] as BatchRequest)))),
      ...alone.map((i) => inTurn([i], () => Promise.allSettled([run(requests[i] as BatchRequest, undefined)]))),
    ]);
  } finally {
    stop();
    release();
  }
  return results as SettledResults<T>;

  async function asArray(these: readonly BatchRequest[]): Promise<readonly PromiseSettledResult<unknown>[]> {
    let leave: () => void;
    try {
      leave = await host.calls.turn(over.signal, endsAt - performance.now(), 'the array of a batch');
    } catch (error) {
      return these.map((request) => ({ status: 'rejected', reason: waited(error, request) }));
    }
    const parcel = host.session.parcel(these.length, wire === 'array');
    try {
      return await Promise.allSettled(
        these.map(async (request) => {
          const seat = new Seat(parcel);
          try {
            return await run(request, seat);
          } finally {
            seat.leave();
          }
        }),
      );
    } finally {
      leave();
    }
  }
}

/** One request of a batch, under the batch's signal and its own. */
async function single(client: ResilientClient, request: BatchRequest, context: BatchContext, batchSignal: AbortSignal | undefined, host: BatchHost): Promise<unknown> {
  const { signal: ownSignal } = request.options ?? {};
  const { signal, release } = either(batchSignal, ownSignal);
  const options: CallOptions = { ...request.options, ...(signal ? { signal } : {}) };
  host.enrol(options, context);
  try {
    if ('schema' in request) return await client.request({ method: request.method, ...(request.params ? { params: request.params } : {}) }, request.schema, options);
    const verb = VERBS[request.method] as (client: ResilientClient, params: unknown, options: CallOptions) => Promise<unknown>;
    return await verb(client, request.params, options);
  } finally {
    release();
  }
}

/** Aborts with the first of two signals. `AbortSignal.any` would hold on to a long-lived one. */
function either(a: AbortSignal | undefined, b: AbortSignal | undefined): { signal: AbortSignal | undefined; release: () => void } {
  if (!a || !b) return { signal: a ?? b, release: () => {} };
  const both = new AbortController();
  const releases = [a, b].map((signal) => onAbort(signal, () => both.abort(signal.reason)));
  return { signal: both.signal, release: () => releases.forEach((release) => release()) };
}

function checkRequests(requests: readonly BatchRequest[]): void {
  if (!Array.isArray(requests)) throw new TypeError('batch() takes an array of requests, such as [{ method: \'tools/call\', params: { name: \'echo\' } }]');
  for (const [i, request] of (requests as readonly Partial<OtherRequest>[]).entries()) {
    const { method, schema } = request ?? {};
    if (typeof method !== 'string') throw new TypeError(`request ${i} of the batch has no method`);
    if (method === 'initialize') throw new TypeError('initialize must not be part of a batch: connect() sends it');
    if (!schema && !Object.hasOwn(VERBS, method)) throw new TypeError(`request ${i} of the batch, ${method}, is none of the SDK's: give the \`schema\` of its result`);
  }
}

function chunks<T>(items: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, i) => items.slice(i * size, (i + 1) * size));
}
