import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { fileStore } from '../../src/storage/file-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { Disk, type Image, restore } from './file-disk.ts';
import { unpatch } from './file-faults.ts';

/** What a process did before the power failed, and what the next one finds: at each step, and whatever the disk had not kept yet. */

let home: string;

beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'mcp-reprise-'));
});
afterEach(async () => {
  unpatch();
  await rm(home, { recursive: true });
});

/** Runs `work` on a disk, and then looks at each thing that may be left of it. Returns how many there were. */
async function afterEachFailure(work: (store: Store, disk: Disk) => Promise<void>, look: (path: string, marks: readonly string[], what: string) => Promise<void>): Promise<number> {
  const root = join(home, 'disk');
  await restore(new Map(), root);
  const disk = new Disk(root);
  // Two directories deep, none of which is there yet.
  const store = fileStore(join(root, 'deep', 'store'));
  await work(store, disk);
  await store.close();
  unpatch();
  const seen = new Set<string>();
  for (const { image, marks, what } of disk.failures()) {
    const key = JSON.stringify([marks.at(-1), [...image].map(([path, bytes]) => [path, bytes?.toString()])]);
    if (seen.has(key)) continue;
    seen.add(key);
    await onImage(image, (path) => look(path, marks, what));
  }
  return seen.size;
}

async function onImage(image: Image, look: (path: string) => Promise<void>): Promise<void> {
  const path = join(home, 'image');
  await restore(image, path);
  await look(join(path, 'deep', 'store'));
  await rm(path, { recursive: true });
}

describe('The file store: after a power failure', () => {
  it('has what it promised, or what was being written, and nothing in between', async () => {
    // Each with what is there when the step is done; `undefined`: nothing.
    const steps: [(store: Store) => Promise<unknown>, string | undefined][] = [
      [(store) => store.set('key', 'first'), 'first'],
      [(store) => store.set('key', 'second', null).catch(() => undefined), 'first'],
      [async (store) => store.set('key', 'second', (await store.get('key'))?.revision), 'second'],
      [(store) => store.delete('key'), undefined],
      [(store) => store.set('key', 'third', null), 'third'],
      [(store) => store.set('key', 'fourth'), 'fourth'],
    ];
    const values = [undefined, ...steps.map(([, value]) => value)];
    const count = await afterEachFailure(
      async (store, disk) => {
        for (const [step] of steps) {
          await step(store);
          disk.mark('done');
        }
      },
      async (path, marks, what) => {
        const damaged: unknown[] = [];
        const store = fileStore(path, { onDamaged: (info) => damaged.push(info) });
        const found = (await store.get('key'))?.value;
        await store.close();
        expect(damaged, what).toEqual([]);
        expect(values.slice(marks.length, marks.length + 2), what).toContain(found);
      },
    );
    expect(count).toBeGreaterThan(20);
  });

  it('gives a lock a greater number than anybody had', async () => {
    let checked = 0;
    await afterEachFailure(
      async (store, disk) => {
        for (let turn = 0; turn < 3; turn++) {
          const { fence, release } = await store.lock('key', { ttl: 60_000 });
          disk.mark(`${fence}`);
          await release();
        }
      },
      async (path, marks, what) => {
        // The record itself: a lock that was held at the failure is held until its ttl is over.
        const records = fileStore(join(path, 'locks'));
        const { fence } = JSON.parse((await records.get('key'))?.value ?? '{"fence":0}') as { fence: number };
        await records.close();
        expect(fence, what).toBeGreaterThanOrEqual(Number(marks.at(-1) ?? 0));
        checked++;
      },
    );
    expect(checked).toBeGreaterThan(20);
  });
});
