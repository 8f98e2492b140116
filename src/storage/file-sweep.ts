import { opendir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Abort, type Signal } from '../signals.ts';
import { afterIdle } from '../timers.ts';
import { LEFTOVER, LIMIT, RECORD, removeFile } from './file-claim.ts';
import { overSoon } from './rules.ts';

/** How long after the first use it is swept, in ms: who takes up one of many sessions does not wait for the names of all. */
const SWEEP_AFTER = 1_000;
/** The age from which a temporary directory or a claim is an orphan, in ms. */
const ORPHAN_AGE = 5 * 60_000;
/** The age from which a lock's record is of no use, in ms. One that is held is written anew more often, whatever its ttl. */
const LOCK_AGE = 30 * 24 * 3_600_000;
/** How many names are read at once: calls go on in between. */
const PORTION = 256;

/** Clears away what is of no use any more in a store's directory, once: a second after its first use, or when it is closed before. */
export class Sweep {
  readonly #work: (signal: Signal) => Promise<void>;
  readonly #gone = new Abort();
  #state: { readonly name: 'unused' } | { readonly name: 'due'; readonly stop: () => void } | { readonly name: 'begun'; readonly done: Promise<void> } = { name: 'unused' };

  /** @param work - Ends soon after its signal aborts. Never rejects. */
  constructor(work: (signal: Signal) => Promise<void>) {
    this.#work = work;
  }

  /** The directory is being used. */
  used(): void {
    if (this.#state.name === 'unused') this.#state = { name: 'due', stop: afterIdle(SWEEP_AFTER, () => this.#begin()) };
  }

  /** Does what is due, but for no longer than 3 s: the rest is left to the next store. Never rejects. */
  async close(): Promise<void> {
    if (this.#state.name === 'unused') this.#state = { name: 'begun', done: Promise.resolve() };
    if (this.#state.name === 'due') this.#begin();
    if (this.#state.name === 'begun') await overSoon([this.#state.done]);
    this.#gone.abort();
  }

  #begin(): void {
    if (this.#state.name === 'due') this.#state.stop();
    this.#state = { name: 'begun', done: this.#work(this.#gone) };
  }
}

/** Removes what dead writers left behind, once it is older than five minutes, until `signal` aborts. Best effort: never rejects. */
export async function sweepOrphans(directory: string, signal: Signal): Promise<void> {
  for (const name of await olderThan(ORPHAN_AGE, directory, LEFTOVER, signal)) {
    if (signal.aborted) return;
    // Should its owner only have been paused, then it finds its claim broken and tries again.
    await rm(join(directory, name), { recursive: true, force: true }).catch(() => undefined);
  }
}

/** Removes the records of locks that nobody has had for 30 days, until `signal` aborts. Best effort: never rejects. */
export async function sweepLocks(directory: string, signal: Signal): Promise<void> {
  for (const name of await olderThan(LOCK_AGE, directory, RECORD, signal)) {
    if (signal.aborted) return;
    const still = async (): Promise<boolean> => isOlderThan(LOCK_AGE, join(directory, name));
    await removeFile(directory, name, { end: performance.now() + LIMIT, check: still }).catch(() => undefined);
  }
}

async function olderThan(age: number, directory: string, pattern: RegExp, signal: Signal): Promise<string[]> {
  const found: string[] = [];
  if (signal.aborted) return found;
  try {
    for await (const { name } of await opendir(directory, { bufferSize: PORTION })) {
      if (signal.aborted) break;
      if (pattern.test(name) && (await isOlderThan(age, join(directory, name)))) found.push(name);
    }
  } catch {
    // Not there, or not to be read: what was found goes all the same.
  }
  return found;
}

async function isOlderThan(age: number, path: string): Promise<boolean> {
  const there = await stat(path).catch(() => undefined);
  return there !== undefined && Date.now() - there.mtimeMs > age;
}
