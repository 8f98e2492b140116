import { indexedDbStore } from '../../src/storage/indexeddb-store.ts';
import type { Lock } from '../../src/storage/store.ts';
import { increment } from '../../src/testing/parts.ts';

/** A worker that uses a store of the page's origin, until it is terminated. */

/** Where it is, and what it is to do there. */
export type WorkerTask = { readonly name: string; readonly key: string } & ({ readonly turns: number } | { readonly ttl: number });

/** `ready`: it could begin. `counted`: one more. `held`: the lock is taken. `done`, or it `failed`. */
export type WorkerNews = { readonly told: 'ready' | 'counted' | 'done' } | { readonly told: 'held'; readonly fence: number } | { readonly told: 'failed'; readonly why: string };

const tell = (news: WorkerNews): void => globalThis.postMessage(news);
let lock: Lock | undefined;

async function run({ name, key, ...what }: WorkerTask): Promise<void> {
  const store = indexedDbStore(name);
  if ('ttl' in what) {
    lock = await store.lock(key, what);
    tell({ told: 'held', fence: lock.fence });
    return;
  }
  await store.get(key);
  const begun = new Promise((resolve) => (globalThis.onmessage = resolve));
  tell({ told: 'ready' });
  await begun;
  for (let turn = 0; turn < what.turns; turn++) {
    await increment(store, key);
    tell({ told: 'counted' });
  }
  await store.close();
  tell({ told: 'done' });
}

globalThis.onmessage = ({ data }: MessageEvent<WorkerTask>) => void run(data).catch((error: unknown) => tell({ told: 'failed', why: String(error) }));
