import { fork, type ChildProcess } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import fs, { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { StoreError } from '../../src/errors.ts';
import { fileStore, type DamagedFile } from '../../src/storage/file-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { describeStore } from './contract.ts';
import { increment } from './increment.ts';


/** The functions themselves, for tests that put others in their place. */
const original = { ...fs };

let directory: string;
let stores: Store[];
let children: ChildProcess[];

async function setUp(): Promise<void> {
  directory = join(await mkdtemp(join(tmpdir(), 'mcp-reprise-')), 'store');
  stores = [];
  children = [];
}

async function tearDown(): Promise<void> {
  unpatch();
  for (const child of children) child.kill('SIGKILL');
  await Promise.all(children.map(ended));
  await Promise.all(stores.map((store) => store.close()));
  await rm(join(directory, '..'), { recursive: true });
}

function opened(options?: Parameters<typeof fileStore>[1]): Store {
  const store = fileStore(directory, options);
  stores.push(store);
  return store;
}

describeStore('The file store', async () => {
  await setUp();
  return { store: opened(), reopen: async () => opened(), destroy: tearDown };
});

describe('The file store', () => {
  beforeEach(setUp);
  afterEach(tearDown);

  describe('its files', () => {
    it('refuses a directory that is empty or not a string', () => {
      expect(() => fileStore('')).toThrow(TypeError);
      expect(() => fileStore(undefined as unknown as string)).toThrow(TypeError);
    });

    it('makes the missing directory and its parents, for the owner only', async () => {
      const store = fileStore(join(directory, 'deep', 'down'));
      stores.push(store);
      expect(await store.get('key')).toBeUndefined();
      await expect(stat(directory)).rejects.toThrow('ENOENT');
      await store.set('key', 'value');
      for (const path of [directory, join(directory, 'deep'), join(directory, 'deep', 'down')]) expect(await modeOf(path)).toBe(0o700);
    });

    it('takes a relative path from the working directory at its making', async () => {
      await mkdir(directory);
      const before = process.cwd();
      process.chdir(directory);
      const store = fileStore('store');
      stores.push(store);
      process.chdir(before);
      await store.set('key', 'value');
      expect(await readdir(join(directory, 'store'))).toEqual([nameOf('key')]);
    });

    it('makes the directory again when it is removed in between', async () => {
      const store = opened();
      await store.set('key', 'value');
      await rm(directory, { recursive: true });
      expect(await store.get('key')).toBeUndefined();
      await store.set('key', 'value', null);
      expect(await modeOf(directory)).toBe(0o700);
    });

    it('leaves the mode of an existing directory alone', async () => {
      await mkdir(directory);
      await chmod(directory, 0o755);
      await opened().set('key', 'value');
      expect(await modeOf(directory)).toBe(0o755);
    });

    it('keeps one file per key, for the owner only, and nothing else', async () => {
      const store = opened();
      for (const key of ['a', 'b', 'gone']) await store.set(key, 'value');
      await store.set('a', 'other');
      await expect(store.set('b', 'other', null)).rejects.toBeInstanceOf(StoreError);
      await store.delete('gone');
      expect((await readdir(directory)).sort()).toEqual([nameOf('a'), nameOf('b')].sort());
      for (const name of await readdir(directory)) expect(await modeOf(join(directory, name))).toBe(0o600);
    });

    it('writes a header with a checksum of everything, and the value', async () => {
      const before = Date.now();
      const revision = await opened().set('key', 'välue\n');
      const [header = '', value, ...rest] = (await readFile(join(directory, nameOf('key')), 'utf8')).split('\n');
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
      const store = opened();
      await store.set('key', 'old');
      const steps: string[] = [];
      patch({
        open: async (...args) => {
          const handle = await original.open(...args);
          const { sync } = handle;
          const what = args[0] === directory ? 'directory' : 'file';
          return Object.assign(handle, { sync: () => sync.call(handle).then(() => void steps.push(`${what} flushed`)) });
        },
        rename: async (from, to) => {
          await original.rename(from, to);
          if (to === join(directory, nameOf('key'))) steps.push('file in place');
          if (from === join(directory, nameOf('key'))) steps.push('file gone');
        },
      });
      await store.set('key', 'new');
      await store.delete('key');
      unpatch();
      expect(steps).toEqual(['file flushed', 'file in place', 'directory flushed', 'file gone', 'directory flushed']);
    });

    it('keeps lone surrogates, in keys and values', async () => {
      const store = opened();
      for (const key of ['\uD83E', '\uDD89', '\uFFFD']) await store.set(key, `a${key}b`, null);
      for (const key of ['\uD83E', '\uDD89', '\uFFFD']) expect((await store.get(key))?.value).toBe(`a${key}b`);
    });

    it('lets the last of several sets win that were begun in order', async () => {
      const store = opened();
      await Promise.all(['1', '2', '3', '4', '5'].map((value) => store.set('key', value)));
      expect((await store.get('key'))?.value).toBe('5');
    });
  });

  describe('errors of the file system', () => {
    it('become StoreErrors with their cause when the path is a file', async () => {
      await writeFile(directory, 'a file');
      const store = opened();
      const attempts = [store.get('key'), store.set('key', 'value'), store.delete('key'), store.keys('')[Symbol.asyncIterator]().next()];
      for (const attempt of await Promise.allSettled(attempts)) {
        expect(attempt).toMatchObject({ reason: { name: 'StoreError', cause: { code: expect.any(String) as string } } });
      }
      expect(await readFile(directory, 'utf8')).toBe('a file');
    });

    it('become StoreErrors when a directory is where a record belongs', async () => {
      await mkdir(join(directory, nameOf('key')), { recursive: true });
      await expect(opened().get('key')).rejects.toBeInstanceOf(StoreError);
      await expect(opened().set('key', 'value')).rejects.toBeInstanceOf(StoreError);
    });

    it('become a StoreError when a file cannot be claimed at all', async () => {
      const cause = Object.assign(new Error('EPERM: operation not permitted'), { code: 'EPERM' });
      patch({ rename: () => Promise.reject(cause) });
      await expect(opened().set('key', 'value')).rejects.toMatchObject({ name: 'StoreError', cause });
      unpatch();
      expect(await readdir(directory)).toEqual([]);
    });

    it('do not name the key, which may name a person', async () => {
      await writeFile(directory, 'a file');
      const store = opened();
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
        const store = opened();
        await store.set('key', 'old');
        const failing = failAtStep(step);
        const outcome = await change(store).then(
          () => 'resolved',
          (error: unknown) => error,
        );
        done = !failing.stop();
        const found = await contents(opened());
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

  describe('damage', () => {
    let told: DamagedFile[];
    let store: Store;
    let file: string;
    let sound: Buffer;

    beforeEach(async () => {
      told = [];
      store = opened({ onDamaged: (info) => told.push(info) });
      await store.set('key', '"värdé"');
      file = join(directory, nameOf('key'));
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
      expect(await readdir(directory), what).toEqual([aside.slice(directory.length + 1)]);
      expect((await readFile(aside)).equals(bytes), what).toBe(true);
      await rm(aside);
    }

    it('by truncation is noticed at every length', async () => {
      for (let length = 0; length < sound.length; length++) await expectDamage(sound.subarray(0, length), `${length} bytes left`);
    });

    it('by one flipped bit is noticed, whichever it is', async () => {
      for (let bit = 0; bit < sound.length * 8; bit++) {
        const bytes = Buffer.from(sound);
        bytes[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7));
        await expectDamage(bytes, `bit ${bit}`);
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
      const other = await readFile(join(directory, nameOf('other')));
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
      const other = opened({ onDamaged: (info) => told.push(info) });
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
      expect(await readdir(directory)).toEqual([nameOf('key')]);
    });

    it('does not show in the keys when it is in the header', async () => {
      await store.set('sound', 'value');
      await writeFile(file, sound.subarray(0, 100));
      await writeFile(join(directory, nameOf('copy')), sound);
      await writeFile(join(directory, nameOf('empty')), '');
      await writeFile(join(directory, 'README'), 'not ours');
      expect(await listed(store)).toEqual(['sound']);
      expect(told).toEqual([]);
    });

    it.each<[string, () => unknown]>([
      ['throws', () => { throw new Error('A bad listener.'); }],
      ['rejects', async () => { throw new Error('A bad listener.'); }],
    ])('is survived when the listener %s', async (_, onDamaged) => {
      await writeFile(file, 'damage');
      const other = opened({ onDamaged });
      expect(await other.get('key')).toBeUndefined();
      await other.set('key', 'value', null);
    });
  });

  describe('a record of a later version', () => {
    it('is refused and left alone', async () => {
      const told: DamagedFile[] = [];
      const store = opened({ onDamaged: (info) => told.push(info) });
      await store.set('other', 'value');
      const bytes = record('{"v":2,"key":"key","what":"ever"', 'whatever else\nthere is');
      await writeFile(join(directory, nameOf('key')), bytes);
      for (const attempt of [() => store.get('key'), () => store.set('key', 'v'), () => store.set('key', 'v', null), () => store.delete('key')]) {
        await expect(attempt()).rejects.toSatisfy((error: Error) => error.name === 'StoreError' && error.message.includes('later version'));
      }
      expect(await listed(store)).toEqual(['other']);
      expect((await readFile(join(directory, nameOf('key')))).equals(bytes)).toBe(true);
      expect((await readdir(directory)).sort()).toEqual([nameOf('key'), nameOf('other')].sort());
      expect(told).toEqual([]);
    });
  });

  describe('what dead writers left behind', () => {
    it('is removed on first use, but only when it is old', async () => {
      await opened().set('key', 'value');
      const old = new Date(Date.now() - 6 * 60_000);
      const fresh = `${randomUUID()}.tmp`;
      const others = ['README', 'other.tmp', 'other.claim', `${nameOf('b')}.damaged-1`];
      for (const name of [`${randomUUID()}.tmp`, `${nameOf('a')}.claim`, fresh, ...others]) {
        await mkdir(join(directory, name));
        await writeFile(join(directory, name, 'entry'), 'half a rec');
        if (name !== fresh) await utimes(join(directory, name), old, old);
      }
      const next = opened();
      expect((await next.get('key'))?.value).toBe('value');
      await next.close();
      expect((await readdir(directory)).sort()).toEqual([nameOf('key'), fresh, ...others].sort());
    });

    it('does not count as a key', async () => {
      await opened().set('key', 'value');
      await mkdir(join(directory, `${randomUUID()}.tmp`));
      await mkdir(join(directory, `${nameOf('key')}.claim`));
      expect(await listed(opened())).toEqual(['key']);
    });

    it('does not hold up a writer when it is an empty claim', async () => {
      await mkdir(join(directory, `${nameOf('key')}.claim`), { recursive: true });
      await opened().set('key', 'value', null);
      expect(await readdir(directory)).toEqual([nameOf('key')]);
    });

    it('does not hold up a writer where a rename never replaces a directory, not even an empty one', async () => {
      await mkdir(join(directory, `${nameOf('key')}.claim`), { recursive: true });
      patch({
        rename: async (from, to) => {
          const there = await stat(to).catch(() => undefined);
          if (there?.isDirectory()) throw Object.assign(new Error('EPERM: operation not permitted'), { code: 'EPERM' });
          await original.rename(from, to);
        },
      });
      await opened().set('key', 'value', null);
      expect(await readdir(directory)).toEqual([nameOf('key')]);
    });
  });

  describe('among processes', () => {
    it('never shows a part of a value', async () => {
      const told: DamagedFile[] = [];
      const store = opened({ onDamaged: (info) => told.push(info) });
      const child = start('alternate', '200');
      let running = true;
      void ended(child).then(() => (running = false));
      const seen = new Set<string>();
      while (running) {
        const value = (await store.get('key'))?.value;
        if (value !== undefined) seen.add(`${value.length} ${[...new Set(value)].join('')}`);
      }
      expect(['100000 b', '200000 a']).toEqual(expect.arrayContaining([...seen]));
      expect(await store.get('key')).toMatchObject({ value: 'a'.repeat(200_000) });
      expect(told).toEqual([]);
    });

    it('loses none of 4 × 50 read-modify-writes', async () => {
      const running = Array.from({ length: 4 }, () => start('increment', '50'));
      await Promise.all(running.map(ended));
      expect((await opened().get('key'))?.value).toBe('200');
      expect(await readdir(directory)).toEqual([nameOf('key')]);
    });

    it('loses none when one of them is killed in the middle', async () => {
      const victim = start('increment', '100000');
      let told = 0;
      victim.on('message', (message) => (told += message === 'incremented' ? 1 : 0));
      await once(victim, 'message');
      const others = Array.from({ length: 3 }, () => start('increment', '50'));
      const done = Promise.all(others.map(ended));
      await once(others[0] as ChildProcess, 'message');
      await once(victim, 'message');
      const silent = once(victim, 'disconnect');
      victim.kill('SIGKILL');
      await Promise.all([done, ended(victim), silent]);
      const total = Number((await opened().get('key'))?.value);
      // The victim may have written one that it could not tell any more.
      expect([150 + told, 151 + told]).toContain(total);
    });

    it('goes on after a process that was killed while it held the file', async () => {
      const store = opened();
      await store.set('key', 'old');
      const child = start('paused-set');
      expect(await once(child, 'message')).toEqual(['claimed', undefined]);
      child.kill('SIGKILL');
      await ended(child);
      expect(await readdir(directory)).toContain(`${nameOf('key')}.claim`);
      expect((await store.get('key'))?.value).toBe('old');
      await increment(store, 'other');
      await store.set('key', 'ours', (await store.get('key'))?.revision);
      expect((await store.get('key'))?.value).toBe('ours');
      expect((await readdir(directory)).sort()).toEqual([nameOf('key'), nameOf('other')].sort());
    });

    it.each(['set', 'delete'])('lets no %s happen that was paused while it held the file and was overtaken', async (task) => {
      const store = opened();
      await store.set('key', 'old');
      const child = start(`paused-${task}`);
      expect(await once(child, 'message')).toEqual(['claimed', undefined]);
      child.kill('SIGSTOP');
      const revision = await store.set('key', 'ours');
      const outcome = once(child, 'message');
      child.kill('SIGCONT');
      child.send('go on');
      expect(await outcome).toEqual(['ConflictError', undefined]);
      await ended(child);
      expect(await store.get('key')).toEqual({ value: 'ours', revision });
      expect(await readdir(directory)).toEqual([nameOf('key')]);
    });

    it('lets a change happen that was paused and not overtaken', async () => {
      const store = opened();
      await store.set('key', 'old');
      const child = start('paused-set');
      await once(child, 'message');
      child.kill('SIGSTOP');
      const outcome = once(child, 'message');
      child.kill('SIGCONT');
      child.send('go on');
      expect(await outcome).toEqual(['done', undefined]);
      expect((await store.get('key'))?.value).toBe('theirs');
    });
  });
});

function start(task: string, times = ''): ChildProcess {
  const script = fileURLToPath(new URL('file-store.process.ts', import.meta.url));
  const child = fork(script, [task, directory, 'key', times], { execArgv: ['--conditions=mcp-reprise-source', '--import', 'tsx'] });
  children.push(child);
  return child;
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  if (child.exitCode) throw new Error(`The other process failed with ${child.exitCode}.`);
}

async function listed(store: Store): Promise<string[]> {
  const keys: string[] = [];
  for await (const key of store.keys('')) keys.push(key);
  return keys.sort();
}

async function contents(store: Store): Promise<Record<string, string | undefined>> {
  const found: Record<string, string | undefined> = {};
  for (const key of await listed(store)) found[key] = (await store.get(key))?.value;
  return found;
}

async function modeOf(path: string): Promise<number> {
  return (await stat(path)).mode & 0o777;
}

function nameOf(key: string): string {
  return createHash('sha256').update(key, 'utf16le').digest('hex');
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

function lineOf(bytes: Buffer, index: number): string {
  return bytes.toString().split('\n')[index] as string;
}

/** A record whose sum is right. */
function record(header: string, value: string): Buffer {
  return Buffer.from(`${header},"sum":"${sha256(header)}"}\n${value}`);
}

type Patch = { readonly [K in 'open' | 'rename']?: (typeof fs)[K] } & { readonly readFile?: (path: string) => Promise<Buffer> };

/** Puts other functions in the place of some of `node:fs/promises`, until {@link unpatch}. */
function patch(functions: Patch | Record<string, unknown>): void {
  Object.assign(fs, functions);
  syncBuiltinESMExports();
}

function unpatch(): void {
  patch(original);
}

/** Makes the step-th call into the file system fail with EIO, in the order in which they are made. `stop` says whether it came to that. */
function failAtStep(step: number): { stop(): boolean } {
  let calls = 0;
  const failing = (name: string, call: (...args: never[]) => Promise<unknown>) => async (...args: never[]) => {
    const fails = calls++ === step;
    // A close does happen, or its descriptor would be lost.
    if (fails && name !== 'close') throw ioError();
    const result = await call(...args);
    if (fails) throw ioError();
    return result;
  };
  const open = async (...args: Parameters<typeof fs.open>) => {
    const handle = await original.open(...args);
    for (const method of ['writeFile', 'sync', 'close', 'read'] as const) {
      Object.assign(handle, { [method]: failing(method, handle[method].bind(handle)) });
    }
    return handle;
  };
  const names = ['mkdir', 'readFile', 'readdir', 'rename', 'rm', 'rmdir'] as const;
  patch({ open: failing('open', open), ...Object.fromEntries(names.map((name) => [name, failing(name, original[name])])) });
  return {
    stop() {
      unpatch();
      return calls > step;
    },
  };
}

function ioError(): Error {
  return Object.assign(new Error('EIO: i/o error'), { code: 'EIO' });
}
