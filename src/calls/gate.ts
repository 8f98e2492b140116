import { RateLimitedError } from '../errors.ts';
import type { RateLimit } from '../options.ts';
import { after } from '../timers.ts';
import { AdaptiveLimit, type Concurrency } from './adaptive-limit.ts';
import { TokenBucket } from './buckets.ts';
import { onAbort, type Signal } from '../signals.ts';

interface Visitor {
  enter(): void;
}

/** Lets so many in at a time, and so many a second; the others wait in the order in which they came. */
export class Gate {
  readonly #limit: AdaptiveLimit;
  readonly #rate: TokenBucket | undefined;
  readonly #queue = new Set<Visitor>();
  #inside = 0;
  #stopTimer: (() => void) | undefined;

  constructor(concurrency: Concurrency, rate?: RateLimit) {
    this.#limit = new AdaptiveLimit(concurrency);
    this.#rate = rate && new TokenBucket(rate);
  }

  /** How many are in, and how many wait. */
  get inside(): number {
    return this.#inside;
  }

  get waiting(): number {
    return this.#queue.size;
  }

  /** Enters at once where nobody has to wait. Who is in leaves by {@link leave}. */
  tryEnter(): boolean {
    if (this.#queue.size > 0 || this.#inside >= this.#limit.value || this.#rate?.take() === false) return false;
    this.#inside++;
    return true;
  }

  /**
   * Waits for its turn and enters.
   *
   * @param left - the time that there is for it, in ms
   * @throws RateLimitedError at once where the rate does not let it in within that time
   */
  enter(signal: Signal, left: number, what: string): Promise<void> {
    const wait = this.#rate?.until(this.#queue.size + 1) ?? 0;
    if (wait > Math.max(left, 0)) {
      const error = new RateLimitedError(`${what} would have to wait ${Math.round(wait)} ms for its turn (\`rateLimit\`), and has only ${Math.round(left)} ms.`, {
        advice: 'It was not sent; it can be made again later, or with more time.',
        outcome: 'not-sent',
        retryAfter: Math.ceil(wait),
      });
      return Promise.reject(error);
    }
    return new Promise((resolve, reject) => {
      const visitor: Visitor = {
        enter: () => {
          release();
          resolve();
        },
      };
      if (this.#queue.size === 0) this.#limit.pressed();
      this.#queue.add(visitor);
      const release = onAbort(signal, () => {
        this.#queue.delete(visitor);
        reject(signal.reason);
        this.#admit();
      });
      this.#admit();
    });
  }

  /** @param latency - how long its request took to be answered, in ms, if it was */
  leave(latency?: number): void {
    this.#inside--;
    if (latency !== undefined) this.#limit.answered(latency, this.#queue.size > 0);
    this.#admit();
  }

  #admit(): void {
    this.#stopTimer?.();
    this.#stopTimer = undefined;
    for (const visitor of this.#queue) {
      if (this.#inside >= this.#limit.value) return;
      if (this.#rate?.take() === false) {
        this.#stopTimer = after(this.#rate.until(1), () => this.#admit());
        return;
      }
      this.#queue.delete(visitor);
      this.#inside++;
      visitor.enter();
    }
  }
}
