import { randomUUID } from 'node:crypto';
import { mkdir, open, readdir, rename, rm, rmdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { StoreError } from '../errors.ts';
import { sleep } from '../timers.ts';

/**
 * Atomic changes of single files among the processes of one machine, without a lock that could be held too long.
 *
 * To change `<name>`, a writer makes a directory of its own, `<random>.tmp`, with one entry in it, `<token>`: the new content,
 * written and flushed. Renaming that directory to `<name>.claim` is how it claims the file, because a rename never replaces a
 * directory that has something in it. Now it looks at the current content, and then commits with ONE rename out of (or, to
 * remove the file, into) `<name>.claim/<token>`.
 *
 * Why no update is lost: from the claim to the commit the entry `<token>` is there, so no other claim succeeds and nobody else
 * changes the file; the commit succeeds only if the entry is still there. A claim that stays (its owner was killed or paused) is
 * broken by removing its entry, whose name is random, so that no other claim can be hit. From then on the owner's commit fails,
 * whenever it wakes up. Clocks and patience only decide how soon a dead owner is given up, never who is right.
 */

/** How long one and the same claim may stand before another process breaks it, in ms. It usually stands for 0.2 ms. */
const PATIENCE = 1_000;
/** Between two looks at a claim that others have, in ms. */
const LONGEST_PAUSE = 40;
/** After so many of them it is looked whether the wait is worth it: of a crowd that wants to change the same, one can. */
const LOOK = 4;
/** How long an operation may take, with all that it waits for, in ms. */
export const LIMIT = 3_000;
/** When a change gives up getting hold of its file, in ms before its end: who asked for it is to hear why. */
const SPARE = 500;

const TEMPORARY = '.tmp';
const CLAIM = '.claim';
/** What a dead writer may leave behind. Our own names only: the directory may hold what belongs to others. */
export const LEFTOVER = /^(?:[0-9a-f-]{36}\.tmp|[0-9a-f]{64}\.claim)$/;
/** The name of a record's file. */
export const RECORD = /^[0-9a-f]{64}$/;

/**
 * Replaces the content of a file (0600), flushed to the disk. The directory is created when missing, with mode 0700.
 *
 * @param steps - `end`: when nobody waits for it any more, by `performance.now()`; nothing is replaced after that, whatever hung.
 *   `ready` is awaited before the file is claimed, beside the writing of the new content. `check` runs while nobody else can change
 *   the file. What either rejects with ends the change, and nothing is replaced.
 * @throws {@link StoreError} when others kept the file until shortly before the end; otherwise the file system's own errors.
 */
export async function replaceFile(
  directory: string,
  name: string,
  content: Buffer,
  { end, ready, check }: { end: number; ready?: Promise<unknown>; check?: (() => Promise<void>) | undefined },
): Promise<void> {
  // It is awaited only after the writing, which may fail first.
  ready?.catch(() => undefined);
  await change(directory, name, end, {
    prepare: async (entry) => {
      await writeFlushed(entry, content);
      await ready;
    },
    look: check,
    commit: async (entry) => {
      await check?.();
      requireTime(end);
      return renamed(entry, join(directory, name));
    },
  });
}

/**
 * Removes a file, or moves it to the name `aside` in the same directory.
 *
 * @param steps - `end` as in {@link replaceFile}. `check` runs while nobody else can change the file. `false`, or what it rejects
 *   with, ends the change: nothing is removed.
 * @returns What `check` resolved to.
 * @throws As {@link replaceFile}.
 */
export async function removeFile(
  directory: string,
  name: string,
  { end, check, aside }: { end: number; check: () => Promise<boolean>; aside?: string },
): Promise<boolean> {
  let there = false;
  await change(directory, name, end, {
    prepare: (entry) => mkdir(entry, { mode: 0o700 }),
    commit: async (entry) => {
      there = await check();
      // Into the entry, because a plain unlink would not notice that the claim was broken.
      if (!there) return true;
      requireTime(end);
      if (!(await renamed(join(directory, name), join(entry, 'old')))) return false;
      // Gone already if the claim is broken right now; then only the evidence is lost.
      if (aside !== undefined) await renamed(join(entry, 'old'), join(directory, aside));
      return true;
    },
  });
  return there;
}

interface Change {
  prepare(entry: string): Promise<void>;
  /** Asked now and then while others have the file: what it rejects with ends the wait, which would be for nothing. */
  look?: (() => Promise<void>) | undefined;
  /** Resolves to whether the claim still held; the entry may be left behind. */
  commit(entry: string): Promise<boolean>;
}

async function change(directory: string, name: string, end: number, { prepare, look, commit }: Change): Promise<void> {
  const claim = join(directory, name + CLAIM);
  const giveUp = end - SPARE;
  do {
    const token = randomUUID();
    const temporary = join(directory, token + TEMPORARY);
    let home = temporary;
    let done = false;
    try {
      await makeTemporary(directory, temporary);
      await prepare(join(temporary, token));
      if (await claimed(temporary, claim, giveUp, look)) {
        home = claim;
        done = await commit(join(claim, token));
      }
    } finally {
      // Beside the flush: it does not matter which comes first.
      const clearing = cleared(home, token);
      if (done) await flushDirectory(directory).finally(() => clearing);
      else await clearing;
    }
    if (done) return;
    // The claim was broken, so nothing happened: once more from the start.
  } while (performance.now() < giveUp);
  throw new StoreError('Other processes kept a stored value for too long.');
}

/** @throws {@link StoreError} after the end of an operation: what was hanging until then must not come as a surprise. */
export function requireTime(end: number): void {
  if (performance.now() >= end) throw new StoreError(`A stored value was not changed within ${LIMIT / 1_000} s.`);
}

async function makeTemporary(directory: string, temporary: string): Promise<void> {
  try {
    await mkdir(temporary, { mode: 0o700 });
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
    await makeDirectory(directory);
    await mkdir(temporary, { mode: 0o700 });
  }
}

/** Makes a directory and its missing parents, and makes them survive a power failure: the name of each is kept by the one above. */
async function makeDirectory(directory: string): Promise<void> {
  const first = await mkdir(directory, { recursive: true, mode: 0o700 });
  if (first === undefined) return;
  for (let made = directory; made.length >= first.length; made = dirname(made)) {
    await flushDirectory(dirname(made)).catch((error: unknown) => {
      // It is not ours, and others may only write there.
      if (!hasCode(error, 'EACCES', 'EPERM')) throw error;
    });
  }
}

/** Waits until the claim is ours. Resolves to `false` when the temporary directory was swept meanwhile. */
async function claimed(temporary: string, claim: string, giveUp: number, look: Change['look']): Promise<boolean> {
  let holder: string | undefined;
  let since = 0;
  for (let tries = 0; ; tries++) {
    const refused = await rename(temporary, claim).then(() => undefined, (error: unknown) => error);
    if (refused === undefined) return true;
    if (hasCode(refused, 'ENOENT')) return false;
    // Some systems say EPERM or EACCES for "there is a directory"; the deadline tells that from a refusal for good.
    if (!hasCode(refused, 'ENOTEMPTY', 'EEXIST', 'EPERM', 'EACCES')) throw refused;
    const [entry] = await readdir(claim).catch(() => []);
    const now = performance.now();
    if (entry === undefined) {
      // Free, but not every system replaces an empty directory.
      await rmdir(claim).catch(() => undefined);
    } else if (entry !== holder) {
      holder = entry;
      since = now;
    } else if (now - since > PATIENCE) {
      await rm(join(claim, entry), { recursive: true, force: true });
    }
    if (now > giveUp) throw new StoreError('A stored value could not be claimed in time.', { cause: refused });
    if (tries % LOOK === LOOK - 1) await look?.();
    // Claims stand for a fraction of a millisecond. Whoever waits for long is one of a crowd, which asks less often, so that it leaves the
    // machine to those who have the claim; the random part keeps it out of step.
    await sleep(1 + Math.random() * Math.min(3 + tries, LONGEST_PAUSE));
  }
}

/** Removes our entry and the directory around it. A claim that is somebody else's by now is not empty, and so it stays. */
async function cleared(home: string, token: string): Promise<void> {
  const empty = await rmdir(home).then(() => true, (error: unknown) => hasCode(error, 'ENOENT'));
  if (empty) return;
  await rm(join(home, token), { recursive: true, force: true }).catch(() => undefined);
  await rmdir(home).catch(() => undefined);
}

/** Renames, and resolves to `false` when there is nothing to rename or nowhere to put it. */
async function renamed(from: string, to: string): Promise<boolean> {
  try {
    await rename(from, to);
    return true;
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return false;
    throw error;
  }
}

async function writeFlushed(path: string, content: Buffer): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Makes a rename survive a power failure, where the system can flush a directory. */
async function flushDirectory(directory: string): Promise<void> {
  if (process.platform === 'win32') return;
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } catch (error) {
    if (!hasCode(error, 'EINVAL', 'ENOTSUP', 'ENOSYS')) throw error;
  } finally {
    await handle.close();
  }
}

/** Whether a file system's error has one of these codes. */
export function hasCode(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(error.code as string);
}
