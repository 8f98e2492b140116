import { open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { Store } from '../../src/index.ts';
import type { ContenderName } from './contender.ts';

/** A place for one session on the disk. */
interface Shelf {
  save(record: string): Promise<void>;
  read(): Promise<string>;
}

const KEY = 'session/bench/';

/** By hand: what is there is whole, and is there after a power cut. */
function byHand(directory: string): Shelf {
  const path = join(directory, 'session.json');
  return {
    async save(record) {
      const beside = `${path}.new`;
      const file = await open(beside, 'w', 0o600);
      try {
        await file.writeFile(record);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(beside, path);
      const place = await open(directory);
      try {
        await place.sync();
      } finally {
        await place.close();
      }
    },
    read: () => readFile(path, 'utf8'),
  };
}

function inStore(store: Store): Shelf {
  return {
    save: async (record) => void (await store.set(KEY, record)),
    read: async () => (await store.get(KEY))?.value ?? '',
  };
}

async function fileStoreAt(directory: string): Promise<Store> {
  const { fileStore } = await import('mcp-reprise/node');
  return fileStore(directory);
}

const RECORD = JSON.stringify({ tools: Array.from({ length: 20 }, (_, i) => ({ name: `tool-${i}`, description: 'x'.repeat(300), inputSchema: { type: 'object' } })) });

/** Medians in ms of a read and a save. */
export async function shelve(name: ContenderName, directory: string, times: number): Promise<{ read: number; save: number }> {
  const shelf = name === 'ours' ? inStore(await fileStoreAt(directory)) : byHand(directory);
  const [saves, reads]: [number[], number[]] = [[], []];
  for (let i = 0; i < times; i++) {
    saves.push(await timed(() => shelf.save(RECORD)));
    reads.push(await timed(() => shelf.read()));
  }
  return { read: median(reads), save: median(saves) };
}

async function timed(task: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await task();
  return performance.now() - start;
}

function median(times: number[]): number {
  return times.sort((a, b) => a - b)[times.length >> 1] ?? 0;
}

/** Stores so many copies of the session that is in the directory, as those of other users. */
export async function multiply(directory: string, count: number): Promise<void> {
  const store = await fileStoreAt(directory);
  const key = await firstOf(store.keys('session/'));
  const there = key === undefined ? undefined : await store.get(key);
  if (key === undefined || !there) throw new Error('there is no session to multiply');
  // A hundred at a time.
  for (let i = 0; i < count; i += 100) await Promise.all(Array.from({ length: Math.min(100, count - i) }, (_, j) => store.set(`${key}-${i + j}`, there.value)));
  await store.close();
}

async function firstOf<T>(all: AsyncIterable<T>): Promise<T | undefined> {
  for await (const each of all) return each;
  return undefined;
}
