import { once } from 'node:events';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { unpackRecord } from '../../src/storage/file-envelope.ts';
import type { DamagedFile } from '../../src/storage/file-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { listed } from '../../src/testing/parts.ts';
import { failure, original, patch, unpatch } from './file-faults.ts';
import { nameOf, record, sha256, usePlace } from './file-place.ts';

const place = usePlace();

describe('The file store: damage', () => {
  let told: DamagedFile[];
  let store: Store;
  let file: string;
  let sound: Buffer;

  beforeEach(async () => {
    told = [];
    store = place.opened({ onDamaged: (info) => told.push(info) });
    await store.set('key', '"värdé"');
    file = place.file('key');
    sound = await readFile(file);
  });

  /** Puts `bytes` in the place of the record, and expects that they are seen for what they are. */
  async function expectDamage(bytes: Buffer, what: string): Promise<void> {
    told = [];
    await writeFile(file, bytes);
    expect(await store.get('key'), what).toBeUndefined();
    expect(await store.get('key'), what).toBeUndefined();
    expect(told, what).toEqual([{ key: 'key', file: expect.stringContaining(`${file}.damaged-`) as string, reason: expect.any(String) as string }]);
    const aside = told[0]?.file as string;
    expect(await readdir(place.directory), what).toEqual([aside.slice(place.directory.length + 1)]);
    expect((await readFile(aside)).equals(bytes), what).toBe(true);
    await rm(aside);
  }

  it('by truncation is noticed at every length', { timeout: 120_000 }, async () => {
    for (let length = 0; length < sound.length; length++) await expectDamage(sound.subarray(0, length), `${length} bytes left`);
  });

  it('by one flipped bit is noticed, whichever it is', { timeout: 120_000 }, async () => {
    expect(unpackRecord(sound, 'key')).toMatchObject({ state: 'sound' });
    for (let bit = 0; bit < sound.length * 8; bit++) {
      const bytes = Buffer.from(sound);
      bytes[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7));
      expect(unpackRecord(bytes, 'key'), `bit ${bit}`).toMatchObject({ state: 'damaged' });
      // In each byte another one.
      if (bit % 9 === 0) await expectDamage(bytes, `bit ${bit}`);
    }
  });

  it.each<[string, (bytes: Buffer) => Buffer]>([
    ['bytes after the end', (bytes) => Buffer.concat([bytes, Buffer.from('x')])],
    ['NUL bytes as after a power failure', (bytes) => Buffer.alloc(bytes.length)],
    ['something else entirely', () => Buffer.from('<html>\n</html>')],
    ['a sound header of nonsense', () => record('{"v":1', '""')],
    ['a header with a right sum that is not JSON', () => record('{"v":', '""')],
    ['a version that never was', (bytes) => record(bytes.toString().replace(/,"sum".*/s, '').replace('"v":1', '"v":0'), lineOf(bytes, 1))],
    ['a later version with a wrong sum', (bytes) => Buffer.from(bytes.toString().replace('"v":1', '"v":2'))],
  ])('by %s is noticed', async (what, damage) => {
    await expectDamage(damage(sound), what);
  });

  it('by another key in the file is noticed', async () => {
    await store.set('other', 'value');
    const other = await readFile(place.file('other'));
    await store.delete('other');
    await expectDamage(other, 'the record of another key');
  });

  it('is no obstacle to a new value, and never overwritten untold', async () => {
    for (const write of [() => store.set('key', 'new'), () => store.set('key', 'new', null)]) {
      await writeFile(file, 'damage');
      const before = told.length;
      await write();
      expect((await store.get('key'))?.value).toBe('new');
      expect(told).toHaveLength(before + 1);
      expect(await readFile((told.at(-1) as DamagedFile).file, 'utf8')).toBe('damage');
    }
  });

  it('makes the old revision a wrong one', async () => {
    const revision = (await store.get('key'))?.revision as string;
    await writeFile(file, 'damage');
    await expect(store.set('key', 'new', revision)).rejects.toMatchObject({ code: 'CONFLICT' });
    await expect(store.delete('key', revision)).rejects.toMatchObject({ code: 'CONFLICT' });
    expect(told).toHaveLength(1);
  });

  it('is nothing to delete', async () => {
    await writeFile(file, 'damage');
    expect(await store.delete('key')).toBe(false);
    expect(told).toHaveLength(1);
  });

  it('is told once when many find it at the same time', async () => {
    await writeFile(file, 'damage');
    const other = place.opened({ onDamaged: (info) => told.push(info) });
    const found = await Promise.all(Array.from({ length: 10 }, (_, index) => (index % 2 ? store : other).get('key')));
    expect(found).toEqual(Array.from({ length: 10 }));
    expect(told).toHaveLength(1);
  });

  it('is looked at again before the file is set aside, for another process may have mended it', async () => {
    let reads = 0;
    patch({ readFile: async (path) => (reads++ === 0 ? Buffer.from('damage') : original.readFile(path)) });
    expect((await store.get('key'))?.value).toBe('"värdé"');
    unpatch();
    expect(told).toEqual([]);
    expect(await readdir(place.directory)).toEqual([nameOf('key')]);
  });

  it('does not show in the keys when it is in the header', async () => {
    await store.set('sound', 'value');
    await writeFile(file, sound.subarray(0, 100));
    await writeFile(place.file('copy'), sound);
    await writeFile(place.file('empty'), '');
    await writeFile(join(place.directory, 'README'), 'not ours');
    expect(await listed(store, '')).toEqual(['sound']);
    expect(told).toEqual([]);
  });

  it.each<[string, () => unknown]>([
    ['throws', () => { throw new Error('A bad listener.'); }],
    ['rejects', async () => { throw new Error('A bad listener.'); }],
  ])('is survived when the listener %s', async (_, onDamaged) => {
    await writeFile(file, 'damage');
    const other = place.opened({ onDamaged });
    expect(await other.get('key')).toBeUndefined();
    await other.set('key', 'value', null);
  });
});

