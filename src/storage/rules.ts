import { ConflictError, StoreError } from '../errors.ts';
import { LONGEST_TIMER, within } from '../timers.ts';
import type { LockOptions } from './store.ts';

/** What every adapter does the same way: the check of its input, of an expected revision, of being open, and new revisions. */

/** How long a store may take to close, in ms. */
const CLOSE_LIMIT = 3_000;

/** @throws TypeError when `value` is not a string. */
export function requireString(what: string, value: unknown): asserts value is string {
  if (typeof value !== 'string') throw new TypeError(`The ${what} of a store must be a string, not ${describe(value)}.`);
}

/** @throws TypeError when `expected` is neither a revision nor `null` nor `undefined`. */
export function requireExpectation(expected: unknown): asserts expected is string | null | undefined {
  if (expected !== undefined && expected !== null) requireString('expected revision', expected);
}

/** @throws TypeError or RangeError when a lock cannot be asked for like that. */
export function requireLock(key: unknown, options: unknown): asserts options is LockOptions {
  requireString('lock key', key);
  const { ttl, signal } = (options ?? {}) as { readonly [K in keyof LockOptions]?: unknown };
  if (typeof ttl !== 'number') throw new TypeError(`The ttl of a lock must be a number of milliseconds, not ${describe(ttl)}.`);
  if (!(ttl > 0 && ttl <= LONGEST_TIMER)) throw new RangeError(`The ttl of a lock must be above 0 and at most ${LONGEST_TIMER} ms, not ${ttl}.`);
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw new TypeError('The signal of a lock must be an AbortSignal.');
}

function describe(value: unknown): string {
  return value === null ? 'null' : typeof value;
}

/**
 * The check of a compare-and-set.
 *
 * @param current - The revision that is there, `undefined` when there is none.
 * @param expected - As in `Store.set`.
 * @throws {@link ConflictError} when they do not agree.
 */
export function expectRevision(current: string | undefined, expected: string | null | undefined): void {
  if (expected === undefined || (expected ?? undefined) === current) return;
  // Neither the key nor a revision is named here: a key holds a principal, and messages end up in logs.
  if (current === undefined) throw new ConflictError('The stored value is gone.');
  throw new ConflictError(expected === null ? 'There is a stored value already.' : 'The stored value was changed by another.');
}

/** 128 random bits in hex. Random, so that a revision never comes back: not after a delete, not in another process. */
export function newRevision(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

export function closedError(): StoreError {
  return new StoreError('The store is closed.');
}

/** Waits until all of it is over, but no longer than 3 s: a backend that hangs does not keep a store from closing. Never rejects. */
export async function overSoon(work: Iterable<Promise<unknown>>): Promise<void> {
  await within(Promise.allSettled(work), CLOSE_LIMIT).catch(() => undefined);
}

/** Whether a store is open, and what it is still doing. */
export class Lifetime {
  #closed = false;
  readonly #running = new Set<Promise<unknown>>();

  /** @throws {@link StoreError} after {@link close}. */
  check(): void {
    if (this.#closed) throw closedError();
  }

  /** Runs `work` if the store is open, and lets {@link close} wait for it. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    this.check();
    const running = work();
    this.#running.add(running);
    try {
      return await running;
    } finally {
      this.#running.delete(running);
    }
  }

  /** Refuses later use, and waits for what was begun, which writes nothing later; but no longer than 3 s. Never rejects. */
  async close(): Promise<void> {
    this.#closed = true;
    await overSoon(this.#running);
  }
}
