import { rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { redisStore } from '../../src/redis.ts';
import type { Store } from '../../src/storage/store.ts';
import { storeContract } from '../../src/testing.ts';
import type { AnyMessage } from '../support/inbox.ts';
import type { TcpProxy } from '../support/proxy.ts';
import { bundle, lockOf, OtherProcess } from './contract-children.ts';
import { clients, type Connected, type Kind } from './redis-clients.ts';
import { FaultyClient } from './redis-contract-faults.ts';
import { newPrefix, proxyToRedis, redisUrl, removeAll } from './redis-parts.ts';

/** The contract of all stores, for the Redis store with that kind of client. */
export function describeContract(kind: Kind): void {
  describe.skipIf(!redisUrl)(`The Redis store with a client of ${kind}`, () => {
    let proxy: TcpProxy;
    // Where it finds the packages of the clients.
    const script = fileURLToPath(new URL(`../../node_modules/.cache/redis-contract/${kind}-${process.pid}.mjs`, import.meta.url));
    const open = new Map<Store, { prefix: string; connected: Connected; faulty: FaultyClient; others: OtherProcess[] }>();

    beforeAll(async () => {
      proxy = await proxyToRedis();
      await bundle(new URL('redis-store.process.ts', import.meta.url), script);
    });
    afterAll(async () => {
      proxy.stop();
      await rm(script);
    });

    const partOf = (store: Store) => {
      const part = open.get(store);
      if (!part) throw new Error('It is none of these stores.');
      return part;
    };

    const start = (first: Store, task: string, key: string, amount: number, onTold?: (told: AnyMessage) => void): OtherProcess => {
      const { prefix, others } = partOf(first);
      const other = new OtherProcess(script, [task, kind, redisUrl, prefix, key, `${amount}`], onTold);
      others.push(other);
      return other;
    };

    storeContract(
      { describe, it },
      {
        create() {
          const connected = clients[kind](proxy.url.href);
          const prefix = newPrefix();
          const faulty = new FaultyClient(connected.client, proxy);
          const store = redisStore(connected.client, { prefix });
          open.set(store, { prefix, connected, faulty, others: [] });
          return store;
        },
        reopen(first) {
          const { prefix, connected } = partOf(first);
          return redisStore(connected.client, { prefix });
        },
        async destroy(store) {
          const { prefix, connected, others } = partOf(store);
          connected.end();
          await Promise.all(others.map((other) => other.kill()));
          await removeAll(prefix);
        },
        holdElsewhere: (first, key, ttl) => lockOf(start(first, 'hold', key, ttl)),
        async spawn(first, key, turns, counted) {
          const other = start(first, 'increment', key, turns, ({ type }) => type === 'incremented' && counted());
          await other.inbox.next('ready');
          return other.counter;
        },
        failStep: (first, n) => partOf(first).faulty.failStep(n),
        leftovers: (first) => lastingNames(partOf(first).prefix),
        // No `damage`: a client has no access to the bytes, and what Redis has lost or changed it does not tell.

        hang() {
          proxy.blackhole(true);
          return () => proxy.blackhole(false);
        },
      },
    );
  });
}

/** What is in Redis for good, except the counter of fencing numbers. */
async function lastingNames(prefix: string): Promise<string[]> {
  const redis = new Redis(redisUrl);
  const lasting: string[] = [];
  for await (const names of redis.scanStream({ match: `*${prefix}*`, count: 1000 })) {
    for (const name of names as string[]) if (!name.endsWith(':fence') && (await redis.pttl(name)) === -1) lasting.push(name);
  }
  redis.disconnect();
  return lasting;
}
