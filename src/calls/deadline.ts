import { after } from '../timers.ts';
import { onAbort } from '../signals.ts';

export interface DeadlineOptions {
  /** The time until the deadline, in ms; {@link Deadline.progress} starts it afresh. */
  readonly call: number;
  /** The time that nothing extends, in ms. */
  readonly total: number;
  /** The caller's own signal. */
  readonly signal?: AbortSignal | undefined;
}

/** Why a caller waits no longer. `limit` is in ms. */
export type Over = { readonly by: 'call' | 'total'; readonly limit: number } | { readonly by: 'signal'; readonly reason: unknown };

/** The time that one caller has for a call, with all its attempts and waits, and the caller's signal. */
export class Deadline {
  readonly #options: DeadlineOptions;
  readonly #onOver: (over: Over) => void;
  readonly #after: typeof after;
  /** When the total is over, and when the call's own time is, on the clock of `performance.now()`. */
  readonly #endsAt: number;
  #dueAt = 0;
  #over = false;
  #stop: () => void;
  readonly #release: () => void;

  /**
   * @param onOver - hears once that the time is over or the signal aborted, unless {@link dispose} comes first; never before the constructor returns
   * @param timer - sets the timer
   */
  constructor(options: DeadlineOptions, onOver: (over: Over) => void, timer = after) {
    this.#options = options;
    this.#onOver = onOver;
    this.#after = timer;
    this.#endsAt = performance.now() + options.total;
    this.#stop = this.#arm();
    const { signal } = options;
    const onSignal = (): void => this.#end({ by: 'signal', reason: signal?.reason });
    this.#release = !signal ? () => {} : signal.aborted ? after(0, onSignal) : onAbort(signal, onSignal);
  }

  /** The time that is left, in ms. */
  get left(): number {
    return Math.min(this.#dueAt, this.#endsAt) - performance.now();
  }

  /** The call makes progress: it gets its time anew, within the total, unless that is over. */
  progress(): void {
    if (this.#over) return;
    this.#stop();
    this.#stop = this.#arm();
  }

  /** Lets go of the timer and of the caller's signal. */
  dispose(): void {
    this.#over = true;
    this.#stop();
    this.#release();
  }

  #arm(): () => void {
    const { call, total } = this.#options;
    const now = performance.now();
    this.#dueAt = now + call;
    const left = this.#endsAt - now;
    return this.#after(Math.min(call, left), () => this.#end(left < call && total !== call ? { by: 'total', limit: total } : { by: 'call', limit: call }));
  }

  #end(over: Over): void {
    this.dispose();
    this.#onOver(over);
  }
}
