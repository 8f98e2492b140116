import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { unpackRecord } from '../../src/storage/file-envelope.ts';
import type { DamagedFile } from '../../src/storage/file-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { listed } from '../../src/testing/parts.ts';
import { original, patch, unpatch } from './file-faults.ts';
import { nameOf, record, usePlace } from './file-place.ts';

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

  it('by truncation is noticed at every length', async () => {
    for (let length = 0; length < sound.length; length++) await expectDamage(sound.subarray(0, length), `${length} bytes left`);
  });

  it('by one flipped bit is noticed, whichever it is', async () => {
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
