import { ClosedError, DeadlineError, type FailedOutcome, reasonOf, RepriseError } from '../errors.ts';
import type { RateLimit, RetryBudget } from '../options.ts';
import { Abort, onAbort } from '../signals.ts';
import { Alarms, type Backoff, sleep } from '../timers.ts';
import type { Concurrency } from './adaptive-limit.ts';
import { Budget } from './buckets.ts';
import { copyOf } from './copy.ts';
import { Deadline, type DeadlineOptions, type Over } from './deadline.ts';
import { type Answer, type DurableCall, type DurableCalls, EARLIER } from './durable.ts';
import { Flight, type Leaving, type Waiter } from './flight.ts';
import { Gate } from './gate.ts';
import { type CallRecord, History } from './history.ts';
import { CallMetrics, type MetricsSnapshot } from './metrics.ts';
import { Reachability } from './reachability.ts';
import { type Retry, retrying } from './retry.ts';
import { isOfflineError, outcomeOf } from './verdict.ts';

/** What one attempt is made with. */
export interface Attempt {
  readonly signal: AbortSignal;
  readonly onprogress?: ((progress: unknown) => void) | undefined;
  /** The token of a stream that is to be taken up, instead of sending the request. */
  readonly resumptionToken?: string | undefined;
  readonly onresumptiontoken?: ((token: string) => void) | undefined;
}

/** A call, as its caller wants it. */
export interface CallSpec extends DeadlineOptions {
  readonly method: string;
  /** What it is about, for the history: the name of the tool. */
  readonly name: string | undefined;
  readonly params: unknown;
  /** Its name in errors. */
  readonly what: string;
  readonly onprogress: ((progress: unknown) => void) | undefined;
  /** Whether progress starts its time afresh. */
  readonly extends: boolean;
  readonly safe: boolean;
  readonly retry: Retry;
  /** Calls with the same key are one request. */
  readonly shareKey: string | undefined;
  /** Whether it is a call of the user's, which counts. */
  readonly counts: boolean;
  /** Whether the next attempt waits for its turn: not where others wait for it, or it has one already. */
  turn(): boolean;
  /** The time of the batch that it belongs to, in ms, where that sets the total. */
  readonly batchTimeout?: number;
  /** The whole time of the connect that a handshake belongs to, in ms: what it has itself is what was left of that. */
  readonly connectTimeout?: number | undefined;
  readonly durable: { readonly calls: DurableCalls; readonly call: DurableCall; revive(answer: Answer): unknown } | undefined;
  send(attempt: Attempt): Promise<unknown>;
}

export interface CallsOptions {
  readonly concurrency: Concurrency;
  readonly rateLimit: RateLimit | undefined;
  readonly budget: Required<RetryBudget>;
  /** After so many attempts in a row that found nobody, calls fail at once. `Infinity`: never. */
  readonly circuitFailures: number;
  readonly pingBackoff: Omit<Backoff, 'floor'>;
  readonly history: { readonly size: number; readonly payloads: boolean };
}

/** What the calls need of the session below. */
export interface CallsHost {
  /** Runs what gives an attempt up, and says whether the server may have it, where that can be told. */
  cancelling(abort: () => void, how: Leaving): 'sent' | 'not-sent' | undefined;
  ping(): Promise<unknown>;
  onRetry(info: { call: number; method: string; attempt: number; delay: number; reason: string }): void;
  onCircuit(open: boolean, reason: string): void;
  onSettled(record: CallRecord): void;
}

interface Shared {
  readonly flight: Flight;
  readonly result: Promise<unknown>;
  /** Only while nothing has changed at the server: what comes later must not get an answer from before. */
  readonly passing: boolean;
}

/** The calls of a client: each is shared with those that ask the same, waits for its turn, and is sent again where it may be. */
export class Calls {
  readonly #options: CallsOptions;
  readonly #host: CallsHost;
  readonly #gate: Gate;
  readonly #budget: Budget;
  readonly #reachability: Reachability;
  readonly #history: History;
  readonly #metrics = new CallMetrics();
  readonly #alarms = new Alarms();
  readonly #flights = new Map<Flight, Promise<unknown>>();
  /** What is still written of calls that have ended. */
  readonly #writing = new Set<Promise<void>>();
  readonly #shared = new Map<string, Shared>();
  /** Those who wait for a turn for several calls. */
  readonly #waiting = new Set<Abort>();
  #count = 0;
  #pending = 0;

