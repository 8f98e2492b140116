import { afterAll, beforeAll, describe, it } from 'vitest';
import { redisStore } from '../../src/redis.ts';
import type { Store } from '../../src/storage/store.ts';
import { type HeldElsewhere, storeContract } from '../../src/testing.ts';
import { type ClientProcess, runScript } from '../support/client-process.ts';
import type { TcpProxy } from '../support/proxy.ts';
import { clients, type Connected, type Kind } from './redis-clients.ts';
import { newPrefix, proxyToRedis, redisUrl, removeAll } from './redis-parts.ts';
import type { Said, Told } from './redis-store.process.ts';

type Holder = ClientProcess<Told, Said>;

/** The contract of all stores, for the Redis store with that kind of client. */
export function describeContract(kind: Kind): void {
  describe.skipIf(!redisUrl)(`The Redis store with a client of ${kind}`, () => {
    let proxy: TcpProxy;
    const open = new Map<Store, { prefix: string; connected: Connected; holders: Holder[] }>();

    beforeAll(async () => {
      proxy = await proxyToRedis();
    });
    afterAll(() => proxy.stop());

    const partOf = (store: Store) => {
      const part = open.get(store);
      if (!part) throw new Error('It is none of these stores.');
      return part;
    };

    storeContract(
      { describe, it },
      {
        create() {
          const connected = clients[kind](proxy.url.href);
          const prefix = newPrefix();
          const store = redisStore(connected.client, { prefix });
          open.set(store, { prefix, connected, holders: [] });
          return store;
        },
        reopen(first) {
          const { prefix, connected } = partOf(first);
          return redisStore(connected.client, { prefix });
        },
        async destroy(store) {
          const { prefix, connected, holders } = partOf(store);
          connected.end();
          await Promise.all(holders.map((holder) => holder.kill()));
          await removeAll(prefix);
        },
        async holdElsewhere(first, key, ttl) {
          const { prefix, holders } = partOf(first);
          const holder = startHolder(kind, prefix, key, ttl);
          holders.push(holder);
          return heldBy(holder);
        },
        hang() {
          proxy.blackhole(true);
          return () => proxy.blackhole(false);
        },
      },
    );
  });
}

function startHolder(kind: Kind, prefix: string, key: string, ttl: number): Holder {
  return runScript<Told, Said>(new URL('./redis-store.process.ts', import.meta.url), ['hold', kind, redisUrl, prefix, key, `${ttl}`]);
}

/** The lock of another process, which can be stopped as the system does it. */
async function heldBy(holder: Holder): Promise<HeldElsewhere> {
  const { fence } = await holder.next('held');
  const lost = new AbortController();
  void holder.next('lost').then(
    () => lost.abort(),
    () => undefined,
  );
  return {
    lock: {
      fence,
      lost: lost.signal,
      async release() {
        holder.send({ type: 'release' });
        await holder.next('released');
      },
    },
    pause: () => void process.kill(holder.pid as number, 'SIGSTOP'),
    resume: () => void process.kill(holder.pid as number, 'SIGCONT'),
  };
}
