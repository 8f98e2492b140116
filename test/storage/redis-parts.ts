import { randomUUID } from 'node:crypto';
import { Redis } from 'ioredis';
import { inject, onTestFinished } from 'vitest';
import { type RedisClient, redisStore, type RedisStoreOptions } from '../../src/redis.ts';
import type { Store } from '../../src/storage/store.ts';
import { startProxy, type TcpProxy } from '../support/proxy.ts';
import { clients, type Kind } from './redis-clients.ts';

/** Where the tests' Redis is; `''` when there is none, and then they are skipped. */
export const redisUrl = inject('redisUrl');

/** A part of the tests' Redis for one test: it may be somebody's, who has other things there. */
export function newPrefix(): string {
  return `test:${randomUUID()}:`;
}

/** What is to be done at the end of a test. Tests that run side by side each have their own. */
export type AtEnd = typeof onTestFinished;

/** A client that is ended with the test. */
export function clientOf(kind: Kind, url = redisUrl, atEnd: AtEnd = onTestFinished): RedisClient {
  const { client, end } = clients[kind](url);
  atEnd(end);
  return client;
}

interface StoreOptions extends RedisStoreOptions {
  readonly url?: string;
  readonly atEnd?: AtEnd;
}

/** A store that is closed with the test, and whose data are removed then. */
export function storeOf(kind: Kind, { url, atEnd = onTestFinished, prefix = newPrefix(), ...options }: StoreOptions = {}): Store {
  const store = redisStore(clientOf(kind, url, atEnd), { prefix, ...options });
  atEnd(async () => {
    await store.close();
    await removeAll(prefix);
  });
  return store;
}

/** A bad network between a store and Redis. */
export async function proxyToRedis(): Promise<TcpProxy> {
  const target = new URL(redisUrl);
  target.port ||= '6379';
  return startProxy(target);
}

/** Redis itself, beside the stores. */
export function admin(): Redis {
  const redis = new Redis(redisUrl);
  onTestFinished(() => redis.disconnect());
  return redis;
}

/** Removes what is under a {@link newPrefix}, also where a client has put something before that. */
export async function removeAll(prefix: string): Promise<void> {
  const redis = new Redis(redisUrl);
  for await (const keys of redis.scanStream({ match: `*${prefix}*`, count: 1000 })) {
    if ((keys as string[]).length > 0) await redis.del(keys as string[]);
  }
  redis.disconnect();
}

export async function listed(store: Store, prefix = ''): Promise<string[]> {
  const keys: string[] = [];
  for await (const key of store.keys(prefix)) keys.push(key);
  return keys.sort();
}

/** What something fails with. */
export async function failureOf(work: Promise<unknown>): Promise<Error> {
  return work.then(
    () => Promise.reject(new Error('it should have failed')),
    (error: unknown) => error as Error,
  );
}
