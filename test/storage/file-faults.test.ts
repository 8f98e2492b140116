import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { failAtStep, failure, fillDisk, makeReadOnly, patch, unpatch } from './file-faults.ts';
import { contents, nameOf, usePlace } from './file-place.ts';
import { listed } from '../../src/testing/parts.ts';

const place = usePlace();

describe('The file store: a full disk', () => {
  it('costs no value: what was there stays, and nothing is left behind', async () => {
    const store = place.opened();
    const revision = await store.set('key', 'old');
    fillDisk();
    for (const attempt of [() => store.set('key', 'new'), () => store.set('key', 'new', revision), () => store.set('other', 'new', null)]) {
      await expect(attempt()).rejects.toMatchObject({ name: 'StoreError', cause: { code: 'ENOSPC' } });
    }
    await expect(store.lock('key', { ttl: 1_000 })).rejects.toMatchObject({ name: 'StoreError', cause: { code: 'ENOSPC' } });
    expect(await store.get('key')).toEqual({ value: 'old', revision });
    expect(await store.delete('other')).toBe(false);
    unpatch();
    expect((await readdir(place.directory)).sort()).toEqual([nameOf('key'), 'locks'].sort());
    await store.set('key', 'new', revision);
    expect(await contents(place.opened())).toEqual({ key: 'new' });
  });

  it('costs no value where it has no room for a directory either', async () => {
    const store = place.opened();
    await store.set('key', 'old');
    patch({ mkdir: () => Promise.reject(failure('ENOSPC')) });
    await expect(store.set('key', 'new')).rejects.toMatchObject({ name: 'StoreError', cause: { code: 'ENOSPC' } });
    await expect(store.delete('key')).rejects.toMatchObject({ name: 'StoreError', cause: { code: 'ENOSPC' } });
    expect(await contents(store)).toEqual({ key: 'old' });
  });
});

describe('The file store: a directory that is read only', () => {
  it('can be read, and every change is a StoreError', async () => {
    const store = place.opened();
    const revision = await store.set('key', 'old');
    makeReadOnly();
    const other = place.opened();
    expect(await other.get('key')).toEqual({ value: 'old', revision });
    expect(await listed(other, '')).toEqual(['key']);
    const changes = [other.set('key', 'new'), other.set('new', 'new', null), other.delete('key', revision), other.lock('key', { ttl: 1_000 })];
    for (const change of await Promise.allSettled(changes)) expect(change).toMatchObject({ reason: { name: 'StoreError', cause: { code: 'EROFS' } } });
    expect(await other.delete('missing')).toBe(false);
    await other.close();
    unpatch();
    expect(await contents(store)).toEqual({ key: 'old' });
  });

  it('shows a damaged value to nobody', async () => {
    const store = place.opened();
    await store.set('key', 'old');
    await writeFile(place.file('key'), 'damage');
    makeReadOnly();
    await expect(store.get('key')).rejects.toMatchObject({ name: 'StoreError', cause: { code: 'EROFS' } });
    expect(await readFile(place.file('key'), 'utf8')).toBe('damage');
  });
});

describe('The file store: a directory that may not be looked into', () => {
  it('is a StoreError, and not empty', async () => {
    const store = place.opened();
    await store.set('key', 'old');
    const refuse = (): Promise<never> => Promise.reject(failure('EACCES'));
    patch({ open: refuse, readFile: refuse, readdir: refuse });
    for (const attempt of [() => store.get('key'), () => store.set('key', 'new', null), () => store.delete('key'), () => listed(store, '')]) {
      await expect(attempt()).rejects.toMatchObject({ name: 'StoreError', cause: { code: 'EACCES' } });
    }
  });
});

describe('The file store: a directory that is missing', () => {
  it('is an empty store, and is not made by looking', async () => {
    const store = place.opened();
    expect(await store.get('key')).toBeUndefined();
    expect(await store.delete('key')).toBe(false);
    expect(await listed(store, '')).toEqual([]);
    await expect(store.set('key', 'value', 'revision')).rejects.toMatchObject({ code: 'CONFLICT' });
    await expect(readdir(place.directory)).rejects.toThrow('ENOENT');
  });

  it('is made again by whoever writes, though it is removed again and again meanwhile', async () => {
    const store = place.opened();
    for (let turn = 0; turn < 20; turn++) {
      const removing = rm(place.directory, { recursive: true, force: true }).catch(() => undefined);
      await store.set('key', `${turn}`).catch((error: unknown) => expect(error).toMatchObject({ name: 'StoreError' }));
      await removing;
    }
    await store.set('key', 'last');
    expect(await contents(store)).toEqual({ key: 'last' });
  });
});

describe('The file store: a read that fails', () => {
  it.each(['get', 'keys'])('at any step of %s is a StoreError, never another answer', async (verb) => {
    await place.opened().set('key', 'value');
    let failures = 0;
    for (let step = 0, done = false; !done; step++) {
      const store = place.opened();
      const failing = failAtStep(step);
      const outcome: unknown = await (verb === 'get' ? store.get('key') : listed(store, '')).catch((error: unknown) => error);
      done = !failing.stop();
      if (done) expect(outcome).toEqual(verb === 'get' ? { value: 'value', revision: expect.any(String) as string } : ['key']);
      else expect(outcome, `step ${step}`).toMatchObject({ name: 'StoreError', cause: { code: 'EIO' } });
      failures += done ? 0 : 1;
    }
    expect(failures).toBeGreaterThan(0);
  });
});
