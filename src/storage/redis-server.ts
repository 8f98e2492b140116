import { StoreError } from '../errors.ts';
import { after } from '../timers.ts';
import { listOf, type RedisClient, redisFailure, type Wire, wireOf } from './redis-client.ts';
import type { Script } from './redis-scripts.ts';

/** How long an operation may take, in ms: whoever waits for it is told within 3 s. */
const LIMIT = 2_500;

type Send = (...command: string[]) => Promise<unknown>;

/** What became of a command that had to be done in time. */
export interface Outcome {
  readonly status: string;
  readonly detail: unknown;
}

/**
 * A Redis server by way of the caller's client. Whatever the client does when its server hangs or is gone (it may wait, queue, resend),
 * everything here settles within {@link LIMIT}, and fails with a {@link StoreError}.
 */
export class RedisServer {
  readonly #wire: Wire;
  /** What the server's clock is ahead of ours, in ms. Not known before its first reply; the first command is "late", and so asks for it. */
  #ahead = Number.NEGATIVE_INFINITY;

  constructor(client: RedisClient) {
    this.#wire = wireOf(client);
  }

  get keyPrefix(): string {
    return this.#wire.keyPrefix;
  }

  get resends(): boolean {
    return this.#wire.resends;
  }

  command(...command: string[]): Promise<unknown> {
    return this.#bounded((send) => send(...command));
  }

  /** When an operation that begins now has to end, by `performance.now()`. */
  limit(): number {
    return performance.now() + LIMIT;
  }

  run(script: Script, keys: readonly string[], args: readonly string[], end = this.limit()): Promise<unknown> {
    return this.#bounded((send) => evaluate(send, script, keys, args), end);
  }

  /** Runs a script that takes a last moment: when this has failed, it is done already or never will be. */
  runInTime(script: Script, keys: readonly string[], args: readonly string[], end = this.limit()): Promise<Outcome> {
    return this.#bounded(async (send) => {
      for (;;) {
        const last = Math.max(0, Math.floor(this.#ahead + end));
        const [status, now, detail] = listOf(await evaluate(send, script, keys, [String(last), ...args]));
        // Measured anew each time: either clock may be set, and the server may be another one after a failover.
        this.#ahead = Number(now) - performance.now();
        if (status !== 'late') return { status: String(status), detail };
      }
    }, end);
  }

  async #bounded<T>(work: (send: Send) => Promise<T>, end = this.limit()): Promise<T> {
    const limit = new AbortController();
    const { signal } = limit;
    const send: Send = async (...command) => {
      if (signal.aborted) throw late();
      return this.#wire.send(command, signal);
    };
    let stop = (): void => {};
    const timeout = new Promise<never>((_, reject) => {
      stop = after(end - performance.now(), () => {
        // First the error that the caller gets, then those of the commands that are taken back by it.
        reject(late());
        limit.abort();
      });
    });
    try {
      return await Promise.race([work(send), timeout]);
    } catch (error) {
      throw redisFailure(error);
    } finally {
      stop();
    }
  }
}

/** A server forgets its scripts when it restarts; with the text it learns them again. */
async function evaluate(send: Send, { sha, text }: Script, keys: readonly string[], args: readonly string[]): Promise<unknown> {
  const rest = [String(keys.length), ...keys, ...args];
  try {
    return await send('evalsha', sha, ...rest);
  } catch (error) {
    if (!String((error as Error | undefined)?.message).startsWith('NOSCRIPT')) throw error;
    return send('eval', text, ...rest);
  }
}

function late(): StoreError {
  return new StoreError(`Redis did not answer within ${LIMIT / 1_000} s.`);
}
