/** How many may be in flight at a time: so many, or between two numbers, by the latency that is seen. */
export type Concurrency = number | { readonly least: number; readonly most: number };

/** The quickest answer is looked for among those of the last one to two periods, in ms: a way that has become longer must not count for ever. */
const PERIOD = 10_000;
/** An answer that takes up to so many times as long as the quickest waited for nobody; one that takes more than that waited at the server. */
const UNHINDERED = 2;
const HELD_UP = 4;

/** This process is the one that is waited for when it does nothing else for so much of the time, which is looked at so often, in ms. */
const BUSY = 0.9;
const LOOK = 10;

interface Utilization {
  readonly utilization: number;
}
/** Node tells how much of its time an event loop is at work; browsers do not. */
const clock = performance as Performance & { eventLoopUtilization?: (now?: Utilization, since?: Utilization) => Utilization };

/**
 * A limit of concurrency that follows the latency, as TCP Vegas does: while answers take hardly longer than the quickest one did, their
 * time goes on the way (or in a tool that only waits), and more of them in flight are more of them answered. Once they take much longer,
 * they wait for each other at the server, and more of them would only wait longer. The same where this process is what they wait for.
 */
export class AdaptiveLimit {
  readonly #least: number;
  readonly #most: number;
  #value: number;
  /** The quickest answers of this period and the one before, in ms. */
  #quickest = Number.POSITIVE_INFINITY;
  #before = Number.POSITIVE_INFINITY;
  #periodEnds = 0;
  #lookedAt = 0;
  #looked: Utilization | undefined;
  #busy = false;

  constructor(concurrency: Concurrency) {
    const { least, most } = typeof concurrency === 'number' ? { least: concurrency, most: concurrency } : concurrency;
    this.#least = least;
    this.#most = most;
    this.#value = least;
  }

  get value(): number {
    return this.#value;
  }

  /** Somebody has to wait for a turn, which nobody had to before: from here on it counts how busy this process is. */
  pressed(): void {
    this.#busy = false;
    this.#looked = clock.eventLoopUtilization?.();
    this.#lookedAt = performance.now();
  }

  /** An answer took `latency` ms. `wanted`: others wait for their turn, so a higher limit would be of use. */
  answered(latency: number, wanted: boolean): void {
    if (this.#least === this.#most) return;
    const now = performance.now();
    if (now >= this.#periodEnds) {
      // After a long rest nothing of before counts.
      this.#before = now >= this.#periodEnds + PERIOD ? Number.POSITIVE_INFINITY : this.#quickest;
      this.#quickest = Number.POSITIVE_INFINITY;
      this.#periodEnds = now + PERIOD;
    }
    this.#quickest = Math.min(this.#quickest, latency);
    const quickest = Math.min(this.#quickest, this.#before);
    this.#look(now);
    // One more for each answer: the limit doubles within a round trip.
    if (latency <= quickest * UNHINDERED) this.#value = wanted && !this.#busy ? Math.min(this.#most, this.#value + 1) : this.#value;
    else if (latency > quickest * HELD_UP) this.#value = Math.max(this.#least, this.#value - 1);
  }

  #look(now: number): void {
    if (!this.#looked || !clock.eventLoopUtilization || now < this.#lookedAt + LOOK) return;
    const looked = clock.eventLoopUtilization();
    this.#busy = clock.eventLoopUtilization(looked, this.#looked).utilization > BUSY;
    this.#looked = looked;
    this.#lookedAt = now;
  }
}
