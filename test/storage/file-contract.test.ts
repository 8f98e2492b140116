import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'vitest';
import { fileStore } from '../../src/storage/file-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { type HeldElsewhere, storeContract } from '../../src/testing.ts';
import { killed, startProcess } from './file-children.ts';

const directories = new WeakMap<Store, string>();
/** What is to be ended with a store's case. */
const children = new WeakMap<Store, () => Promise<void>>();

const directoryOf = (store: Store): string => directories.get(store) as string;

/** A lock of another process, which can be stopped as the system does it. */
async function holdElsewhere(first: Store, key: string, ttl: number): Promise<HeldElsewhere> {
  const child = startProcess('hold', directoryOf(first), key, `${ttl}`);
  children.set(first, () => killed(child));
  const [said] = (await once(child, 'message')) as [string];
  const lost = new AbortController();
  const released = new Promise<void>((resolve) => {
    child.on('message', (message) => (message === 'lost' ? lost.abort() : resolve()));
  });
  return {
    lock: {
      fence: Number(said.split(' ')[1]),
      lost: lost.signal,
      async release() {
        child.send('release');
        await released;
      },
    },
    pause: () => void child.kill('SIGSTOP'),
    resume: () => void child.kill('SIGCONT'),
  };
}

describe.concurrent('The file store', () => {
  storeContract(
    { describe, it },
    {
      async create() {
        const directory = await mkdtemp(join(tmpdir(), 'mcp-reprise-'));
        const store = fileStore(directory);
        directories.set(store, directory);
        return store;
      },
      reopen: (first) => fileStore(directoryOf(first)),
      async destroy(first) {
        await children.get(first)?.();
        await rm(directoryOf(first), { recursive: true });
      },
      holdElsewhere,
    },
  );
});
