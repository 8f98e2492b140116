import { checkTtl } from '../checks.ts';
import type { ConnectOptions } from '../options.ts';
import { fileStore, type FileStoreOptions } from '../storage/file-store.ts';
import { memoryStore } from '../storage/memory-store.ts';
import type { RedisClient } from '../storage/redis-client.ts';
import { redisStore } from '../storage/redis-store.ts';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

/** Options for the usual situations: plain objects, to be spread and changed. What they do not name has its default. */
export const presets = {
  /**
   * On a developer's machine: sessions live as long as the process (`store`: memory, `ttl`: 10 minutes), failures show soon
   * (`timeout`: 5 s to connect, 30 s a call), and the history keeps the last 1,000 calls with arguments and results.
   */
  development(): ConnectOptions {
    return {
      store: memoryStore(),
      ttl: 10 * MINUTE,
      timeout: { connect: 5_000, call: 30_000 },
      history: { size: 1_000, payloads: true },
    };
  },

  /**
   * One machine, any number of processes: sessions are files in `directory`, and are kept for 24 hours since their last use. A damaged
   * file is told to `onDamaged`; without it, the process warns of it (`MCP_REPRISE_DAMAGED`).
   */
  singleNode({ directory, ...options }: { readonly directory: string } & FileStoreOptions): ConnectOptions {
    if (typeof directory !== 'string' || directory === '') throw new TypeError('presets.singleNode needs a directory: { directory: \'.sessions\' }');
    return { store: fileStore(directory, options), ttl: 24 * HOUR };
  },

  /**
   * Many machines: sessions are in Redis and are kept for `ttl` since their last use (in ms, default 24 hours; `Infinity` is allowed).
   * Redis itself forgets them an hour later, which leaves `Sessions.startCleanup()` the time to end them on their servers; so a longer
   * `ttl` is to be given here, and not to the object that comes of it, whose store does not learn of it. With many
   * clients on one server each is modest: at most 32 calls in flight, and where the server cannot be reached 10 times in a row,
   * calls fail at once until it can be.
   */
  fleet({ redis, ttl = 24 * HOUR, ...others }: { readonly redis: RedisClient; readonly ttl?: number }): ConnectOptions {
    const [stranger] = Object.keys(others);
    if (stranger !== undefined) throw new TypeError(`presets.fleet has no "${stranger}"; it knows redis, ttl. What a client knows is spread beside it: { ...presets.fleet({ redis }), ${stranger}: … }`);
    checkTtl(ttl);
    return {
      store: redisStore(redis, { ttl: ttl + HOUR }),
      ttl,
      concurrency: 32,
      circuitBreaker: { failures: 10 },
    };
  },
};
