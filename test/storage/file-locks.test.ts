import { once } from 'node:events';
import { readdir, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { fileStore, type DamagedFile } from '../../src/storage/file-store.ts';
import type { Lock } from '../../src/storage/store.ts';
import { killed, startProcess } from './file-children.ts';
import { failAtStep } from './file-faults.ts';
import { nameOf, usePlace } from './file-place.ts';

const place = usePlace();
const TTL = 60_000;

const lockFile = (key: string): string => join(place.directory, 'locks', nameOf(key));

async function lost({ lost: signal }: Lock): Promise<void> {
  if (!signal.aborted) await once(signal, 'abort');
}

describe('The file store: locks', () => {
  it('are files in a directory of their own, for the owner only', async () => {
    const store = place.opened();
    await store.set('key', 'value');
    const lock = await store.lock('key', { ttl: TTL });
    expect((await readdir(place.directory)).sort()).toEqual([nameOf('key'), 'locks'].sort());
    expect(await readdir(join(place.directory, 'locks'))).toEqual([nameOf('key')]);
    expect((await stat(join(place.directory, 'locks'))).mode & 0o777).toBe(0o700);
    expect((await stat(lockFile('key'))).mode & 0o777).toBe(0o600);
    await lock.release();
    expect(await readdir(join(place.directory, 'locks'))).toEqual([nameOf('key')]);
  });

  it('make no directory before they are asked for', async () => {
    const store = fileStore(place.directory);
    await store.get('key');
    await store.close();
    await expect(stat(place.directory)).rejects.toThrow('ENOENT');
  });

  it('of a process that is killed are taken over', async () => {
    const child = startProcess('hold', place.directory, 'key', '1000');
    onTestFinished(() => killed(child));
    const [said] = (await once(child, 'message')) as [string];
    await killed(child);
    const { fence } = await place.opened().lock('key', { ttl: TTL });
    expect(`holds ${fence - 1}`).toBe(said);
  });

  it('do not keep a process alive', async () => {
    const child = startProcess('leave', place.directory, 'key', '600000');
    onTestFinished(() => killed(child));
    expect(await once(child, 'message')).toEqual(['holds', undefined]);
    expect(await once(child, 'exit')).toEqual([0, null]);
  });

  it('are lost with their directory, and their numbers go on', async () => {
    const store = place.opened();
    const lock = await store.lock('key', { ttl: 300 });
    await rm(place.directory, { recursive: true });
    await lost(lock);
    expect((await store.lock('key', { ttl: TTL })).fence).toBeGreaterThan(lock.fence);
  });

  it('are free where their file is damaged, which is told, and their numbers go on', async () => {
    const told: DamagedFile[] = [];
    const store = place.opened({ onDamaged: (info) => told.push(info) });
    const lock = await store.lock('key', { ttl: TTL });
    await writeFile(lockFile('key'), 'damage');
    expect((await place.opened({ onDamaged: (info) => told.push(info) }).lock('key', { ttl: TTL })).fence).toBeGreaterThan(lock.fence);
    expect(told).toEqual([{ key: 'key', file: expect.stringContaining(`${lockFile('key')}.damaged-`) as string, reason: expect.any(String) as string }]);
  });

  it('leave no file for ever: it goes when nobody had the lock for 30 days, and their numbers go on', async () => {
    const before = place.opened();
    const old = await before.lock('old', { ttl: TTL });
    await old.release();
    await (await before.lock('new', { ttl: TTL })).release();
    await before.set('old', 'value');
    const then = new Date(Date.now() - 31 * 24 * 3_600_000);
    for (const path of [lockFile('old'), place.file('old')]) await utimes(path, then, then);
    const after = fileStore(place.directory);
    await after.lock('another', { ttl: TTL });
    await after.close();
    expect((await readdir(join(place.directory, 'locks'))).sort()).toEqual([nameOf('new'), nameOf('another')].sort());
    expect((await before.get('old'))?.value).toBe('value');
    expect((await before.lock('old', { ttl: TTL })).fence).toBeGreaterThan(old.fence);
  });

  it('hold or can be taken over when any one step fails, and their numbers go on', async () => {
    let failures = 0;
    let last = 0;
    for (let step = 0, done = false; !done; step++) {
      const store = place.opened();
      const failing = failAtStep(step);
      const outcome = await store.lock('key', { ttl: 100 }).then(
        async (lock) => {
          await lock.release();
          return lock;
        },
        (error: unknown) => error,
      );
      done = !failing.stop();
      if ('fence' in (outcome as Lock)) {
        expect((outcome as Lock).fence, `step ${step}`).toBeGreaterThan(last);
      } else {
        failures++;
        expect(outcome, `step ${step}`).toMatchObject({ name: 'StoreError', cause: { code: 'EIO' } });
      }
      const next = await place.opened().lock('key', { ttl: 100 });
      expect(next.fence, `step ${step}`).toBeGreaterThan(last);
      last = next.fence;
      await next.release();
    }
    expect(failures).toBeGreaterThan(3);
  });
});
