import { backoffDelay, sleep } from '../timers.ts';
import type { Claim, Claimer } from './locks.ts';
import { ACQUIRE, RELEASE, RENEW } from './redis-scripts.ts';
import type { Outcome, RedisServer } from './redis-server.ts';
import { encode } from './redis-text.ts';
import { Renewal } from './renewal.ts';
import { newRevision } from './rules.ts';

/** How often one who waits asks, in ms. Redis tells of a lock that is free only to who has a connection for that alone. */
const POLL = { min: 10, max: 250, factor: 1.5, floor: 0.5 };

/** A lock that somebody wants, or has. */
interface Wanted {
  readonly redis: RedisServer;
  readonly name: string;
  /** The counter of the fencing numbers, one for all locks: a counter for each would stay for ever. */
  readonly fences: string;
  /** Says whose it is. */
  readonly token: string;
  /** In whole ms. */
  readonly ttl: number;
}

/** Takes locks in Redis. Each is a key that holds its holder's token and fencing number, and expires unless it is renewed. */
export function redisClaimer(redis: RedisServer, prefix: string): Claimer {
  return async (key, { ttl, signal, lose }) => {
    const wanted: Wanted = { redis, name: `${prefix}lock:${encode(key)}`, fences: `${prefix}fence`, token: newRevision(), ttl: Math.ceil(ttl) };
    for (let attempt = 0; ; attempt++) {
      const began = performance.now();
      const { status, detail } = await askFor(wanted);
      if (status === 'done') return held(wanted, Number(detail), began, lose);
      // One that is about to expire may be free before the next turn. (Below 0: it never expires, so it is none of ours.)
      const left = Number(detail) >= 0 ? Number(detail) : POLL.max;
      await sleep(Math.min(backoffDelay(POLL, attempt), left), signal);
    }
  };
}

async function askFor({ redis, name, fences, token, ttl }: Wanted): Promise<Outcome> {
  const end = redis.limit();
  try {
    return await redis.runInTime(ACQUIRE, [name, fences], [token, String(ttl)], end);
  } catch (error) {
    // It may be ours all the same, and nobody would know.
    await redis.run(RELEASE, [name], [token], end).catch(() => undefined);
    throw error;
  }
}

/** A lock that was given to us at `began`. */
function held({ redis, name, token, ttl }: Wanted, fence: number, began: number, lose: (reason: string) => void): Claim {
  const renew = async (): Promise<boolean> => Number(await redis.run(RENEW, [name], [token, String(ttl)])) !== 0;
  const renewal = new Renewal({ ttl, began, retry: ttl / 10, renew, lose });
  return {
    fence,
    async release() {
      renewal.stop();
      await redis.run(RELEASE, [name], [token]);
    },
  };
}
