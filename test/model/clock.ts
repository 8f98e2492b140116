import { createHash } from 'node:crypto';
import { setImmediate as turn } from 'node:timers/promises';
import { vi } from 'vitest';

export { turn };

/**
 * A world without chance: time stands until it is moved, and what draws lots or computes on another thread does so in a way that the
 * seed decides. Timers fire one at a time, each followed by all that it sets off, as in Node.
 */
export class FakeTime {
  /** The timers of `AbortSignal.timeout`. Node's own do not keep a process alive, and end with their signal. */
  readonly #idle = new Set<ReturnType<typeof setTimeout>>();

  constructor(seed: number) {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'Date', 'performance'], now: 1_700_000_000_000 });
    vi.spyOn(Math, 'random').mockImplementation(randomFrom(seed));
    vi.spyOn(crypto.subtle, 'digest').mockImplementation(async (_algorithm, data) => {
      const bytes = createHash('sha256').update(data as Uint8Array).digest();
      return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length) as ArrayBuffer;
    });
    vi.spyOn(AbortSignal, 'timeout').mockImplementation((delay) => {
      const controller = new AbortController();
      const timer = setTimeout(() => {
        this.#idle.delete(timer);
        controller.abort(new DOMException('The operation was aborted due to timeout', 'TimeoutError'));
      }, delay);
      this.#idle.add(timer);
      return controller.signal;
    });
  }

  /** In ms, as everybody in the world has it. */
  get now(): number {
    return performance.now();
  }

  /** Timers that wait to fire. */
  get timers(): number {
    return vi.getTimerCount() - this.#idle.size;
  }

  /** Fires the next timer. Returns false where there is none. */
  async next(): Promise<boolean> {
    if (vi.getTimerCount() === 0) return false;
    vi.advanceTimersToNextTimer();
    await turn();
    return true;
  }

  /** So many ms pass; `meanwhile` happens after each timer. */
  async pass(ms: number, meanwhile?: () => Promise<void>): Promise<void> {
    let over = false;
    setTimeout(() => (over = true), ms);
    while (!over) {
      await meanwhile?.();
      await this.next();
    }
  }

  end(): void {
    vi.clearAllTimers();
    vi.useRealTimers();
    vi.restoreAllMocks();
  }
}

/** The same numbers in 0…1 for the same seed (mulberry32). */
function randomFrom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
