/**
 * Where sessions are kept. Keys and values are strings; a value is opaque to the store.
 *
 * Every write returns a new revision, and a revision is never used twice for one key, not even after a delete: that is what
 * makes compare-and-set safe among processes. A store may fail at any time; its callers degrade, they never fail a call for it.
 */
export interface Store {
  /** The value and its revision, or `undefined` when there is none. */
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
  /** The keys that start with `prefix`, in no particular order. */
  keys(prefix: string): AsyncIterable<string>;
  /** Lets go of what the store holds. Every later use rejects with {@link StoreError}. */
  close(): Promise<void>;
}

export interface StoredValue {
  readonly value: string;
  readonly revision: string;
}
