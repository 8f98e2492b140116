import { mkdir, readdir, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { fileStore } from '../../src/storage/file-store.ts';
import { Sweep } from '../../src/storage/file-sweep.ts';
import type { Lock, Store } from '../../src/storage/store.ts';
import { listed } from '../../src/testing/parts.ts';
import { failure, hangAtStep, hangIn, original, patch, unpatch } from './file-faults.ts';
import { nameOf, usePlace } from './file-place.ts';

/** A file system that does not answer, on a clock that stands until it is told to go on: only what is said here takes time. */

const place = usePlace();
/** By when every operation has to be over, in ms. */
const LIMIT = 3_000;
/** How long after the first use it is looked for leftovers, in ms. */
const SWEEP_AFTER = 1_000;
const LATE = { name: 'StoreError', message: expect.stringContaining('within 3 s') as string };

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] });
  vi.spyOn(performance, 'now').mockImplementation(() => Date.now());
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

/** A store with a value, whose first use is over. Nobody closes it: it may have hung for good. */
async function used(directory = place.directory): Promise<Store> {
  const store = fileStore(directory);
  await store.set('key', 'old');
  return store;
}

/** Closes a store of which something may hang. */
async function closed(store: Store): Promise<void> {
  const closing = store.close();
  await vi.advanceTimersByTimeAsync(LIMIT);
  await closing;
}

async function outcomeOf(work: Promise<unknown>): Promise<unknown> {
  return work.catch((error: unknown) => error);
}

