import { onAbort } from '../signals.ts';
import { after } from '../timers.ts';

interface Waiter {
  goOn(): void;
  fail(error: unknown): void;
}

export interface Patience {
  /** How long somebody waits, in ms, and what that ends with. */
  readonly timeout: number;
  late(): Error;
  readonly signal: AbortSignal | undefined;
}

/** Those who wait, in order, by the key of what they need: who needs the same is served together. */
export class Queue {
  readonly #waiting = new Map<string, Set<Waiter>>();

  /** How many different things are waited for. */
  get keys(): number {
    return this.#waiting.size;
  }

  /** How many wait. */
  get size(): number {
    return [...this.#waiting.values()].reduce((sum, { size }) => sum + size, 0);
  }

  /** Waits until it is served, and then takes at once. */
  wait<T>(key: string, take: () => T, { timeout, late, signal }: Patience): Promise<T> {
    const taking = async (): Promise<T> => take();
    return new Promise((resolve, reject) => {
      const waiting = this.#waiting.get(key) ?? new Set();
      const leave = (): void => {
        stop();
        release();
        waiting.delete(waiter);
        if (waiting.size === 0) this.#waiting.delete(key);
      };
      const waiter: Waiter = {
        goOn: () => {
          leave();
          resolve(taking());
        },
        fail: (error) => {
          leave();
          reject(error as Error);
        },
      };
      this.#waiting.set(key, waiting.add(waiter));
      const stop = after(timeout, () => waiter.fail(late()));
      let release = (): void => {};
      if (signal) release = onAbort(signal, () => waiter.fail(signal.reason));
    });
  }

  /** Serves one key after another, as long as there is something to give. */
  serve(isAny: () => boolean): void {
    for (const waiting of this.#waiting.values()) {
      if (!isAny()) return;
      for (const waiter of waiting) waiter.goOn();
    }
  }

  fail(error: Error): void {
    for (const waiting of this.#waiting.values()) {
      for (const waiter of waiting) waiter.fail(error);
    }
  }
}
