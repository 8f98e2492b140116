import { writeSync } from 'node:fs';
import { ConflictError, StoreError } from '../../src/errors.ts';
import { fileStore } from '../../src/storage/file-store.ts';

/**
 * A process that is going to be killed, for `file-store.stress.ts`: `<directory> <name> <write | lock>`. It says what it has done
 * at once and for good, by a synchronous write into a pipe: what it said has happened, whenever the kill comes.
 */
const [directory, name, work] = process.argv.slice(2) as [string, string, 'write' | 'lock'];
const store = fileStore(directory, { onDamaged: ({ reason }) => say('damaged', reason) });

function say(...words: readonly (string | number)[]): void {
  writeSync(1, `${words.join(' ')}\n`);
}

/** In ms, by a clock that all the processes of a machine share. */
function now(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** Those that were killed held it up for too long. It may or may not have happened, but this is not one of our steps that fail. */
function isHeldUp(error: unknown): boolean {
  if (!(error instanceof StoreError)) return false;
  const { code } = (error.cause ?? {}) as NodeJS.ErrnoException;
  return / in time| within 3 s| for too long/.test(error.message) && (code === undefined || code === 'ENOTEMPTY' || code === 'EEXIST');
}

/** Counts one up in this process's own place in the record, unless another is quicker, or dead ones hold it up. */
async function count(key: string): Promise<'counted' | 'outrun' | 'held up'> {
  const there = await store.get(key);
  const counts = JSON.parse(there?.value ?? '{}') as Record<string, number>;
  counts[name] = (counts[name] ?? 0) + 1;
  try {
    await store.set(key, JSON.stringify(counts), there?.revision ?? null);
  } catch (error) {
    if (error instanceof ConflictError) return 'outrun';
    if (isHeldUp(error)) return 'held up';
    throw error;
  }
  say('counted', key, counts[name]);
  return 'counted';
}

async function write(): Promise<void> {
  await count(`shared ${Math.floor(Math.random() * 8)}`);
}

/** Counts under a lock: nobody else can have been in between, as long as the lock is not lost. */
async function lock(): Promise<void> {
  const taken = await store.lock('lock', { ttl: 1_000 }).catch((error: unknown) => {
    if (!isHeldUp(error)) throw error;
  });
  if (!taken) return;
  const { fence, lost, release } = taken;
  say('locked', fence, now());
  // Somebody was in between, so the lock is lost, which this process has still to hear of: no timer of a lock keeps it alive for that.
  if ((await count('locked')) === 'outrun' && !lost.aborted) {
    const waiting = setTimeout(() => process.exit(3), 10_000);
    await new Promise((resolve) => lost.addEventListener('abort', resolve));
    clearTimeout(waiting);
  }
  say(lost.aborted ? 'lost' : 'unlocks', fence, now());
  await release();
}

const step = { write, lock }[work];
for (;;) await step();
