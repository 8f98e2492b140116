import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'vitest';
import { fileStore } from '../../src/storage/file-store.ts';
import { type HeldElsewhere, storeContract } from '../../src/testing.ts';
import { killed, startProcess } from './file-children.ts';

let directory: string;
let children: ChildProcess[] = [];

/** A lock of another process, which can be stopped as the system does it. */
async function holdElsewhere(_: unknown, key: string, ttl: number): Promise<HeldElsewhere> {
  const child = startProcess('hold', directory, key, `${ttl}`);
  children.push(child);
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

describe('The file store', () => {
  storeContract(
    { describe, it },
    {
      async create() {
        directory = await mkdtemp(join(tmpdir(), 'mcp-reprise-'));
        return fileStore(directory);
      },
      reopen: () => fileStore(directory),
      async destroy() {
        await Promise.all(children.map(killed));
        children = [];
        await rm(directory, { recursive: true });
      },
      holdElsewhere,
    },
  );
});
