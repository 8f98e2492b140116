import { StoreError } from '../errors.ts';
import { closedError, overSoon, requireLock } from './rules.ts';
import type { Lock, LockOptions } from './store.ts';

/** A lock that is held in a backend. */
export interface Claim {
  readonly fence: number;
  /** Lets go of it, if it is still ours. Where that fails, it ends by itself after its ttl. */
  release(): Promise<void>;
}

interface ClaimOptions {
  readonly ttl: number;
  /** Aborts when nobody waits any more. What is claimed in spite of that is released again. */
  readonly signal: AbortSignal;
  /** Says that the claim does not hold any more, and why. It is released then, too. */
  readonly lose: (reason: string) => void;
}

/** Takes a lock from whoever else shares the backend: waits for it, and keeps it until its release. */
export type Claimer = (key: string, options: ClaimOptions) => Promise<Claim>;

/** Those who wait for their turn with one key, in the order in which they came. */
type Line = Set<() => void>;

/**
 * The locks of one store, over a {@link Claimer} that knows the backend. Those who want the same lock here take turns in the order
 * in which they asked, so that each process, however many wait in it, is one contender in the backend.
 */
export class Locks {
  readonly #claim: Claimer;
  /** There is a line for each key that is claimed or held. */
  readonly #lines = new Map<string, Line>();
  readonly #waiting = new Set<AbortController>();
  readonly #held = new Set<(reason?: string) => Promise<void>>();
  /** What is still going on for the sake of those who wait, or have given up. */
  readonly #taking = new Set<Promise<unknown>>();
  #closed = false;

  constructor(claim: Claimer) {
    this.#claim = claim;
  }

  /** As `Store.lock`. */
  async lock(key: string, options: LockOptions): Promise<Lock> {
    requireLock(key, options);
    if (this.#closed) throw closedError();
    const { ttl, signal } = options;
    signal?.throwIfAborted();
    const waiting = new AbortController();
    const giveUp = (): void => waiting.abort(signal?.reason);
    signal?.addEventListener('abort', giveUp, { once: true });
    this.#waiting.add(waiting);
    try {
      return await this.#unlessAborted(this.#take(key, ttl, waiting.signal), waiting.signal);
    } finally {
      this.#waiting.delete(waiting);
      signal?.removeEventListener('abort', giveUp);
    }
  }

  /** Releases what is held, and rejects those who wait. Takes no longer than 3 s: what is not released by then ends with its ttl. Never rejects. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const waiting of this.#waiting) waiting.abort(closedError());
    // At once, because each may take its whole time. What is only being taken releases itself when it is there.
    const ending = [...this.#held].map((end) => end('The store was closed, and its locks with it.'));
    await overSoon([...this.#taking, ...ending]);
  }

  /** Hands the lock over, or releases it where it came too late. Who gives up hears so when nothing is written for him any more. */
  #unlessAborted(taking: Promise<Lock>, signal: AbortSignal): Promise<Lock> {
    return new Promise((resolve, reject) => {
      const taken = taking.then(
        (lock) => (signal.aborted ? lock.release() : resolve(lock)),
        (error) => (signal.aborted ? undefined : reject(error)),
      );
      signal.addEventListener('abort', () => void overSoon([taken]).then(() => reject(signal.reason)), { once: true });
      this.#taking.add(taken);
      void taken.then(() => this.#taking.delete(taken));
    });
  }

  async #take(key: string, ttl: number, signal: AbortSignal): Promise<Lock> {
    await this.#turn(key, signal);
    const lost = new AbortController();
    let lose = (reason: string): void => lost.abort(new StoreError(reason));
    let claim: Claim;
    try {
      claim = await this.#claim(key, { ttl, signal, lose: (reason) => lose(reason) });
    } catch (error) {
      this.#next(key);
      throw error;
    }
    let ending: Promise<void> | undefined;
    const end = (reason?: string): Promise<void> => {
      ending ??= (async () => {
        if (reason !== undefined) lost.abort(new StoreError(reason));
        await claim.release().catch(() => undefined);
        this.#held.delete(end);
        this.#next(key);
      })();
      return ending;
    };
    this.#held.add(end);
    lose = (reason) => void end(reason);
    // Lost before it was ours.
    if (lost.signal.aborted) void end();
    return { fence: claim.fence, lost: lost.signal, release: () => end() };
  }

  /** Waits for the turn with a key, which lasts until {@link #next}. */
  #turn(key: string, signal: AbortSignal): Promise<void> {
    const line = this.#lines.get(key);
    if (line === undefined) {
      this.#lines.set(key, new Set());
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const go = (): void => {
        signal.removeEventListener('abort', leave);
        resolve();
      };
      const leave = (): void => {
        line.delete(go);
        reject(signal.reason);
      };
      line.add(go);
      signal.addEventListener('abort', leave, { once: true });
    });
  }

  #next(key: string): void {
    const line = this.#lines.get(key);
    const [go] = line ?? [];
    if (go === undefined) {
      this.#lines.delete(key);
      return;
    }
    line?.delete(go);
    go();
  }
}