  constructor(options: CallsOptions, host: CallsHost) {
    this.#options = options;
    this.#host = host;
    this.#gate = new Gate(options.concurrency, options.rateLimit);
    this.#budget = new Budget(options.budget);
    this.#reachability = new Reachability({ failures: options.circuitFailures, backoff: options.pingBackoff }, host);
    this.#history = new History(options.history.size);
  }

  /** The most calls that are ever in flight at a time. */
  get concurrency(): number {
    const { concurrency } = this.#options;
    return typeof concurrency === 'number' ? concurrency : concurrency.most;
  }

  history(): readonly CallRecord[] {
    return this.#history.list();
  }

  metrics(): Pick<MetricsSnapshot, 'calls' | 'latency' | 'inFlight' | 'queueLength' | 'circuit'> {
    return {
      ...this.#metrics.snapshot(this.#pending),
      inFlight: this.#gate.inside,
      queueLength: this.#gate.waiting,
      circuit: this.#reachability.circuitOpen ? 'open' : 'closed',
    };
  }

  /** Whoever has a turn for several calls at once waits for it here. Returns what gives it back. */
  async turn(signal: AbortSignal, left: number, what: string): Promise<() => void> {
    if (!this.#gate.tryEnter()) {
      const waiting = new Abort();
      const release = onAbort(signal, () => waiting.abort(signal.reason));
      this.#waiting.add(waiting);
      try {
        await this.#gate.enter(waiting, left, what);
      } finally {
        this.#waiting.delete(waiting);
        release();
      }
    }
    return () => this.#gate.leave();
  }

