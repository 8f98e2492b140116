import type { CallRecord } from './history.ts';
import { Histogram } from './histogram.ts';

/** What a client has done since it was made. */
export interface MetricsSnapshot {
  /** Calls that are settled, by what became of them, and those that are not. */
  readonly calls: {
    readonly answered: number;
    readonly notSent: number;
    readonly refused: number;
    readonly unknown: number;
    /** Of those answered: by an error, or by a tool that says `isError`. */
    readonly errors: number;
    /** Of those answered: with another caller's answer, and from the tool list that is kept with the session. */
    readonly shared: number;
    readonly cached: number;
    /** Called and not settled. */
    readonly pending: number;
  };
  /** From the call to its answer, with all waits, in ms, of the answered calls that went over the wire. Quantiles are within 2 %. */
  readonly latency: { readonly count: number; readonly p50: number; readonly p90: number; readonly p99: number; readonly max: number };
  /** Calls that were sent again. */
  readonly retries: number;
  /** Stored sessions that were taken up and proved alive. */
  readonly resumes: number;
  /** Lost sessions that were replaced. */
  readonly resets: number;
  /** Requests that are being served, and calls that wait for their turn (`concurrency`, `rateLimit`). */
  readonly inFlight: number;
  readonly queueLength: number;
  /** Whether the circuit breaker has opened the circuit. */
  readonly circuit: 'closed' | 'open';
  /** Of HTTP bodies. 0 over other transports. */
  readonly bytes: { readonly sent: number; readonly received: number };
  /** Event streams of HTTP that are open: of calls in flight, and the one for notifications. */
  readonly openStreams: number;
  /** Messages of the server that belong to no request of this client. */
  readonly droppedMessages: number;
}

/** Counts calls. */
export class CallMetrics {
  readonly #outcomes = { answered: 0, notSent: 0, refused: 0, unknown: 0, errors: 0, shared: 0, cached: 0 };
  readonly #latency = new Histogram();

  add({ outcome, error, isError, shared, attempts, duration }: CallRecord): void {
    const outcomes = this.#outcomes;
    outcomes[outcome === 'not-sent' ? 'notSent' : outcome]++;
    if (outcome !== 'answered') return;
    if (error !== undefined || isError) outcomes.errors++;
    if (shared) outcomes.shared++;
    else if (attempts === 0) outcomes.cached++;
    if (attempts > 0) this.#latency.add(duration);
  }

  snapshot(pending: number): Pick<MetricsSnapshot, 'calls' | 'latency'> {
    const { count, max } = this.#latency;
    const [p50, p90, p99] = [0.5, 0.9, 0.99].map((q) => this.#latency.quantile(q)) as [number, number, number];
    return { calls: { ...this.#outcomes, pending }, latency: { count, p50, p90, p99, max } };
  }
}
