import type { ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, readdir, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { DamagedFile } from '../../src/storage/file-store.ts';
import { increment, listed } from '../../src/testing/parts.ts';
import { ended, killed, startProcess } from './file-children.ts';
import { original, patch } from './file-faults.ts';
import { nameOf, usePlace } from './file-place.ts';

const place = usePlace();
let children: ChildProcess[] = [];

afterEach(async () => {
  await Promise.all(children.map(killed));
  children = [];
});

describe('The file store: what dead writers left behind', () => {
  it('is removed after the first use, but only when it is old', async () => {
    await place.opened().set('key', 'value');
    const old = new Date(Date.now() - 6 * 60_000);
    const fresh = `${randomUUID()}.tmp`;
    const others = ['README', 'other.tmp', 'other.claim', `${nameOf('b')}.damaged-1`];
    for (const name of [`${randomUUID()}.tmp`, `${nameOf('a')}.claim`, fresh, ...others]) {
      await mkdir(join(place.directory, name));
      await writeFile(join(place.directory, name, 'entry'), 'half a rec');
      if (name !== fresh) await utimes(join(place.directory, name), old, old);
    }
    const next = place.opened();
    expect((await next.get('key'))?.value).toBe('value');
    await next.close();
    expect((await readdir(place.directory)).sort()).toEqual([nameOf('key'), fresh, ...others].sort());
  });

  it('does not count as a key', async () => {
    await place.opened().set('key', 'value');
    await mkdir(join(place.directory, `${randomUUID()}.tmp`));
    await mkdir(join(place.directory, `${nameOf('key')}.claim`));
    expect(await listed(place.opened(), '')).toEqual(['key']);
  });

  it('does not hold up a writer when it is an empty claim', async () => {
    await mkdir(join(place.directory, `${nameOf('key')}.claim`), { recursive: true });
    await place.opened().set('key', 'value', null);
    expect(await readdir(place.directory)).toEqual([nameOf('key')]);
  });

  it('does not hold up a writer where a rename never replaces a directory, not even an empty one', async () => {
    await mkdir(join(place.directory, `${nameOf('key')}.claim`), { recursive: true });
    patch({
      rename: async (from, to) => {
        const there = await stat(to).catch(() => undefined);
        if (there?.isDirectory()) throw Object.assign(new Error('EPERM: operation not permitted'), { code: 'EPERM' });
        await original.rename(from, to);
      },
    });
    await place.opened().set('key', 'value', null);
    expect(await readdir(place.directory)).toEqual([nameOf('key')]);
  });
});

describe('The file store: among processes', () => {
  it('never shows a part of a value', async () => {
    const told: DamagedFile[] = [];
    const store = place.opened({ onDamaged: (info) => told.push(info) });
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

  it('goes on after a process that was killed while it held the file', async () => {
    const store = place.opened();
    await store.set('key', 'old');
    const child = start('paused-set');
    expect(await once(child, 'message')).toEqual(['claimed', undefined]);
    child.kill('SIGKILL');
    await ended(child);
    expect(await readdir(place.directory)).toContain(`${nameOf('key')}.claim`);
    expect((await store.get('key'))?.value).toBe('old');
    await increment(store, 'other');
    await store.set('key', 'ours', (await store.get('key'))?.revision);
    expect((await store.get('key'))?.value).toBe('ours');
    expect((await readdir(place.directory)).sort()).toEqual([nameOf('key'), nameOf('other')].sort());
  });

  it.each(['set', 'delete'])('lets no %s happen that was paused while it held the file and was overtaken', async (task) => {
    const store = place.opened();
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
    expect(await readdir(place.directory)).toEqual([nameOf('key')]);
  });

  it('lets a change happen that was paused and not overtaken', async () => {
    const store = place.opened();
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

function start(task: string, times?: string): ChildProcess {
  const child = startProcess(task, place.directory, 'key', times);
  children.push(child);
  return child;
}
