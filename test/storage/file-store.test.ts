import { statSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { StoreError } from '../../src/errors.ts';
import { fileStore } from '../../src/storage/file-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { failAtStep, original, patch, unpatch } from './file-faults.ts';
import { contents, nameOf, sha256, usePlace } from './file-place.ts';

const place = usePlace();

/** A directory in memory, on most systems, and so on another device than the files of tests. */
const OTHER_DEVICE = '/dev/shm';
const deviceOf = (path: string): number | undefined => statSync(path, { throwIfNoEntry: false })?.dev;
const hasOtherDevice = ![undefined, deviceOf(tmpdir())].includes(deviceOf(OTHER_DEVICE));

describe('The file store: its files', () => {
  it('refuses a directory that is empty or not a string', () => {
    expect(() => fileStore('')).toThrow(TypeError);
    expect(() => fileStore(undefined as unknown as string)).toThrow(TypeError);
  });

  it.each<[string, unknown]>([
    ['an option that it does not know', { ondamaged: () => undefined }],
    ['a listener that is no function', { onDamaged: true }],
    ['null for a listener', { onDamaged: null }],
    ['null for options', null],
  ])('refuses %s', (_, options) => {
    expect(() => fileStore(place.directory, options as never)).toThrow(TypeError);
  });

  it('makes the missing directory and its parents, for the owner only', async () => {
    const store = fileStore(join(place.directory, 'deep', 'down'));
    onTestFinished(() => store.close());
    expect(await store.get('key')).toBeUndefined();
    await expect(stat(place.directory)).rejects.toThrow('ENOENT');
    await store.set('key', 'value');
    for (const path of [place.directory, join(place.directory, 'deep'), join(place.directory, 'deep', 'down')]) expect(await modeOf(path)).toBe(0o700);
  });

  it('takes a relative path from the working directory at its making', async () => {
    await mkdir(place.directory);
    const before = process.cwd();
    process.chdir(place.directory);
    const store = fileStore('store');
    onTestFinished(() => store.close());
    process.chdir(before);
    await store.set('key', 'value');
    expect(await readdir(join(place.directory, 'store'))).toEqual([nameOf('key')]);
  });

  it('makes the directory again when it is removed in between', async () => {
    const store = place.opened();
    await store.set('key', 'value');
    await rm(place.directory, { recursive: true });
    expect(await store.get('key')).toBeUndefined();
    await store.set('key', 'value', null);
    expect(await modeOf(place.directory)).toBe(0o700);
  });

  it.skipIf(!hasOtherDevice)('can be in a directory on another device, behind a link', async () => {
    const far = await mkdtemp(join(OTHER_DEVICE, 'mcp-reprise-'));
    onTestFinished(() => rm(far, { recursive: true }));
    await symlink(far, place.directory);
    const store = place.opened();
    const revision = await store.set('key', 'value', null);
    await store.set('key', 'other', revision);
    await store.set('gone', 'value');
    expect(await store.delete('gone')).toBe(true);
    await writeFile(place.file('damaged'), 'damage');
    expect(await place.opened({ onDamaged: () => undefined }).get('damaged')).toBeUndefined();
    await (await store.lock('key', { ttl: 60_000 })).release();
    expect(await contents(place.opened())).toEqual({ key: 'other' });
    const names = (await readdir(far)).filter((name) => !name.startsWith(`${nameOf('damaged')}.damaged-`));
    expect(names.sort()).toEqual([nameOf('key'), 'locks'].sort());
    expect(await modeOf(join(far, nameOf('key')))).toBe(0o600);
  });

  it('leaves the mode of an existing directory alone', async () => {
    await mkdir(place.directory);
    await chmod(place.directory, 0o755);
    await place.opened().set('key', 'value');
    expect(await modeOf(place.directory)).toBe(0o755);
  });

  it('keeps one file per key, for the owner only, and nothing else', async () => {
    const store = place.opened();
    for (const key of ['a', 'b', 'gone']) await store.set(key, 'value');
    await store.set('a', 'other');
    await expect(store.set('b', 'other', null)).rejects.toBeInstanceOf(StoreError);
    await store.delete('gone');
    expect((await readdir(place.directory)).sort()).toEqual([nameOf('a'), nameOf('b')].sort());
    for (const name of await readdir(place.directory)) expect(await modeOf(join(place.directory, name))).toBe(0o600);
  });

  it('writes a header with a checksum of everything, and the value', async () => {
    const before = Date.now();
    const revision = await place.opened().set('key', 'välue\n');
    const [header = '', value, ...rest] = (await readFile(place.file('key'), 'utf8')).split('\n');
    expect(JSON.parse(header)).toEqual({
      v: 1,
      key: 'key',
      revision,
      savedAt: expect.toSatisfy((time: number) => time >= before && time <= Date.now()),
      value: sha256(value as string),
      sum: sha256(header.slice(0, header.indexOf(',"sum"'))),
    });
    expect(value).toBe(JSON.stringify('välue\n'));
    expect(rest).toEqual([]);
  });

  it('flushes the content before it is in place, and the directory after', async () => {
    const store = place.opened();
    await store.set('key', 'old');
    const steps: string[] = [];
    patch({
      open: async (...args) => {
        const handle = await original.open(...args);
        const { sync } = handle;
        const what = args[0] === place.directory ? 'directory' : 'file';
        return Object.assign(handle, { sync: () => sync.call(handle).then(() => void steps.push(`${what} flushed`)) });
      },
      rename: async (from, to) => {
        await original.rename(from, to);
        if (to === place.file('key')) steps.push('file in place');
        if (from === place.file('key')) steps.push('file gone');
      },
    });
    await store.set('key', 'new');
    await store.delete('key');
    unpatch();
    expect(steps).toEqual(['file flushed', 'file in place', 'directory flushed', 'file gone', 'directory flushed']);
  });

  it('keeps lone surrogates, in keys and values', async () => {
    const store = place.opened();
    for (const key of ['\uD83E', '\uDD89', '\uFFFD']) await store.set(key, `a${key}b`, null);
    for (const key of ['\uD83E', '\uDD89', '\uFFFD']) expect((await store.get(key))?.value).toBe(`a${key}b`);
  });

  it('lets the last of several sets win that were begun in order', async () => {
    const store = place.opened();
    await Promise.all(['1', '2', '3', '4', '5'].map((value) => store.set('key', value)));
    expect((await store.get('key'))?.value).toBe('5');
  });
});

describe('The file store: errors of the file system', () => {
  it('become StoreErrors with their cause when the path is a file', async () => {
    await writeFile(place.directory, 'a file');
    const store = place.opened();
    const attempts = [store.get('key'), store.set('key', 'value'), store.delete('key'), store.keys('')[Symbol.asyncIterator]().next()];
    for (const attempt of await Promise.allSettled(attempts)) {
      expect(attempt).toMatchObject({ reason: { name: 'StoreError', cause: { code: expect.any(String) as string } } });
    }
    expect(await readFile(place.directory, 'utf8')).toBe('a file');
  });

  it('become StoreErrors when a directory is where a record belongs', async () => {
    await mkdir(place.file('key'), { recursive: true });
    await expect(place.opened().get('key')).rejects.toBeInstanceOf(StoreError);
    await expect(place.opened().set('key', 'value')).rejects.toBeInstanceOf(StoreError);
  });

  it('become a StoreError when a file cannot be claimed at all', async () => {
    const cause = Object.assign(new Error('EPERM: operation not permitted'), { code: 'EPERM' });
    patch({ rename: () => Promise.reject(cause) });
    await expect(place.opened().set('key', 'value')).rejects.toMatchObject({ name: 'StoreError', cause });
    unpatch();
    expect(await readdir(place.directory)).toEqual([]);
  });

  it('do not name the key, which may name a person', async () => {
    await writeFile(place.directory, 'a file');
    const store = place.opened();
    for (const attempt of [() => store.get('alice'), () => store.set('alice', 'value'), () => store.delete('alice')]) {
      await expect(attempt()).rejects.toSatisfy((error: Error) => !error.message.includes('alice'));
    }
  });

  it.each<[string, (store: Store) => Promise<unknown>, Record<string, string>]>([
    ['set', (store) => store.set('key', 'new'), { key: 'new' }],
    ['compare-and-set', async (store) => store.set('key', 'new', (await store.get('key'))?.revision), { key: 'new' }],
    ['delete', (store) => store.delete('key'), {}],
  ])('at any step of a %s leave the old value or the new one', async (_, change, changed) => {
    let failures = 0;
    for (let step = 0, done = false; !done; step++) {
      const store = place.opened();
      await store.set('key', 'old');
      const failing = failAtStep(step);
      const outcome = await change(store).then(
        () => 'resolved',
        (error: unknown) => error,
      );
      done = !failing.stop();
      const found = await contents(place.opened());
      if (outcome === 'resolved') {
        expect(found, `step ${step}`).toEqual(changed);
      } else {
        failures++;
        expect(outcome, `step ${step}`).toMatchObject({ name: 'StoreError', cause: { code: 'EIO' } });
        expect([{ key: 'old' }, changed], `step ${step}`).toContainEqual(found);
      }
      // And the way is free again.
      await store.set('key', 'next');
      await store.delete('key');
    }
    expect(failures).toBeGreaterThan(3);
  });
});

async function modeOf(path: string): Promise<number> {
  return (await stat(path)).mode & 0o777;
}
