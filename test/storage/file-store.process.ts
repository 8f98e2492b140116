import { once } from 'node:events';
import fs from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { fileStore } from '../../src/storage/file-store.ts';

/**
 * Another process that uses a file store, for the tests of the file store: `<task> <directory> <key> <times>`. It tells its parent what
 * happened, one message at a time, and goes on when the message is gone.
 */
const [task, directory, key, times] = process.argv.slice(2) as [string, string, string, string];
const store = fileStore(directory);

async function tell(message: string): Promise<void> {
  await new Promise<void>((resolve) => process.send?.(message, undefined, undefined, () => resolve()));
}

/** Tells when this process has claimed the file and is about to commit, and waits there for a message. */
function pauseBeforeCommit(): void {
  const { rename } = fs;
  let paused = false;
  fs.rename = async (from, to) => {
    const commits = [from, to].some((path) => /\.claim[\\/]/.test(String(path)));
    if (commits && !paused) {
      paused = true;
      const goOn = once(process, 'message');
      await tell('claimed');
      await goOn;
    }
    await rename(from, to);
  };
  syncBuiltinESMExports();
}

async function outcome(work: Promise<unknown>): Promise<void> {
  await tell(await work.then(() => 'done', (error: unknown) => (error as Error).name));
}

switch (task) {
  case 'alternate': {
    for (let turn = 0; turn < Number(times); turn++) await store.set(key, turn % 2 ? 'a'.repeat(200_000) : 'b'.repeat(100_000));
    break;
  }
  case 'paused-set': {
    const revision = (await store.get(key))?.revision ?? null;
    pauseBeforeCommit();
    await outcome(store.set(key, 'theirs', revision));
    break;
  }
  case 'paused-delete': {
    const revision = (await store.get(key))?.revision;
    pauseBeforeCommit();
    await outcome(store.delete(key, revision));
    break;
  }
  case 'hold': {
    // `times` is the ttl.
    const lock = await store.lock(key, { ttl: Number(times) });
    lock.lost.addEventListener('abort', () => void tell('lost'));
    const told = once(process, 'message');
    await tell(`holds ${lock.fence}`);
    await told;
    await lock.release();
    await tell('released');
    break;
  }
  case 'leave': {
    await store.lock(key, { ttl: Number(times) });
    await tell('holds');
    break;
  }
  default:
    throw new Error(`There is no task ${task}.`);
}
// A process that leaves just like that closes nothing.
if (task !== 'leave') await store.close();
process.disconnect();
