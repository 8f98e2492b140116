import { afterIdle, backoffDelay, sleep } from '../timers.ts';
import type { Claim, Claimer } from './locks.ts';
import { ACQUIRE, RELEASE, RENEW } from './redis-scripts.ts';
import type { Outcome, RedisServer } from './redis-server.ts';
import { encode } from './redis-text.ts';
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
      if (status === 'done') return new Holding(wanted, { fence: Number(detail), began }, lose);
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

/** Keeps a lock from expiring, until it is released or lost. */
class Holding implements Claim {
  readonly fence: number;
  readonly #wanted: Wanted;
  readonly #lose: (reason: string) => void;
  #stopRenewal = (): void => undefined;
  #stopEnd = (): void => undefined;
  #released = false;

  constructor(wanted: Wanted, { fence, began }: { fence: number; began: number }, lose: (reason: string) => void) {
    this.#wanted = wanted;
    this.fence = fence;
    this.#lose = lose;
    this.#holdsSince(began);
    this.#renewIn(wanted.ttl / 3);
  }

  async release(): Promise<void> {
    this.#released = true;
    this.#stopRenewal();
    this.#stopEnd();
    const { redis, name, token } = this.#wanted;
    await redis.run(RELEASE, [name], [token]);
  }

  /** From before it was asked for: in Redis it can only last longer, so nobody else has it before this ends. */
  #holdsSince(began: number): void {
    this.#stopEnd();
    this.#stopEnd = afterIdle(began + this.#wanted.ttl - performance.now(), () => this.#lose('A lock could not be renewed in time.'));
  }

  #renewIn(delay: number): void {
    this.#stopRenewal = afterIdle(delay, () => void this.#renew());
  }

  async #renew(): Promise<void> {
    const { redis, name, token, ttl } = this.#wanted;
    const began = performance.now();
    // A server that fails for a moment is asked again soon; one that goes on failing lets the time run out.
    const ours = await redis.run(RENEW, [name], [token, String(ttl)]).then(Number, () => undefined);
    if (this.#released) return;
    if (ours === 0) {
      this.#lose('A lock that was not renewed in time has expired, and may be another\'s.');
      return;
    }
    if (ours) this.#holdsSince(began);
    this.#renewIn(ttl / (ours ? 3 : 10));
  }
}
