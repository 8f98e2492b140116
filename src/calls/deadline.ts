import { ClosedError, DeadlineError, type FailedOutcome, firstSentence } from '../errors.ts';
import { after, sleep } from '../timers.ts';

export interface DeadlineOptions {
  /** The name of the call, for the error. */
  readonly what: string;
  /** The name of the option that sets {@link call}, for the error. */
  readonly setBy: 'timeout.call' | 'timeout.connect';
  /** The time until the deadline, in ms; {@link Deadline.progress} starts it afresh. */
  readonly call: number;
  /** The time that nothing extends, in ms. */
  readonly total: number;
  /** The caller's own signal. */
  readonly signal?: AbortSignal | undefined;
  /** Runs what gives an attempt up, and says whether the server may have it, where that can be told. */
  readonly giveUp?: (abort: () => void) => 'sent' | 'not-sent' | undefined;
}

/** The time that a call has, with all its attempts and waits. Its signal aborts when that is over or the caller gives up. */
export class Deadline {
  readonly #options: DeadlineOptions;
  readonly #abort = new AbortController();
  /** When the total is over, and when the call's own time is, on the clock of `performance.now()`. */
  readonly #endsAt: number;
  #dueAt = 0;
  #stop: () => void;
  readonly #release: () => void;
  #error: unknown;
  #pausing = false;
  #closed = false;
  /** What became of the call so far, should it end now. */
  outcome: FailedOutcome = 'not-sent';
  /** An earlier attempt was sent and may have run: no later one can make that undone. */
  mayHaveRun = false;
  /** Why the last attempt failed, for the error. */
  lastFailure: Error | undefined;

  constructor(options: DeadlineOptions) {
    this.#options = options;
    this.#endsAt = performance.now() + options.total;
    this.#stop = this.#arm();
    const { signal } = options;
    const onAbort = (): void => this.#end(signal?.reason, () => signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    this.#release = () => signal?.removeEventListener('abort', onAbort);
    if (signal?.aborted) onAbort();
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** The time that is left, in ms. */
  get left(): number {
    return Math.min(this.#dueAt, this.#endsAt) - performance.now();
  }

  /** The call makes progress: it gets its time anew, within the total. */
  progress(): void {
    this.#stop();
    this.#stop = this.#arm();
  }

  /** Throws why the call is over, if it is: a `DeadlineError`, or the reason of the caller's signal as it is. */
  throwIfOver(): void {
    if (this.#abort.signal.aborted) throw this.#error;
  }

  /** Runs an attempt under a signal of its own: the SDK leaves its listener on the signal that it is given. */
  async during<T>(attempt: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const own = new AbortController();
    const onAbort = (): void => own.abort(this.signal.reason);
    this.signal.addEventListener('abort', onAbort, { once: true });
    try {
      return await attempt(own.signal);
    } finally {
      this.signal.removeEventListener('abort', onAbort);
    }
  }

  /** Waits between two attempts. Rejects when the call is over, or its client closed. */
  async pause(delay: number): Promise<void> {
    this.#pausing = true;
    if (this.#closed) this.close();
    try {
      await sleep(delay, this.signal);
    } finally {
      this.#pausing = false;
    }
  }

  /** The client is closed: no further attempt is made. One that is under way hears of it from its connection, which knows more. */
  close(): void {
    this.#closed = true;
    if (!this.#pausing) return;
    const became = this.outcome === 'not-sent' ? 'It was not sent.' : 'It was sent and may or may not have run.';
    const message = `The client was closed while ${this.#options.what} waited to be sent again. ${became}`;
    this.#end(undefined, () => new ClosedError(message, { outcome: this.outcome, cause: this.lastFailure }));
  }

  /** Lets go of the timer and of the caller's signal. */
  dispose(): void {
    this.#stop();
    this.#release();
  }

  #arm(): () => void {
    const { call, total } = this.#options;
    this.#dueAt = performance.now() + call;
    const left = this.#endsAt - performance.now();
    return after(Math.min(call, left), () => {
      const [name, limit] = left < call && total !== call ? (['timeout.total', total] as const) : ([this.#options.setBy, call] as const);
      this.#end(new Error('Request timed out'), (cancelled) => {
        const outcome = this.#outcomeAt(cancelled);
        const { lastFailure } = this;
        const became = outcome === 'not-sent' ? 'It was not sent.' : 'It was sent and may or may not have run; the server was told that it is cancelled.';
        const last = lastFailure ? ` The last attempt failed: ${firstSentence(lastFailure)}` : '';
        return new DeadlineError(`${this.#options.what} was not answered within ${limit} ms (${name}). ${became}${last}`, { outcome, timeout: limit, cause: lastFailure });
      });
    });
  }

  /** What is known when the attempt that is under way is given up: one that was not sent adds nothing to the earlier ones. */
  #outcomeAt(cancelled: 'sent' | 'not-sent' | undefined): FailedOutcome {
    return cancelled === 'not-sent' && !this.mayHaveRun ? 'not-sent' : this.outcome;
  }

  /** Gives up what is under way, for a `reason` that the server is told; only then is it known what became of it, and what the error has to say. */
  #end(reason: unknown, explain: (cancelled: 'sent' | 'not-sent' | undefined) => unknown): void {
    if (this.#abort.signal.aborted) return;
    const abort = (): void => this.#abort.abort(reason);
    const { giveUp } = this.#options;
    const cancelled = giveUp ? giveUp(abort) : (abort(), undefined);
    this.#error = explain(cancelled);
  }
}