  /** Makes a call. Settles with its answer, or with an error that says what became of it, when its time is over at the latest. */
  run(spec: CallSpec): Promise<unknown> {
    const call = ++this.#count;
    const { signal } = spec;
    if (signal?.aborted) return Promise.reject(signal.reason);
    const { flight, result, shared } = this.#take(spec, call);
    if (spec.counts && !shared) this.#budget.deposit();
    const startedAt = Date.now();
    const start = performance.now();
    if (spec.counts) this.#pending++;
    return new Promise((resolve, reject) => {
      const settle = (outcome: CallRecord['outcome'], more: Pick<CallRecord, 'isError' | 'code' | 'error' | 'result'>): void => {
        if (!spec.counts) return;
        this.#pending--;
        // A tool that may be called again may change something all the same.
        if ((!spec.safe || spec.method === 'tools/call') && (outcome === 'answered' || outcome === 'unknown')) this.changed();
        const { method, name, params } = spec;
        const { payloads } = this.#options.history;
        this.#note({
          call,
          method,
          ...(name === undefined ? {} : { name }),
          startedAt,
          duration: performance.now() - start,
          attempts: shared ? 0 : flight.attempts,
          outcome,
          ...(shared ? { shared } : {}),
          ...(more.isError ? { isError: true } : {}),
          ...(more.code === undefined ? {} : { code: more.code }),
          ...(more.error === undefined ? {} : { error: more.error }),
          ...(payloads ? { params: kept(params), ...(more.result === undefined ? {} : { result: kept(more.result) }) } : {}),
        });
      };
      const fail = (error: unknown, outcome: CallRecord['outcome']): void => {
        const { code } = (error ?? {}) as { code?: unknown };
        reject(error);
        settle(outcome, { error: textOf(error), ...(typeof code === 'string' || typeof code === 'number' ? { code } : {}) });
      };
      const deadline = new Deadline(spec, (over) => {
        if (over.by === 'signal') {
          const error = textOf(over.reason);
          const outcome = flight.leave(waiter, new Error(error));
          reject(over.reason);
          settle(outcome, { error });
          return;
        }
        const { waiting } = flight;
        // What is durable goes on without its caller.
        const outcome = flight.leave(waiter, new Error('Request timed out'), spec.durable ? 'detach' : 'tell');
        fail(late(spec, flight, over, outcome, waiting), outcome);
      }, this.#alarms.after);
      const waiter: Waiter = {
        get left() {
          return deadline.left;
        },
        progress: (progress) => {
          if (spec.extends) deadline.progress();
          spec.onprogress?.(progress);
        },
      };
      flight.join(waiter);
      result.then(
        (value) => {
          if (!flight.leaves(waiter)) return;
          deadline.dispose();
          resolve(shared ? copyOf(value) : value);
          settle('answered', { isError: (value as { isError?: unknown } | undefined)?.isError === true, result: value });
        },
        (error: unknown) => {
          if (!flight.leaves(waiter)) return;
          deadline.dispose();
          fail(error, failedOutcome(error, flight));
        },
      );
    });
  }

  /** A call that needed no request. */
  noteCached(method: string): void {
    this.#note({ call: ++this.#count, method, startedAt: Date.now(), duration: 0, attempts: 0, outcome: 'answered' });
  }

  /** Something may have changed at the server: an answer that is on its way may be from before, and is not for who asks from now on. */
  changed(): void {
    for (const [key, { passing }] of this.#shared) if (passing) this.#shared.delete(key);
  }

  /** The client connects (again). */
  open(): void {
    this.#reachability.open();
  }

  /** The client is closed: whoever waits fails, and nobody is asked any more. */
  close(): void {
    this.#reachability.close();
    const closed = new ClosedError('The client was closed while it waited for its turn.', { advice: 'It was not sent.', outcome: 'not-sent' });
    for (const waiting of this.#waiting) waiting.abort(closed);
    for (const flight of this.#flights.keys()) flight.close();
  }

  /** Resolves when nothing is under way any more: after {@link close}, and once the session below is closed. */
  async idle(): Promise<void> {
    await Promise.allSettled(this.#flights.values());
    await Promise.all(this.#writing);
  }

  /** The flight that a call goes with: another's for the same, or one of its own. */
  #take(spec: CallSpec, call: number): Shared & { readonly shared: boolean } {
    const { shareKey } = spec;
    const there = shareKey === undefined ? undefined : this.#shared.get(shareKey);
    if (there?.flight.wanted) return { ...there, shared: true };
    const flight = new Flight(spec.what, (abort, how) => this.#host.cancelling(abort, how));
    // A turn later: whoever wants it has joined by then.
    const result = Promise.resolve().then(() => this.#fly(spec, flight, call));
    const own = { flight, result, passing: spec.durable === undefined };
    this.#flights.set(flight, result);
    if (shareKey !== undefined) this.#shared.set(shareKey, own);
    const land = (): void => {
      this.#flights.delete(flight);
      if (shareKey !== undefined && this.#shared.get(shareKey) === own) this.#shared.delete(shareKey);
    };
    result.then(land, land);
    return { ...own, shared: false };
  }

  async #fly(spec: CallSpec, flight: Flight, call: number): Promise<unknown> {
    const { durable } = spec;
    if (!durable) return this.#tries(spec, flight, call, {});
    const answer = await durable.calls.run(durable.call, flight, {
      send: (onresumptiontoken) => this.#tries(spec, flight, call, { onresumptiontoken }),
      join: (resumptionToken, onresumptiontoken) => this.#tries({ ...spec, safe: false }, flight, call, { onresumptiontoken, resumptionToken }),
      behind: (task) => {
        this.#writing.add(task);
        void task.then(() => this.#writing.delete(task));
      },
    });
    return durable.revive(answer);
  }

  #tries(spec: CallSpec, flight: Flight, call: number, tokens: Pick<Attempt, 'resumptionToken' | 'onresumptiontoken'>): Promise<unknown> {
    const { safe, retry, method, onprogress } = spec;
    const attempt = async (): Promise<unknown> => {
      if (spec.counts) this.#reachability.check(spec.what);
      const turn = spec.turn();
      const waited = `waited for its turn (${this.#gate.inside} in flight)`;
      if (turn && !this.#gate.tryEnter()) await flight.wait(waited, (signal) => this.#gate.enter(signal, flight.left, spec.what));
      let latency: number | undefined;
      try {
        // Of many whose time ends together one makes room for the next: what comes too late is not sent only to be cancelled.
        if (flight.left <= 0) await flight.wait(waited, (signal) => sleep(0, signal));
        const sentAt = performance.now();
        const result = await flight.attempt((signal) => spec.send({ signal, ...tokens, ...(onprogress ? { onprogress: (progress: unknown) => flight.progress(progress) } : {}) }));
        latency = performance.now() - sentAt;
        this.#reachability.up();
        return result;
      } catch (error) {
        if (spec.counts) this.#heard(error, flight);
        throw error;
      } finally {
        if (turn) this.#gate.leave(latency);
      }
    };
    return retrying(attempt, {
      flight,
      safe,
      retry,
      // A handshake is for all calls, and nothing can be asked before it.
      budget: spec.counts ? this.#budget : UNLIMITED,
      reachability: this.#reachability,
      onRetry: (info) => this.#host.onRetry({ call, method, ...info }),
    });
  }

  /** Only who cannot be reached counts as away: an error of the server is a sign of life. */
  #heard(error: unknown, flight: Flight): void {
    if (flight.ended) return;
    const outcome = outcomeOf(error);
    if (outcome === 'not-sent') {
      if (!isOfflineError(error)) this.#reachability.down(error as Error);
    } else if (outcome === 'answered' || outcome === 'busy' || outcome === 'refused' || outcome === 'lost') this.#reachability.up();
  }

  #note(record: CallRecord): void {
    this.#history.add(record);
    this.#metrics.add(record);
    this.#host.onSettled(record);
  }
}

const UNLIMITED = new Budget({ tokens: Number.POSITIVE_INFINITY, ratio: 0 });

/** A copy for the history, where one can be made: the arguments may be anything, a ring among others. */
function kept(value: unknown): unknown {
  try {
    return copyOf(value);
  } catch {
    return undefined;
  }
}

/** What an error says. A caller may give up for any reason at all, one that cannot be made a text among them. */
function textOf(error: unknown): string {
  if (error instanceof Error) return error.message;
  return typeof error === 'string' ? error : 'it was given up';
}

function failedOutcome(error: unknown, { attempts }: Flight): CallRecord['outcome'] {
  if (error instanceof RepriseError) return error.outcome ?? 'not-sent';
  // Bad input, found before anything was sent.
  if (attempts === 0 && (error instanceof TypeError || error instanceof RangeError)) return 'not-sent';
  const outcome = outcomeOf(error);
  // What the user's own code throws (headers, authorization) comes before anything ran.
  return outcome === 'refused' || outcome === 'answered' ? outcome : 'not-sent';
}

function late(spec: CallSpec, flight: Flight, over: Exclude<Over, { by: 'signal' }>, outcome: FailedOutcome, waiting: string | undefined): DeadlineError {
  const { lastFailure } = flight;
  const setBy = over.by === 'total' ? 'timeout.total' : spec.method === 'initialize' ? 'timeout.connect' : 'timeout.call';
  const ofBatch = over.by === 'total' ? spec.batchTimeout : undefined;
  const timeout = ofBatch ?? (over.by === 'call' ? spec.connectTimeout : undefined) ?? over.limit;
  const within = ofBatch === undefined ? `${timeout} ms (${setBy})` : `the ${timeout} ms of its batch`;
  const last = lastFailure ? ` The last attempt failed: ${reasonOf(lastFailure)}` : '';
  return new DeadlineError(`${spec.what} was not answered within ${within}.`, { advice: became() + last, outcome, timeout, cause: lastFailure });

  function became(): string {
    // What became of a handshake is nobody's concern: it was no call.
    if (spec.method === 'initialize') return 'No call was sent.';
    if (outcome === 'not-sent') return `It was not sent${waiting === undefined ? '.' : `: it ${waiting}.`}${spec.durable ? ` ${EARLIER}` : ''}`;
    if (spec.durable) return 'It was sent and may still be running: call it again with the same `callId` to get its answer.';
    if (flight.wanted) return 'It was sent, and another caller who asked for the same still waits for it.';
    return `It was sent and may or may not have run${waiting === undefined ? '; the server is told that it is cancelled' : ''}.`;
  }
}
