import type { Signal } from './signals.ts';

/**
 * The one place for timers. Every delay is finite and clamped to what a timer can hold (a longer one would fire after 1 ms).
 */
export const LONGEST_TIMER = 2 ** 31 - 1;

/** A delay that a timer can hold. In whole ms, up: cut off, it would end too early. */
function fit(delay: number): number {
  return Math.ceil(Math.min(Math.max(delay, 0), LONGEST_TIMER));
}

/** Runs `task` once after `delay` ms. Returns a function that stops it. */
export function after(delay: number, task: () => void): () => void {
  const timer = setTimeout(task, fit(delay));
  return () => clearTimeout(timer);
}

/** Like {@link after}, but the process may exit before it fires: for housekeeping that is worth nothing after the exit. */
export function afterIdle(delay: number, task: () => void): () => void {
  const timer: unknown = setTimeout(task, fit(delay));
  (timer as { unref?: () => void }).unref?.();
  return () => clearTimeout(timer as number);
}

/** A time that several steps have together. */
export interface TimeLimit {
  /** All of it, in ms: what errors name. */
  readonly timeout: number;
  /** When it is over, on the clock of `performance.now()`. */
  readonly by: number;
}

export function limitOf(timeout: number): TimeLimit {
  return { timeout, by: performance.now() + timeout };
}

interface Queue {
  /** In the order in which they are due: all wait equally long. */
  readonly alarms: Set<{ readonly dueAt: number; readonly task: () => void }>;
  timer: ReturnType<typeof setTimeout>;
  /** When that is due, on the clock of `performance.now()`: where only one of the two clocks is a test's, the timer decides. */
  ringsAt: number;
}

/** {@link after} for very many that wait equally long, of which hardly any comes to its end: one timer for each length of time, however many wait. */
export class Alarms {
  readonly #queues = new Map<number, Queue>();

  readonly after = (delay: number, task: () => void): (() => void) => {
    const length = fit(delay);
    let queue = this.#queues.get(length);
    const dueAt = performance.now() + length;
    if (!queue) this.#queues.set(length, (queue = { alarms: new Set(), timer: this.#start(length, length), ringsAt: dueAt }));
    const { alarms } = queue;
    const alarm = { dueAt, task };
    alarms.add(alarm);
    return () => {
      if (alarms.delete(alarm) && alarms.size === 0) this.#end(length, alarms);
    };
  };

  #start(length: number, delay: number): Queue['timer'] {
    return setTimeout(() => this.#ring(length), fit(delay));
  }

  #ring(length: number): void {
    const queue = this.#queues.get(length);
    if (!queue) return;
    const { alarms } = queue;
    const now = Math.max(queue.ringsAt, performance.now());
    for (const alarm of alarms) {
      // A timer may be early by a part of a ms.
      if (alarm.dueAt > now + 1) {
        queue.timer = this.#start(length, alarm.dueAt - now);
        queue.ringsAt = alarm.dueAt;
        return;
      }
      alarms.delete(alarm);
      try {
        alarm.task();
      } catch (error) {
        // As it would go with a timer of its own: the others ring all the same.
        after(0, () => {
          throw error;
        });
      }
    }
    this.#end(length, alarms);
  }

  /** Nobody waits so long any more. */
  #end(length: number, alarms: Queue['alarms']): void {
    const queue = this.#queues.get(length);
    if (queue?.alarms !== alarms) return;
    clearTimeout(queue.timer);
    this.#queues.delete(length);
  }
}

/** A signal that aborts after `delay` ms. It does not keep the process alive. */
export function expiring(delay: number): AbortSignal {
  return AbortSignal.timeout(fit(delay));
}

/** Resolves after `delay` ms, or rejects with the signal's reason as soon as it aborts. */
export function sleep(delay: number, signal?: Signal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason);
      return;
    }
    const stop = after(delay, () => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    });
    const onAbort = (): void => {
      stop();
      reject(signal?.reason);
    };
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}

/** The result of a task that must not take longer than `limit` ms: otherwise `late()` is thrown, and what the task still does is nobody's. */
export async function within<T>(task: Promise<T>, limit: number, late = (): Error => new Error(`no answer within ${limit} ms`)): Promise<T> {
  let stop = (): void => {};
  try {
    const timeout = new Promise<never>((_, reject) => {
      stop = after(limit, () => reject(late()));
    });
    return await Promise.race([task, timeout]);
  } finally {
    stop();
  }
}

export interface Backoff {
  /** The first delay, in ms. */
  readonly min: number;
  /** No delay is longer, in ms. */
  readonly max: number;
  /** How much longer each delay is than the one before. */
  readonly factor: number;
  /**
   * The least part of a delay that jitter leaves, 0…1. 0 is full jitter, which spreads a crowd best; a stream that is opened again
   * and again keeps half, so that the number of its attempts in a minute has a bound that luck cannot break.
   */
  readonly floor: number;
}

/** The delay before attempt number `attempt` (0 is the first repetition), in ms, with jitter. */
export function backoffDelay({ min, max, factor, floor }: Backoff, attempt: number, random = Math.random): number {
  const whole = Math.min(max, min * factor ** attempt);
  return whole * (floor + (1 - floor) * random());
}
