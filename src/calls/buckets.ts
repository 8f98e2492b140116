import type { RateLimit, RetryBudget } from '../options.ts';

/** What fractions leave short of a whole token is one. */
const WHOLE = 1 - 1e-9;

/** What `rateLimit` lets out: a bucket of `burst` tokens that fills by `perSecond` tokens each second. */
export class TokenBucket {
  readonly #limit: RateLimit;
  #tokens: number;
  #at = performance.now();

  constructor(limit: RateLimit) {
    this.#limit = limit;
    this.#tokens = limit.burst;
  }

  /** Takes a token, if there is one. */
  take(): boolean {
    this.#fill();
    if (this.#tokens < WHOLE) return false;
    this.#tokens -= 1;
    return true;
  }

  /** How long it takes, in ms, until there are `count` tokens for those who wait now. */
  until(count: number): number {
    this.#fill();
    return Math.max(0, ((count - this.#tokens) * 1000) / this.#limit.perSecond);
  }

  #fill(): void {
    const now = performance.now();
    const { burst, perSecond } = this.#limit;
    this.#tokens = Math.min(burst, this.#tokens + ((now - this.#at) * perSecond) / 1000);
    this.#at = now;
  }
}

/**
 * How much may be sent again: each repetition takes a token, each call puts `ratio` of one back. However long a server is away or
 * sick, what is sent again is never more than that part of what is asked for, once the bucket is empty.
 */
export class Budget {
  readonly #options: Required<RetryBudget>;
  #tokens: number;

  constructor(options: Required<RetryBudget>) {
    this.#options = options;
    this.#tokens = options.tokens;
  }

  get available(): boolean {
    return this.#tokens >= WHOLE;
  }

  /** A call is sent again. */
  take(): void {
    this.#tokens -= 1;
  }

  /** A call is made. */
  deposit(): void {
    const { tokens, ratio } = this.#options;
    this.#tokens = Math.min(tokens, this.#tokens + ratio);
  }
}
