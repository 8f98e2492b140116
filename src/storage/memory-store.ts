import { Locks } from './locks.ts';
import { expectRevision, Lifetime, newRevision, requireExpectation, requireString } from './rules.ts';
import type { Lock, LockOptions, Store, StoredValue } from './store.ts';

/**
 * A store in this process's memory: nothing outlives the process, and nothing is shared with another one. Each call makes a
 * store of its own. A lock lasts until it is released: who holds it lives as long as who waits for it, so its ttl is of no use here.
 *
 * Every method rejects with a `TypeError` for a key or value that is not a string, and with a `StoreError` after `close()`,
 * which also forgets what was stored.
 */
export function memoryStore(): Store {
  return new MemoryStore();
}

class MemoryStore implements Store {
  // A Map, not an object: `__proto__` is a key like any other.
  readonly #entries = new Map<string, StoredValue>();
  readonly #lifetime = new Lifetime();
  #fence = 0;
  // Who waits here for its turn waits for nobody else.
  readonly #locks = new Locks(async () => ({ fence: ++this.#fence, release: async () => undefined }));

  async get(key: string): Promise<StoredValue | undefined> {
    requireString('key', key);
    this.#lifetime.check();
    return this.#entries.get(key);
  }

  async set(key: string, value: string, expected?: string | null): Promise<string> {
    requireString('key', key);
    requireString('value', value);
    requireExpectation(expected);
    this.#lifetime.check();
    expectRevision(this.#entries.get(key)?.revision, expected);
    const revision = newRevision();
    this.#entries.set(key, Object.freeze({ value, revision }));
    return revision;
  }

  async delete(key: string, expected?: string): Promise<boolean> {
    requireString('key', key);
    requireExpectation(expected);
    this.#lifetime.check();
    expectRevision(this.#entries.get(key)?.revision, expected);
    return this.#entries.delete(key);
  }

  keys(prefix: string): AsyncIterable<string> {
    requireString('prefix', prefix);
    return this.#keys(prefix);
  }

  async *#keys(prefix: string): AsyncGenerator<string> {
    this.#lifetime.check();
    // A list of its own: what is set while the keys are listed would make the listing endless.
    const keys = [...this.#entries.keys()].filter((key) => key.startsWith(prefix));
    for (const key of keys) {
      this.#lifetime.check();
      yield key;
    }
  }

  async lock(key: string, options: LockOptions): Promise<Lock> {
    return this.#locks.lock(key, options);
  }

  async close(): Promise<void> {
    await Promise.all([this.#lifetime.close(), this.#locks.close()]);
    this.#entries.clear();
  }
}
