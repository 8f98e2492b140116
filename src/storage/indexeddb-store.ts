import { createStore, get, keys, promisifyRequest, update, type UseStore } from 'idb-keyval';
import { ConflictError, StoreError } from '../errors.ts';
import { after } from '../timers.ts';
import { casClaimer, joined, type Values } from './cas-lock.ts';
import { expectRevision, Lifetime, newRevision, requireExpectation, requireString } from './rules.ts';
import type { Store, StoredValue } from './store.ts';
import { webClaimer } from './web-lock.ts';

/** How long an operation may take, in ms. Some browsers leave the opening of a database hanging for ever. */
const LIMIT = 3_000;
/** The object store inside the database. */
const ENTRIES = 'entries';

/**
 * A store in the browser's IndexedDB, shared by all the tabs and workers of one origin.
 *
 * Nothing happens before the first use: the database is opened then, and once more whenever the browser has closed it. Every
 * operation ends within 3 s; one that would take longer is taken back, so that it writes nothing later.
 *
 * Locks are the browser's own (Web Locks) where it has them: they end with their tab. Elsewhere, as on a page without TLS, they are
 * records in the database; a tab in the background may be too slow to renew those.
 *
 * Every method rejects with a `TypeError` for a key or value that is not a string, and with a {@link StoreError} when IndexedDB is
 * missing, fails or hangs (the reason is its `cause`) and after `close()`.
 *
 * @param name - The name of the database; stores of the same name share their data.
 * @throws TypeError when `name` is not a string or is empty.
 */
export function indexedDbStore(name = 'mcp-reprise'): Store {
  if (typeof name !== 'string' || name === '') throw new TypeError('An IndexedDB store needs the name of a database.');
  // In the same database, and no value has a key that is not a string.
  const records = new Entries(name, (key) => ['lock', key]);
  const { locks } = (globalThis.navigator ?? {}) as { readonly locks?: LockManager };
  return joined(new Entries(name, (key) => key), records, locks ? webClaimer(locks, name, records) : casClaimer(records));
}

interface Connection {
  readonly use: UseStore;
  /** The open database, known from the first transaction on. */
  database?: IDBDatabase;
}

class Entries implements Values {
  readonly #name: string;
  readonly #id: (key: string) => IDBValidKey;
  readonly #lifetime = new Lifetime();
  #connection: Connection | undefined;

  /** @param id - The key in the database that stands for one of ours. */
  constructor(name: string, id: (key: string) => IDBValidKey) {
    this.#name = name;
    this.#id = id;
  }

  async get(key: string): Promise<StoredValue | undefined> {
    requireString('key', key);
    return this.#run(async (use) => storedValue(await get<unknown>(this.#id(key), use)));
  }

  async set(key: string, value: string, expected?: string | null): Promise<string> {
    requireString('key', key);
    requireString('value', value);
    requireExpectation(expected);
    return this.#run(async (use) => {
      const revision = newRevision();
      // One transaction: what the check throws leaves it without a write.
      const checked = (before: unknown): StoredValue => {
        expectRevision(storedValue(before)?.revision, expected);
        return { value, revision };
      };
      await update<unknown>(this.#id(key), checked, use);
      return revision;
    });
  }

  async delete(key: string, expected?: string): Promise<boolean> {
    requireString('key', key);
    requireExpectation(expected);
    return this.#run((use) =>
      use('readwrite', async (entries) => {
        const before = storedValue(await promisifyRequest<unknown>(entries.get(this.#id(key))));
        expectRevision(before?.revision, expected);
        if (before === undefined) return false;
        entries.delete(this.#id(key));
        await promisifyRequest(entries.transaction);
        return true;
      }),
    );
  }

  keys(prefix: string): AsyncIterable<string> {
    requireString('prefix', prefix);
    return this.#keys(prefix);
  }

  async *#keys(prefix: string): AsyncGenerator<string> {
    for (const key of await this.#run((use) => keys(use))) {
      this.#lifetime.check();
      if (typeof key === 'string' && key.startsWith(prefix)) yield key;
    }
  }

  async close(): Promise<void> {
    await this.#lifetime.close();
    if (this.#connection) this.#drop(this.#connection);
  }

  #run<T>(work: (use: UseStore) => Promise<T>): Promise<T> {
    return this.#lifetime.run(async () => {
      const limit = new AbortController();
      const stop = after(LIMIT, () => limit.abort());
      try {
        return await this.#attempt(work, limit.signal);
      } catch (error) {
        if (error instanceof StoreError) throw error;
        throw new StoreError('IndexedDB failed.', { cause: error });
      } finally {
        stop();
      }
    });
  }

  async #attempt<T>(work: (use: UseStore) => Promise<T>, limit: AbortSignal): Promise<T> {
    const connection = (this.#connection ??= { use: createStore(this.#name, ENTRIES) });
    let begun = false;
    const use: UseStore = (mode, callback) =>
      connection.use(mode, (entries) => {
        begun = true;
        this.#adopt(connection, entries.transaction.db);
        if (limit.aborted) {
          // The database was opened at last, but nobody waits for it any more.
          this.#drop(connection);
          throw late();
        }
        limit.addEventListener('abort', () => abortQuietly(entries.transaction), { once: true });
        return callback(entries);
      });
    try {
      return await within(work(use), limit);
    } catch (error) {
      if (error instanceof ConflictError) throw error;
      // Whatever is wrong with this connection, the next use begins with a new one.
      this.#drop(connection);
      // It was open once, but the browser has closed it behind our back, so nothing was done yet.
      const lost = connection.database !== undefined && !begun;
      if (lost && !limit.aborted) return await this.#attempt(work, limit);
      throw error;
    }
  }

  #adopt(connection: Connection, database: IDBDatabase): void {
    connection.database = database;
    // Another tab wants to delete or upgrade the database, which an open connection would block for ever.
    database.onversionchange = () => this.#drop(connection);
  }

  #drop(connection: Connection): void {
    if (this.#connection === connection) this.#connection = undefined;
    connection.database?.close();
  }
}

function storedValue(entry: unknown): StoredValue | undefined {
  if (entry === undefined) return undefined;
  const { value, revision } = (entry ?? {}) as Partial<Record<keyof StoredValue, unknown>>;
  if (typeof value === 'string' && typeof revision === 'string') return { value, revision };
  throw new StoreError('The IndexedDB database holds something that this library did not write.');
}

/** Settles as `work` does, or rejects when the limit passes. */
async function within<T>(work: Promise<T>, limit: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    limit.addEventListener('abort', () => reject(late()), { once: true });
    work.then(resolve, reject);
  });
}

function late(): StoreError {
  return new StoreError(`IndexedDB did not answer within ${LIMIT / 1_000} s.`);
}

function abortQuietly(transaction: IDBTransaction): void {
  try {
    transaction.abort();
  } catch {
    // Over already.
  }
}
