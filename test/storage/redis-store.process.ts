import { redisStore } from '../../src/redis.ts';
import { increment } from '../../src/testing/parts.ts';
import { next, send } from '../support/client-script.ts';
import { clients, type Kind } from './redis-clients.ts';

/** Another process that uses a Redis store: `<task> <kind of client> <url> <prefix> <key> <amount>`. */
export type Told = { type: 'ready' } | { type: 'incremented' } | { type: 'held'; fence: number } | { type: 'lost' } | { type: 'released' } | { type: 'left' };
export type Said = { type: 'go' } | { type: 'release' } | { type: 'leave' };

const [task, kind, url = '', prefix = '', key = '', amount] = process.argv.slice(2);
const { client, end } = clients[kind as Kind](url);
const store = redisStore(client, { prefix });
const tell = (told: Told): void => send(told);

if (task === 'increment') {
  await store.get(key);
  tell({ type: 'ready' });
  await next<Said>('go');
  for (let turn = 0; turn < Number(amount); turn++) {
    await increment(store, key);
    tell({ type: 'incremented' });
  }
  end();
} else {
  const lock = await store.lock(key, { ttl: Number(amount) });
  lock.lost.addEventListener('abort', () => tell({ type: 'lost' }));
  tell({ type: 'held', fence: lock.fence });
  if ((await next<Said>()).type === 'release') {
    await lock.release();
    tell({ type: 'released' });
  }
  // Without a release: nothing of the lock may keep the process alive.
  end();
}
