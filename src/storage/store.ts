/**
 * Where sessions are kept. Keys and values are strings; a value is opaque to the store.
 *
 * Every write returns a new revision, and a revision is never used twice for one key, not even after a delete: that is what
 * makes compare-and-set safe among processes. A store may fail at any time, within 3 s; its callers degrade, they never fail a call for it.
 *
 * What is no string (or `null`, as `expected` of `set`) is a `TypeError` for each method. Everything else that goes wrong is a
 * {@link StoreError}, whose text names no key and no value. `storeContract` of `mcp-reprise/testing` examines all of this.
 */
export interface Store {
  /** The value and its revision, in an object that is the caller's own, or `undefined` when there is none. */
  get(key: string): Promise<StoredValue | undefined>;
  /**
   * Writes a value and returns its revision.
   *
   * @param expected - `undefined`: write whatever is there. `null`: only if nothing is there. A revision: only if that is still the current one.
   * @throws {@link ConflictError} when `expected` does not hold; nothing was written.
   */
  set(key: string, value: string, expected?: string | null): Promise<string>;
  /**
   * Removes a value. Returns whether it was there.
   *
   * @throws {@link ConflictError} when `expected` is given and is not the current revision; nothing was removed.
   */
  delete(key: string, expected?: string): Promise<boolean>;
  /** The keys that start with `prefix`, in no particular order. A listing that is under way when the store is closed rejects. */
  keys(prefix: string): AsyncIterable<string>;
  /**
   * Takes a lock that is exclusive among all who share the store: processes, tabs, machines. Waits for it as long as it takes.
   *
   * It is renewed for as long as its holder lives. One that is not, for `ttl` ms, is taken over by the next: its holder was killed,
   * or paused too long, and then learns of it by {@link Lock.lost}. Since it learns of it late, what it writes has to carry the
   * {@link Lock.fence}. Locks have keys of their own: a lock and a value of one key know nothing of each other.
   *
   * @throws {@link StoreError} when the store fails or is closed meanwhile; the reason of `options.signal` when that aborts.
   */
  lock(key: string, options: LockOptions): Promise<Lock>;
  /** Releases its locks and lets go of what else the store holds. Every later use rejects with {@link StoreError}. */
  close(): Promise<void>;
}

export interface LockOptions {
  /** How long a holder that says nothing still counts, in ms. Each holder's own word counts for its lock. */
  readonly ttl: number;
  /** Gives up waiting: the promise rejects with its reason, once nothing is written for its sake any more. The lock itself does not end by it. */
  readonly signal?: AbortSignal | undefined;
}

export interface Lock {
  /** A fencing number, greater than that of every holder of this key before. */
  readonly fence: number;
  /** Aborts when the lock is lost without having been released: taken over, not renewed in time, or the store was closed. */
  readonly lost: AbortSignal;
  /** Lets go of it, so that the next may have it at once. Does nothing where it is lost or released already. Never rejects. */
  release(): Promise<void>;
}

export interface StoredValue {
  readonly value: string;
  readonly revision: string;
}
