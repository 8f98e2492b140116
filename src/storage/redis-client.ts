import { StoreError } from '../errors.ts';

/** A client of the package `redis` (node-redis 4 or 5), or a pool of them: as much of it as a store needs. */
export interface NodeRedisClient {
  sendCommand(args: string[], options?: { abortSignal?: AbortSignal; typeMapping?: Record<never, never> }): Promise<unknown>;
}

/** A client of the package `ioredis`, also one that finds its server by Sentinel: as much of it as a store needs. */
export interface IoRedisClient {
  call(command: string, ...args: string[]): Promise<unknown>;
  readonly options?: { readonly keyPrefix?: string | undefined; readonly autoResendUnfulfilledCommands?: boolean | undefined };
}

export type RedisClient = NodeRedisClient | IoRedisClient;

/** What both kinds of client are to the store. */
export interface Wire {
  /** Sends a command. The reply is made of strings, numbers, arrays and `null`. What is not sent when the signal aborts, may stay unsent. */
  send(command: string[], signal: AbortSignal): Promise<unknown>;
  /** What the client puts before each key that it knows to be one: it neither does so in a pattern, nor takes it off in a reply. */
  readonly keyPrefix: string;
  /** Whether the client sends a command once more when its connection is lost before the reply. */
  readonly resends: boolean;
}

/**
 * Tells the two kinds of client apart, by what they can do.
 *
 * @throws TypeError when it is neither.
 */
export function wireOf(client: RedisClient): Wire {
  const { call, sendCommand, options, isCluster } = (client ?? {}) as Partial<NodeRedisClient & IoRedisClient & { isCluster: boolean }>;
  if (typeof call === 'function' && isCluster !== true) {
    return {
      // In lower case: an older ioredis does not see a command's keys otherwise.
      send: ([command = '', ...args]) => (client as IoRedisClient).call(command, ...args),
      keyPrefix: String(options?.keyPrefix ?? ''),
      resends: options?.autoResendUnfulfilledCommands !== false,
    };
  }
  // A cluster's and a sentinel's take further arguments in front.
  if (typeof call !== 'function' && typeof sendCommand === 'function' && sendCommand.length <= 2) {
    return {
      // The caller's own mapping of types could make Buffers of the replies.
      send: (command, abortSignal) => (client as NodeRedisClient).sendCommand(command, { abortSignal, typeMapping: {} }),
      keyPrefix: '',
      resends: false,
    };
  }
  throw new TypeError('redisStore() needs a client of the package `redis` (4 or 5) or `ioredis`, and not one of a cluster.');
}

/**
 * What the client says of a failure, for a `cause`. Without the command, which ioredis hangs onto its errors and some servers repeat in
 * their text: it holds keys and values, and a logger prints all of a cause.
 */
export function redisFailure(error: unknown): StoreError {
  if (error instanceof StoreError) return error;
  const { name = 'Error', message = '', code } = (error ?? {}) as Partial<Error & { code: unknown }>;
  const cause = new Error(message.replace(/,? with args beginning with[^]*/, ''));
  cause.name = name;
  return new StoreError('Redis failed.', { cause: code === undefined ? cause : Object.assign(cause, { code }) });
}

/** A reply that must be a list. */
export function listOf(reply: unknown): readonly unknown[] {
  if (Array.isArray(reply)) return reply;
  throw new StoreError('Redis gave an answer that makes no sense.');
}