describe('The file store: damage of which nobody asked to be told', () => {
  it('is a warning of the process, which names the file and no key or content', async () => {
    const store = place.opened();
    await store.set('alice', 'secret');
    await writeFile(place.file('alice'), (await readFile(place.file('alice'), 'utf8')).replace('secret', 'secre7'));
    const warned = once(process, 'warning');
    expect(await store.get('alice')).toBeUndefined();
    const [warning] = (await warned) as [Error];
    expect(warning).toMatchObject({ name: 'McpRepriseWarning', code: 'MCP_REPRISE_DAMAGED' });
    expect(warning.message).toContain(`${place.file('alice')}.damaged-`);
    expect(warning.message).not.toMatch(/alice|secre/);
  });
});

describe('The file store: a file that cannot be read when the keys are listed', () => {
  let told: DamagedFile[];
  let store: Store;

  beforeEach(async () => {
    told = [];
    store = place.opened({ onDamaged: (info) => told.push(info) });
    for (const key of ['a', 'b']) await store.set(key, 'value');
  });

  /** Makes the opening of some files fail. */
  function refuse(code: string, ...keys: string[]): void {
    const paths = keys.map(place.file);
    patch({ open: async (...args: Parameters<typeof original.open>) => (paths.includes(String(args[0])) ? Promise.reject(failure(code)) : original.open(...args)) });
  }

  it('is left out and told, once, when it is a directory', async () => {
    await mkdir(place.file('stray'));
    for (let turn = 0; turn < 2; turn++) expect(await listed(store, '')).toEqual(['a', 'b']);
    expect(told).toEqual([{ file: place.file('stray'), reason: expect.stringContaining('EISDIR') as string }]);
  });

  it('is no error when it is a directory, and all there is', async () => {
    const empty = place.opened({ onDamaged: (info) => told.push(info) });
    for (const key of ['a', 'b']) await store.delete(key);
    await mkdir(place.file('stray'));
    expect(await listed(empty, '')).toEqual([]);
    expect(told).toHaveLength(1);
  });

  it.each(['EACCES', 'EIO'])('is left out and told when it says %s', async (code) => {
    refuse(code, 'a');
    expect(await listed(store, '')).toEqual(['b']);
    expect(told).toEqual([{ file: place.file('a'), reason: expect.stringContaining(code) as string }]);
  });

  it('is a StoreError when it is every file, and so no empty list', async () => {
    refuse('EIO', 'a', 'b');
    await expect(listed(store, '')).rejects.toMatchObject({ name: 'StoreError', cause: { code: 'EIO' } });
  });

  it.each(['EMFILE', 'ENFILE'])('is a StoreError when it says %s, which no file is the reason of', async (code) => {
    refuse(code, 'a');
    await expect(listed(store, '')).rejects.toMatchObject({ name: 'StoreError', cause: { code } });
    expect(told).toEqual([]);
  });
});

describe('The file store: a record of an earlier version', () => {
  // There is none yet.
  it.each([
    ['no version', '{"key":"key","revision":"1","savedAt":1'],
    ['version 0', '{"v":0,"key":"key","revision":"1","savedAt":1'],
    ['a version below 0', '{"v":-1,"key":"key","revision":"1","savedAt":1'],
    ['a version that is no number', '{"v":"1","key":"key","revision":"1","savedAt":1'],
  ])('that says %s is set aside as it is and told, and its key is free', async (_, header) => {
    const told: DamagedFile[] = [];
    const store = place.opened({ onDamaged: (info) => told.push(info) });
    await store.set('other', 'value');
    const bytes = record(`${header},"value":"${sha256('"value"')}"`, '"value"');
    for (const use of [() => store.get('key'), () => store.set('key', 'new', null), () => store.delete('key')]) {
      await writeFile(place.file('key'), bytes);
      expect(await listed(store, '')).toEqual(['other']);
      told.length = 0;
      await use();
      expect(told).toMatchObject([{ key: 'key', reason: 'its header makes no sense' }]);
      expect((await readFile((told[0] as DamagedFile).file)).equals(bytes)).toBe(true);
      expect((await store.get('key'))?.value).toBe(use.toString().includes('set') ? 'new' : undefined);
    }
  });
});

describe('The file store: a record of a later version', () => {
  it('is refused and left alone', async () => {
    const told: DamagedFile[] = [];
    const store = place.opened({ onDamaged: (info) => told.push(info) });
    await store.set('other', 'value');
    const bytes = record('{"v":2,"key":"key","what":"ever"', 'whatever else\nthere is');
    await writeFile(place.file('key'), bytes);
    for (const attempt of [() => store.get('key'), () => store.set('key', 'v'), () => store.set('key', 'v', null), () => store.delete('key')]) {
      await expect(attempt()).rejects.toSatisfy((error: Error) => error.name === 'StoreError' && error.message.includes('later version'));
    }
    expect(await listed(store, '')).toEqual(['other']);
    expect((await readFile(place.file('key'))).equals(bytes)).toBe(true);
    expect((await readdir(place.directory)).sort()).toEqual([nameOf('key'), nameOf('other')].sort());
    expect(told).toEqual([]);
  });
});

function lineOf(bytes: Buffer, index: number): string {
  return bytes.toString().split('\n')[index] as string;
}
