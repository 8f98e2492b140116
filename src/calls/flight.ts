import { ClosedError, type FailedOutcome, RepriseError } from '../errors.ts';
import { Abort, type Signal } from '../signals.ts';
import type { Outcome } from './verdict.ts';

const DID_NOT_RUN: ReadonlySet<Outcome> = new Set(['not-sent', 'never', 'busy', 'lost', 'refused']);

/** One of those who wait for a flight. */
export interface Waiter {
  /** The time that it has left, in ms. */
  readonly left: number;
  /** Hears of the progress that the server reports. */
  progress(progress: unknown): void;
}

/** `'tell'`: the server hears that the call is cancelled. `'detach'`: it goes on there, and somebody may take up its answer. */
export type Leaving = 'tell' | 'detach';

/** Ends an attempt by `abort`, and says whether the server may have it, where that can be told. */
export type GiveUp = (abort: () => void, how: Leaving) => 'sent' | 'not-sent' | undefined;

/**
 * One request on its way, with all its attempts: what became of it so far, who waits for it, and what it is waiting for itself. It
 * ends when its last waiter leaves.
 */
export class Flight {
  /** The name of the call, for errors. */
  readonly what: string;
  /** What became of it, should it end now. */
  outcome: FailedOutcome = 'not-sent';
  /** An attempt was sent and may have run: no later one can make that undone. */
  mayHaveRun = false;
  /** Why the last attempt failed. */
  lastFailure: Error | undefined;
  attempts = 0;
  /** It was given up after it had been sent, and the server was told so. */
  cancelled = false;
  /** What it does while no attempt is under way, for errors: "waited for its turn". */
  waiting: string | undefined;
  readonly #giveUp: GiveUp;
  readonly #waiters = new Set<Waiter>();
  readonly #abort = new Abort();
  #attempt: AbortController | undefined;
  #closed = false;

  constructor(what: string, giveUp: GiveUp = (abort) => (abort(), undefined)) {
    this.what = what;
    this.#giveUp = giveUp;
  }

  /** Nobody waits for it any more. */
  get ended(): boolean {
    return this.#abort.aborted;
  }

  /** Aborts when it has ended. */
  get signal(): Signal {
    return this.#abort;
  }

  /** The time that it has left, in ms: that of its most patient waiter. */
  get left(): number {
    let left = Number.NEGATIVE_INFINITY;
    for (const waiter of this.#waiters) left = Math.max(left, waiter.left);
    return left;
  }

  /** Whether somebody waits for it. */
  get wanted(): boolean {
    return this.#waiters.size > 0;
  }

  join(waiter: Waiter): void {
    this.#waiters.add(waiter);
  }

  /**
   * A waiter leaves. The last one ends the flight, for a `reason` that the server is told.
   *
   * @returns what became of the flight, as far as can be known by then
   */
  leave(waiter: Waiter, reason: unknown, how: Leaving = 'tell'): FailedOutcome {
    this.#waiters.delete(waiter);
    if (this.wanted || this.ended) return this.outcome;
    const cancelled = this.#giveUp(() => this.#finish(reason), how);
    // An attempt that was not sent adds nothing to the earlier ones.
    if (cancelled === 'not-sent' && !this.mayHaveRun) this.outcome = 'not-sent';
    this.cancelled = how === 'tell' && this.outcome === 'unknown';
    return this.outcome;
  }

  /** It has landed: a waiter gets what came of it, unless it has left before. */
  leaves(waiter: Waiter): boolean {
    return this.#waiters.delete(waiter);
  }

  progress(progress: unknown): void {
    let failure: { readonly error: unknown } | undefined;
    for (const waiter of [...this.#waiters]) {
      // What another one did on hearing it may have made this one leave.
      if (!this.#waiters.has(waiter)) continue;
      try {
        waiter.progress(progress);
      } catch (error) {
        failure ??= { error };
      }
    }
    // For whoever delivered it: the others have heard it all the same (G11).
    if (failure) throw failure.error;
  }

  /** Makes an attempt, under a signal of its own: the SDK leaves its listener on the signal that it is given. */
  async attempt<T>(run: (signal: AbortSignal) => Promise<T>): Promise<T> {
    this.#abort.throwIfAborted();
    const attempt = new AbortController();
    this.#attempt = attempt;
    this.attempts++;
    this.outcome = 'unknown';
    try {
      return await run(attempt.signal);
    } finally {
      this.#attempt = undefined;
    }
  }

  /** An attempt failed. */
  note(outcome: Outcome, error: Error): void {
    this.mayHaveRun ||= outcome === 'unknown';
    // By what error an attempt ends that was given up says nothing of what became of it.
    if (this.ended && !this.mayHaveRun) return;
    if (this.mayHaveRun) this.outcome = 'unknown';
    else if (DID_NOT_RUN.has(outcome)) this.outcome = 'not-sent';
    else if (error instanceof RepriseError) this.outcome = error.outcome ?? this.outcome;
    this.lastFailure = error;
  }

  /** What was thought to be sent did not run. */
  restart(): void {
    this.mayHaveRun = false;
    this.outcome = 'not-sent';
  }

  /** Waits, where it is neither sent nor about to be. Rejects when nobody wants it any more, or its client is closed. */
  async wait(forWhat: string, task: (signal: Signal) => Promise<void>): Promise<void> {
    this.waiting = forWhat;
    if (this.#closed) this.close();
    try {
      this.signal.throwIfAborted();
      await task(this.signal);
    } finally {
      this.waiting = undefined;
    }
  }

  /** The client is closed: no further attempt is made. One that is under way hears of it from its connection, which knows more. */
  close(): void {
    this.#closed = true;
    if (this.waiting === undefined) return;
    const advice = this.outcome === 'not-sent' ? 'It was not sent.' : 'It was sent and may or may not have run.';
    this.#finish(new ClosedError(`The client was closed while ${this.what} ${this.waiting}.`, { advice, outcome: this.outcome, cause: this.lastFailure }));
  }

  #finish(reason: unknown): void {
    if (this.ended) return;
    this.#abort.abort(reason);
    this.#attempt?.abort(reason);
  }
}
