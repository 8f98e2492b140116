import { afterIdle } from '../timers.ts';

interface RenewalOptions {
  /** How long the lock lasts without being renewed, in ms. */
  readonly ttl: number;
  /** The moment before it was written: nobody else can have seen it earlier, so nobody else has it before its ttl after this. */
  readonly began: number;
  /** The delay before the next try where one fails, in ms. */
  readonly retry: number;
  /** Resolves to whether it is still ours; it is renewed then. Rejects where nobody knows. */
  renew(): Promise<boolean>;
  /** Told that the lock does not hold any more, and why. */
  lose(reason: string): void;
}

/** Renews a lock, three times within its ttl, until it is stopped or the lock is lost. It keeps no process alive. */
export class Renewal {
  readonly #options: RenewalOptions;
  #stopNext = (): void => undefined;
  #stopEnd = (): void => undefined;
  #stopped = false;

  constructor(options: RenewalOptions) {
    this.#options = options;
    this.#holdsSince(options.began);
    this.#renewIn(options.ttl / 3);
  }

  /** A renewal may still be under way, but nothing comes of it any more. */
  stop(): void {
    this.#stopped = true;
    this.#stopNext();
    this.#stopEnd();
  }

  #holdsSince(began: number): void {
    this.#stopEnd();
    const left = began + this.#options.ttl - performance.now();
    this.#stopEnd = afterIdle(left, () => this.#options.lose('A lock could not be renewed in time.'));
  }

  #renewIn(delay: number): void {
    this.#stopNext = afterIdle(delay, () => void this.#renew());
  }

  async #renew(): Promise<void> {
    const { ttl, retry, renew, lose } = this.#options;
    const began = performance.now();
    // A store that fails for a moment is asked again; one that goes on failing lets the time run out.
    const ours = await renew().catch(() => undefined);
    if (this.#stopped) return;
    if (ours === false) {
      lose('A lock that was not renewed in time has ended, and may be another\'s.');
      return;
    }
    if (ours) this.#holdsSince(began);
    this.#renewIn(ours ? ttl / 3 : retry);
  }
}
