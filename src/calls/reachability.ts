import { CircuitOpenError, reasonOf, UnreachableError } from '../errors.ts';
import { after, afterIdle, type Backoff, backoffDelay } from '../timers.ts';
import { Abort, onAbort, type Signal } from '../signals.ts';
import { nap, onWake } from '../wake.ts';
import { outcomeOf } from './verdict.ts';

export interface ReachabilityHost {
  /** Asks the server for a sign of life. Rejects with an {@link UnreachableError} where it cannot be reached. */
  ping(): Promise<unknown>;
  /** The circuit has opened, or closed. */
  onCircuit(open: boolean, reason: string): void;
}

export interface ReachabilityOptions {
  /** After so many attempts in a row that found nobody the circuit opens; `Infinity`: never. */
  readonly failures: number;
  /** Between two pings. */
  readonly backoff: Omit<Backoff, 'floor'>;
}

/** Jitter leaves half of it, so that luck cannot make a crowd of pings. */
const FLOOR = 0.5;

/**
 * Whether the server can be reached: not whether it is slow, or sick, or says no. A call that found nobody there waits here for news
 * of the server, so that of a thousand calls one ping is enough to ask. With a circuit breaker, calls fail at once meanwhile.
 */
export class Reachability {
  readonly #options: ReachabilityOptions;
  readonly #host: ReachabilityHost;
  /** Attempts in a row that found nobody. */
  #failures = 0;
  #lastError: Error | undefined;
  #open = false;
  readonly #waiters = new Set<() => void>();
  /** Of the waiters, those who ask nobody themselves. */
  #parked = 0;
  #pings = 0;
  #stopPinging: (() => void) | undefined;
  #pinging = false;
  /** When somebody asked last, on the clock of `performance.now()`: a call that finds nobody is as good as a ping. */
  #askedAt = 0;
  #closed = false;

  constructor(options: ReachabilityOptions, host: ReachabilityHost) {
    this.#options = options;
    this.#host = host;
  }

  /** Whether the circuit is open, so that calls fail at once. */
  get circuitOpen(): boolean {
    return this.#open;
  }

  /** Whether somebody waits for news of the server, so that it is asked for already. */
  get awaited(): boolean {
    return this.#parked > 0;
  }

  /** The client connects, to a server of which nothing is known. */
  open(): void {
    this.#closed = false;
    this.#failures = 0;
    this.#pings = 0;
    this.#closeCircuit('the client connects anew');
  }

  /** Throws where the circuit is open. */
  check(what: string): void {
    if (!this.#open) return;
    throw new CircuitOpenError(`The circuit is open: the server could not be reached ${this.#failures} times in a row (${reasonOf(this.#lastError as Error)}).`, {
      advice: `${what} was not sent. It can be made again when a ping has found the server.`,
      cause: this.#lastError,
    });
  }

  /** The server was heard of: whoever waits for it goes on. */
  up(): void {
    this.#failures = 0;
    this.#pings = 0;
    this.#closeCircuit('the server answers again');
    this.#stop();
    if (this.#waiters.size === 0) return;
    const waiters = [...this.#waiters];
    this.#waiters.clear();
    // A turn later: what brought the news is an answer, and its caller has it before all of these are sent.
    after(0, () => {
      for (const wake of waiters) wake();
    });
  }

  /** An attempt found nobody there. */
  down(error: Error): void {
    this.#failures++;
    this.#lastError = error;
    this.#askedAt = performance.now();
    if (this.#open || this.#failures < this.#options.failures) return;
    this.#open = true;
    this.#host.onCircuit(true, reasonOf(error));
    this.#ask();
  }

  /** Waits for `delay` ms, or less if the server is heard of before. */
  async pause(delay: number, signal: Signal): Promise<void> {
    const news = new Abort();
    const forget = this.#listen(() => news.abort());
    const release = onAbort(signal, () => news.abort());
    try {
      await nap(delay, news).catch(() => {});
      signal.throwIfAborted();
    } finally {
      forget();
      release();
    }
  }

  /** Waits until the server is heard of, for as long as it takes. Meanwhile one ping at a time asks for it. */
  async park(signal: Signal): Promise<void> {
    let forget = (): void => {};
    let release = (): void => {};
    this.#parked++;
    this.#ask();
    try {
      await new Promise<void>((resolve) => {
        forget = this.#listen(resolve);
        release = onAbort(signal, resolve);
      });
      signal.throwIfAborted();
    } finally {
      forget();
      release();
      this.#parked--;
      if (!this.#needed) this.#stop();
    }
  }

  close(): void {
    this.#closed = true;
    this.#stop();
  }

  get #needed(): boolean {
    return (this.#open || this.#parked > 0) && !this.#closed;
  }

  #listen(wake: () => void): () => void {
    this.#waiters.add(wake);
    return () => this.#waiters.delete(wake);
  }

  #ask(): void {
    if (this.#stopPinging || this.#pinging || !this.#needed) return;
    this.#askedAt = performance.now();
    this.#pingAfter(backoffDelay({ ...this.#options.backoff, floor: FLOOR }, this.#pings++));
  }

  /** Pings when nobody has asked for `quiet` ms. */
  #pingAfter(quiet: number): void {
    // A process that has nothing else to do need not stay for this: calls that wait have timers of their own.
    const stopTimer = afterIdle(this.#askedAt + quiet - performance.now(), () => {
      this.#stop();
      if (performance.now() < this.#askedAt + quiet) this.#pingAfter(quiet);
      else void this.#ping();
    });
    const stopWaking = onWake(() => {
      this.#stop();
      void this.#ping();
    });
    this.#stopPinging = () => {
      stopTimer();
      stopWaking();
    };
  }

  async #ping(): Promise<void> {
    this.#pinging = true;
    try {
      await this.#host.ping();
      this.up();
    } catch (error) {
      // Whoever says no is there. One that takes the question and stays silent is not, and what was thrown here says nothing.
      const outcome = outcomeOf(error);
      if (error instanceof UnreachableError) this.#lastError = error;
      else if (outcome !== 'unknown' && outcome !== 'ended') this.up();
    } finally {
      this.#pinging = false;
      this.#ask();
    }
  }

  #closeCircuit(reason: string): void {
    if (!this.#open) return;
    this.#open = false;
    this.#host.onCircuit(false, reason);
  }

  #stop(): void {
    this.#stopPinging?.();
    this.#stopPinging = undefined;
  }
}