describe('The file store: a file system that hangs', () => {
  const changes = ['set', 'compare-and-set', 'delete'];
  it.each<[string, (store: Store, revision: string) => Promise<unknown>]>([
    ['get', (store) => store.get('key')],
    ['set', (store) => store.set('key', 'new')],
    ['compare-and-set', (store, revision) => store.set('key', 'new', revision)],
    ['delete', (store) => store.delete('key')],
    ['keys', (store) => listed(store, '')],
    ['lock', (store) => store.lock('key', { ttl: 60_000 })],
  ])('at any step of %s is a StoreError in time, which says what may have become of it', async (verb, work) => {
    let hung = 0;
    for (let step = 0, done = false; !done; step++) {
      const store = await used(join(place.directory, `${step}`));
      const { revision = '' } = (await store.get('key')) ?? {};
      const { reached } = hangAtStep(step);
      const outcome = outcomeOf(work(store, revision));
      done = true;
      // It may be a step of what goes on beside, and is not waited for.
      await Promise.race([reached.then(() => (done = false)), outcome]);
      await vi.advanceTimersByTimeAsync(LIMIT);
      unpatch();
      const found = await outcome;
      if (done) {
        expect(found, `step ${step}`).not.toBeInstanceOf(Error);
      } else if (found instanceof Error) {
        hung++;
        expect(found, `step ${step}`).toMatchObject(LATE);
        if (changes.includes(verb)) expect(found.message, `step ${step}`).toContain('It may have been done all the same');
      }
      if (verb === 'lock' && !(found instanceof Error)) await (found as Lock).release();
      await closed(store);
    }
    expect(hung).toBeGreaterThan(0);
  });

  it('lets nothing happen later that was not done in time', async () => {
    for (const work of [(store: Store, revision: string) => store.set('key', 'new', revision), (store: Store, revision: string) => store.delete('key', revision)]) {
      const store = await used();
      const before = await store.get('key');
      // The look at what is there, once the file is claimed.
      let reads = 0;
      let goOn = (): void => undefined;
      const reached = new Promise<void>((reach) => {
        patch({
          readFile: async (path) => {
            if (++reads === 2) {
              reach();
              await new Promise<void>((resolve) => (goOn = resolve));
            }
            return original.readFile(path);
          },
        });
      });
      const outcome = outcomeOf(work(store, before?.revision ?? ''));
      await reached;
      await vi.advanceTimersByTimeAsync(LIMIT);
      expect(await outcome).toMatchObject(LATE);
      expect(await readdir(place.directory)).toContain(`${nameOf('key')}.claim`);
      goOn();
      // It clears away what it made, and that is all.
      await vi.waitFor(async () => expect(await readdir(place.directory)).toEqual([nameOf('key')]));
      expect(await store.get('key')).toEqual(before);
      unpatch();
      await store.close();
    }
  });

  it('holds up the changes of the same value for no longer than their own time, and no later ones', async () => {
    const store = await used();
    const { reached } = hangAtStep(0);
    const first = outcomeOf(store.set('key', 'first'));
    await reached;
    await vi.advanceTimersByTimeAsync(1_000);
    const second = outcomeOf(store.set('key', 'second'));
    await vi.advanceTimersByTimeAsync(LIMIT - 1_000);
    expect(await first).toMatchObject(LATE);
    // The hung one never comes back, and yet it is this one's turn.
    expect(await second).toEqual(expect.any(String));
    await store.set('key', 'third');
    expect((await store.get('key'))?.value).toBe('third');
  });

  it('does not keep the store from closing, whatever is under way or held', async () => {
    const store = await used();
    const lock = await store.lock('held', { ttl: 60_000 });
    hangIn(place.directory);
    const uses = [store.get('key'), store.set('key', 'new'), store.delete('key'), listed(store, ''), store.lock('other', { ttl: 60_000 })].map(outcomeOf);
    await closed(store);
    for (const outcome of await Promise.all(uses)) expect(outcome).toMatchObject({ name: 'StoreError' });
    expect(lock.lost.aborted).toBe(true);
  });

  it('does not keep a store from closing that is cleaning up', async () => {
    await used();
    const store = fileStore(place.directory);
    hangIn(place.directory);
    const got = outcomeOf(store.get('key'));
    await vi.advanceTimersByTimeAsync(SWEEP_AFTER);
    await closed(store);
    expect(await got).toMatchObject(LATE);
  });

  it('looks for leftovers a second after its first use, or when it is closed: no answer waits for the names of all that is stored', async () => {
    await closed(await used());
    const listings: string[] = [];
    patch({
      opendir: (...args: Parameters<typeof original.opendir>) => {
        listings.push(String(args[0]));
        return original.opendir(...args);
      },
    });
    const store = fileStore(place.directory);
    await store.get('key');
    await store.set('key', 'new');
    await vi.advanceTimersByTimeAsync(SWEEP_AFTER - 1);
    expect(listings).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    expect(listings).toEqual([place.directory]);
    await store.get('key');
    await closed(store);
    expect(listings).toHaveLength(1);
    const next = fileStore(place.directory);
    await next.get('key');
    await closed(next);
    await vi.advanceTimersByTimeAsync(SWEEP_AFTER);
    expect(listings).toEqual([place.directory, place.directory]);
  });

  it('does not begin to clean up for what is still under way when the store was closed', async () => {
    const work = vi.fn<() => Promise<void>>(async () => undefined);
    const sweep = new Sweep(work);
    await sweep.close();
    sweep.used();
    await vi.advanceTimersByTimeAsync(SWEEP_AFTER);
    expect(work).not.toHaveBeenCalled();
  });

  it('removes nothing more once the store is closed, however much there was to clean up', async () => {
    await closed(await used());
    const old = new Date(Date.now() - 6 * 60_000);
    const orphans = Array.from({ length: 5 }, (_, index) => `${index}0000000-0000-4000-8000-000000000000.tmp`);
    for (const name of orphans) {
      await mkdir(join(place.directory, name));
      await utimes(join(place.directory, name), old, old);
    }
    const store = fileStore(place.directory);
    let goOn = (): void => undefined;
    const removals: Promise<void>[] = [];
    const reached = new Promise<void>((reach) => {
      patch({
        rm: (...args: Parameters<typeof original.rm>) => {
          reach();
          const removal = new Promise<void>((resolve) => (goOn = resolve)).then(() => original.rm(...args));
          removals.push(removal);
          return removal;
        },
      });
    });
    await store.get('key');
    await vi.advanceTimersByTimeAsync(SWEEP_AFTER);
    await reached;
    await closed(store);
    goOn();
    await removals[0];
    // What comes of it does, before anything new could be asked of the file system and answered.
    await original.readdir(place.directory);
    expect(removals).toHaveLength(1);
    expect((await readdir(place.directory)).filter((name) => orphans.includes(name))).toHaveLength(orphans.length - 1);
    unpatch();
  });
});

describe('The file store: a claim that stays', () => {
  it('holds up none of those who wait behind each other for longer than 3 s of its own, and each hears why', async () => {
    const store = await used();
    patch({ rename: (from: string, to: string) => (to.endsWith('.claim') ? Promise.reject(failure('EPERM')) : original.rename(from, to)) });
    const began = Date.now();
    const took: number[] = [];
    const sets = ['1', '2', '3', '4'].map((value) => outcomeOf(store.set('key', value)).finally(() => took.push(Date.now() - began)));
    while (took.length < sets.length) {
      // Each has a timer for its end. Where there is one more, somebody waits for the claim, and not for the disk.
      if (vi.getTimerCount() > sets.length - took.length) await vi.advanceTimersByTimeAsync(20);
      await new Promise((resolve) => setImmediate(resolve));
    }
    for (const outcome of await Promise.all(sets)) expect(outcome).toMatchObject({ name: 'StoreError', cause: { code: 'EPERM' } });
    expect(Math.max(...took)).toBeLessThanOrEqual(LIMIT);
    unpatch();
    expect((await store.get('key'))?.value).toBe('old');
  });
});
