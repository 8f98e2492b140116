import { StoreError } from '../errors.ts';
import { redacted, redactedError } from '../redact.ts';
import type { Lock, Store } from '../storage/store.ts';
import { onAbort } from '../signals.ts';
import { sleep, within } from '../timers.ts';
import { isConflict } from '../storage/conflict.ts';
import type { Tell } from './events.ts';
import { foreignness, readable, type SessionRecord, serializeRecord } from './record.ts';

export interface ShelfOptions {
  readonly store: Store;
  readonly key: string;
  readonly tell: Tell;
  /** Is given what goes on in the store when nobody waits for it any more; it ends soon, and does not reject. */
  leaveBehind(task: Promise<void>): void;
}

/** What is at a session's place in the store; without a record it is something that cannot be read. */
interface Found {
  readonly text: string;
  readonly record: SessionRecord | undefined;
  readonly revision: string;
}

/** A store that does not answer within this time counts as failed, in ms. */
const STORE_TIMEOUT = 3000;
/** How long one who says nothing has a turn, in ms: so long the others wait when a process is killed in its turn. */
const LOCK_TTL = { handshake: 3000, stream: 5000 };

/** A store that failed is left alone for so long, in ms: one that hangs would hold up everybody who asks it. */
const REST = 30_000;

/**
 * A session's place in the store. When the store fails there is one `warning`, and for a while there is nothing there and nothing is
 * written (G8). Then it is tried again.
 */
export class Shelf {
  readonly #options: ShelfOptions;
  /** How often the store has failed, and how the last time. */
  failures = 0;
  lastError: unknown;
  /** On the clock of `performance.now()`. */
  #restsUntil = 0;
  /** From a failure to the next success. */
  #broken = false;
  /** The session id that was read or written last, and the record with it. */
  #secrets: readonly string[] = [];
  #warned: string | undefined;

  constructor(options: ShelfOptions) {
    this.#options = options;
  }

  get failed(): boolean {
    return performance.now() < this.#restsUntil;
  }

  async get(): Promise<Found | undefined> {
    const there = await this.#guard((store) => store.get(this.#options.key));
    if (!there) return undefined;
    const record = readable(there.value);
    this.#secrets = [there.value, record?.id ?? ''];
    const foreign = record ? undefined : foreignness(there.value);
    if (foreign !== undefined) {
      this.fail(new Error(`${foreign}, and it is left alone`));
      return undefined;
    }
    return { text: there.value, record, revision: there.revision };
  }

  /** @throws ConflictError, and nothing else */
  async set(record: SessionRecord, expected: string | null): Promise<void> {
    const text = serializeRecord(record);
    this.#secrets = [text, record.id];
    await this.#guard((store) => store.set(this.#options.key, text, expected));
  }

  /** @throws ConflictError, and nothing else */
  async delete(expected: string): Promise<void> {
    await this.#guard((store) => store.delete(this.#options.key, expected));
  }

  /**
   * A turn among all who share the place. `undefined` where the store fails: whoever asked goes on without.
   *
   * @throws the reason of `signal` when that aborts
   */
  async lock(what: keyof typeof LOCK_TTL, signal: AbortSignal): Promise<Lock | undefined> {
    if (this.failed) return undefined;
    try {
      signal.throwIfAborted();
      const taking = this.#options.store.lock(`${what}/${this.#options.key}`, { ttl: LOCK_TTL[what], signal });
      return await this.#bounded(taking, signal);
    } catch (error) {
      signal.throwIfAborted();
      this.fail(error);
      return undefined;
    }
  }

  /**
   * Resolves when a store that failed is worth another try.
   *
   * @throws the reason of `signal` when that aborts
   */
  async rested(signal: AbortSignal): Promise<void> {
    while (this.failed) await sleep(this.#restsUntil - performance.now(), signal);
  }

  fail(failure: unknown): void {
    // A store of anybody's making may repeat what it was to write.
    const error = failure instanceof Error ? redactedError(failure, this.#secrets) : redacted(String(failure), this.#secrets);
    if (!this.#broken) this.warn(`the store failed, so the session is kept in memory only, until the store works again: ${explain(error)}`, error);
    this.#broken = true;
    this.failures++;
    this.lastError = error;
    this.#restsUntil = performance.now() + REST;
  }

  /** The same news again is none. */
  warn(message: string, cause?: unknown): void {
    if (this.#warned === message) return;
    this.#warned = message;
    this.#options.tell('warning', new StoreError(message, cause === undefined ? {} : { cause }));
  }

  /** A lock of a store that may not answer: it is waited for until `signal` aborts, and its release for a while. */
  async #bounded(taking: Promise<Lock>, signal: AbortSignal): Promise<Lock> {
    let stop = (): void => {};
    const aborted = new Promise<never>((_, reject) => {
      stop = onAbort(signal, () => {
        // What comes too late is nobody's.
        this.#options.leaveBehind(soon(taking.then((lock) => lock.release())));
        reject(signal.reason as Error);
      });
    });
    try {
      const lock = await Promise.race([taking, aborted]);
      signal.throwIfAborted();
      return { fence: lock.fence, lost: lock.lost, release: () => soon(lock.release()) };
    } finally {
      stop();
    }
  }

  /** Asks the store, and waits so long. */
  async #guard<T>(ask: (store: Store) => Promise<T>): Promise<T | undefined> {
    if (this.failed) return undefined;
    try {
      const answer = await within(ask(this.#options.store), STORE_TIMEOUT);
      this.#broken = false;
      return answer;
    } catch (error) {
      if (isConflict(error)) throw error;
      this.fail(error);
      return undefined;
    }
  }
}

/** What is waited for no longer than a store may take. A lock that was not released by then ends by itself. */
async function soon(task: Promise<void>): Promise<void> {
  await within(task, STORE_TIMEOUT).catch(() => undefined);
}

/** A store's own words, and the reason below them. */
function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  // A browser's error may have a name and no words.
  return error.cause instanceof Error ? `${error.message} (${error.cause.message || error.cause.name})` : error.message;
}
