import { StoreError } from '../errors.ts';
import { Locks } from './locks.ts';
import { listOf, type RedisClient } from './redis-client.ts';
import { redisClaimer } from './redis-lock.ts';
import { CHANGE } from './redis-scripts.ts';
import { RedisServer } from './redis-server.ts';
import { decode, encode, startingWith } from './redis-text.ts';
import { expectRevision, Lifetime, newRevision, requireExpectation, requireString } from './rules.ts';
import type { Lock, LockOptions, Store, StoredValue } from './store.ts';

export type { RedisClient };

export interface RedisStoreOptions {
  /** What the names of all keys in Redis begin with. Stores with the same prefix share their data. Default `'mcp-reprise:'`. */
  readonly prefix?: string;
  /** How long Redis keeps a value after its last write, in ms; then it is as if it had been deleted. Default: for ever. */
  readonly ttl?: number;
}

/** What an entry in Redis begins with: its revision. The value follows. */
const REVISION = /^[0-9a-f]{32}/;
/** How many keys one step of a listing looks at. */
const STEP = '1000';

/**
 * A store in Redis (5 or later) or Valkey, shared by all processes and machines that use the same server: the store for fleets.
 *
 * Every operation ends within 3 s, whatever the client is set to. One that failed for a lost connection or a silent server may have
 * been done all the same, but is not done later: read again to know. Once the client has connected again, the store works again.
 * It lasts as your Redis does: a replica that takes over too early lacks the last writes, and may give away a lock that is held. Fencing
 * numbers go on rising even then.
 *
 * Every method rejects with a `TypeError` for a key or value that is not a string, and with a {@link StoreError} when Redis fails or does
 * not answer (the reason is its `cause`) and after `close()`. A listing of keys looks through the whole database, 1,000 keys at a time.
 *
 * @param client - Your own client, of `redis` (node-redis 4 or 5) or `ioredis`, connected by you and with a listener for its errors. The
 *   store leaves its connection alone: `close()` ends the store, not the client. Not one of a Redis Cluster.
 * @throws TypeError or RangeError when the client or an option makes no sense.
 */
export function redisStore(client: RedisClient, options: RedisStoreOptions = {}): Store {
  const { prefix = 'mcp-reprise:', ttl, ...others } = options;
  const [stranger] = Object.keys(others);
  if (stranger !== undefined) throw new TypeError(`redisStore() has no option "${stranger}"; it knows prefix, ttl`);
  requireString('prefix', prefix);
  if (ttl !== undefined && typeof ttl !== 'number') throw new TypeError('ttl must be a number of milliseconds');
  if (ttl !== undefined && !(ttl > 0)) throw new RangeError(`ttl must be above 0 ms, not ${ttl}`);
  // More than Redis can count is for ever too.
  const expiry = ttl !== undefined && ttl < Number.MAX_SAFE_INTEGER ? Math.ceil(ttl) : 0;
  return new RedisStore(new RedisServer(client), encode(prefix), expiry);
}

class RedisStore implements Store {
  readonly #redis: RedisServer;
  readonly #prefix: string;
  readonly #ttl: number;
  readonly #lifetime = new Lifetime();
  readonly #locks: Locks;

  constructor(redis: RedisServer, prefix: string, ttl: number) {
    this.#redis = redis;
    this.#prefix = prefix;
    this.#ttl = ttl;
    this.#locks = new Locks(redisClaimer(redis, prefix));
  }

  async get(key: string): Promise<StoredValue | undefined> {
    requireString('key', key);
    return this.#lifetime.run(async () => storedValue(await this.#redis.command('get', this.#values + encode(key))));
  }

  async set(key: string, value: string, expected?: string | null): Promise<string> {
    requireString('key', key);
    requireString('value', value);
    requireExpectation(expected);
    const revision = newRevision();
    await this.#change(key, expected, revision + encode(value));
    return revision;
  }

  async delete(key: string, expected?: string): Promise<boolean> {
    requireString('key', key);
    requireExpectation(expected);
    return this.#change(key, expected);
  }

  keys(prefix: string): AsyncIterable<string> {
    requireString('prefix', prefix);
    return this.#keys(prefix);
  }

  lock(key: string, options: LockOptions): Promise<Lock> {
    return this.#locks.lock(key, options);
  }

  async close(): Promise<void> {
    await Promise.all([this.#lifetime.close(), this.#locks.close()]);
  }

  get #values(): string {
    return `${this.#prefix}value:`;
  }

  async *#keys(prefix: string): AsyncGenerator<string> {
    const place = this.#redis.keyPrefix + this.#values;
    const pattern = startingWith(place, prefix);
    // Redis may tell of a key twice, when its table grows or shrinks meanwhile.
    const seen = new Set<string>();
    let cursor = '0';
    do {
      const step = () => this.#redis.command('scan', cursor, 'match', pattern, 'count', STEP);
      const [next, names] = listOf(await this.#lifetime.run(step));
      for (const name of listOf(names)) {
        const key = decode(String(name).slice(place.length));
        if (seen.has(key) || !key.startsWith(prefix)) continue;
        seen.add(key);
        this.#lifetime.check();
        yield key;
      }
      cursor = String(next);
    } while (cursor !== '0');
  }

  /** Writes an entry, or removes the one that is there. Returns whether something was changed. */
  async #change(key: string, expected: string | null | undefined, entry?: string): Promise<boolean> {
    return this.#lifetime.run(async () => {
      const names = [this.#values + encode(key)];
      if (this.#redis.resends) names.push(`${this.#prefix}done:${newRevision()}`);
      const { status, detail } = await this.#redis.runInTime(CHANGE, names, [expectation(expected), String(this.#ttl), ...(entry === undefined ? [] : [entry])]);
      if (status === 'conflict') expectRevision(String(detail) || undefined, expected);
      return status === 'done';
    });
  }
}

function expectation(expected: string | null | undefined): string {
  if (expected === undefined) return 'any';
  return expected === null ? 'none' : `is${expected}`;
}

function storedValue(reply: unknown): StoredValue | undefined {
  if (reply === null) return undefined;
  const entry = String(reply);
  if (!REVISION.test(entry)) throw new StoreError('Redis holds something here that this library did not write.');
  return { revision: entry.slice(0, 32), value: decode(entry.slice(32)) };
}
