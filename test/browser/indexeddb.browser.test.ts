import { describe, it } from 'vitest';
import { indexedDbStore } from '../../src/browser.ts';
import type { Store } from '../../src/storage/store.ts';
import { type Counter, type HeldElsewhere, storeContract } from '../../src/testing.ts';
import { failStepIn } from '../storage/indexeddb-contract-faults.ts';
import { namesIn, occupy } from '../storage/indexeddb-tabs.ts';
import type { WorkerNews, WorkerTask } from './indexeddb.worker.ts';

const names = new WeakMap<Store, string>();
const nameOf = (store: Store): string => names.get(store) as string;

/** A worker at its task. It is another agent: what it has and waits for ends with it, as with a tab. */
function workerAt(task: WorkerTask): { readonly worker: Worker; heard(told: WorkerNews['told']): Promise<WorkerNews> } {
  const worker = new Worker(new URL('./indexeddb.worker.ts', import.meta.url), { type: 'module' });
  worker.postMessage(task);
  return {
    worker,
    heard: (told) =>
      new Promise((resolve, reject) => {
        worker.addEventListener('error', ({ message }) => reject(new Error(message)));
        worker.addEventListener('message', ({ data }: MessageEvent<WorkerNews>) => {
          if (data.told === told) resolve(data);
          else if (data.told === 'failed') reject(new Error(data.why));
        });
      }),
  };
}

async function spawn(first: Store, key: string, turns: number, counted: () => void): Promise<Counter> {
  const { worker, heard } = workerAt({ name: nameOf(first), key, turns });
  let killed = (): void => undefined;
  const gone = new Promise<void>((resolve) => (killed = resolve));
  const done = heard('done').finally(() => worker.terminate());
  done.catch(() => undefined);
  await heard('ready');
  worker.addEventListener('message', ({ data }: MessageEvent<WorkerNews>) => {
    if (data.told === 'counted') counted();
  });
  return {
    run() {
      worker.postMessage('begin');
      return Promise.race([gone, done]);
    },
    kill() {
      // What it says from now on is heard by nobody.
      worker.terminate();
      killed();
    },
  };
}

async function holdElsewhere(first: Store, key: string, ttl: number): Promise<HeldElsewhere> {
  const { worker, heard } = workerAt({ name: nameOf(first), key, ttl });
  const held = await heard('held');
  const { fence } = held as WorkerNews & { told: 'held' };
  return { lock: { fence, lost: new AbortController().signal, release: async () => worker.terminate() }, pause: () => worker.terminate() };
}

describe('The IndexedDB store in a browser', () => {
  storeContract(
    { describe, it },
    {
      create() {
        const name = crypto.randomUUID();
        const store = indexedDbStore(name);
        names.set(store, name);
        return store;
      },
      reopen: (first) => indexedDbStore(nameOf(first)),
      spawn,
      holdElsewhere,
      // One that stands still without being gone keeps its lock.
      pausesForGood: true,
      hang: (first) => occupy(nameOf(first)),
      failStep: (first, n) => failStepIn(nameOf(first), n),
      // No `damage`: the bytes are the browser's, and a page cannot get at them.
      leftovers: (first) => namesIn(nameOf(first)),
      // Nothing is renewed here, so nothing can be late.
      ttl: 200,
    },
  );
});
