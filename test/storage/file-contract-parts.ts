import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import type { Store } from '../../src/storage/store.ts';
import type { StoreAdapter } from '../../src/testing.ts';
import type { AnyMessage } from '../support/inbox.ts';
import { bundle, lockOf, OtherProcess } from './contract-children.ts';
import { failStepIn, hangIn } from './file-contract-faults.ts';

const RECORD = /^[0-9a-f]{64}$/;

/**
 * What the contract needs to examine stores over files, all of it.
 *
 * @param open - Opens a store in a directory.
 * @param secrets - Of the keys with which it encrypts: 64 hex digits each.
 */
export function adapterOfFiles(open: (directory: string) => Store, secrets: readonly string[] = []): Required<StoreAdapter> {
  let home: string;
  const directories = new WeakMap<Store, string>();
  /** What is to be ended with a store's case. */
  const children = new WeakMap<Store, OtherProcess[]>();
  const directoryOf = (store: Store): string => directories.get(store) as string;

  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), 'mcp-reprise-'));
    await bundle(new URL('file-contract.process.ts', import.meta.url), join(home, 'process.mjs'));
  });
  afterAll(() => rm(home, { recursive: true }));

  function start(first: Store, task: string, key: string, amount: number, onTold?: (told: AnyMessage) => void): OtherProcess {
    const other = new OtherProcess(join(home, 'process.mjs'), [task, directoryOf(first), secrets.join(','), key, `${amount}`], onTold);
    children.get(first)?.push(other);
    return other;
  }

  return {
    async create() {
      const directory = await mkdtemp(join(home, 'store-'));
      const store = open(directory);
      directories.set(store, directory);
      children.set(store, []);
      return store;
    },
    reopen: (first) => open(directoryOf(first)),
    async destroy(first) {
      await Promise.all((children.get(first) ?? []).map((child) => child.kill()));
      await rm(directoryOf(first), { recursive: true });
    },
    holdElsewhere: (first, key, ttl) => lockOf(start(first, 'hold', key, ttl)),
    pausesForGood: false,
    hang: (first) => hangIn(directoryOf(first)),
    async spawn(first, key, turns, counted) {
      const other = start(first, 'count', key, turns, ({ type }) => type === 'counted' && counted());
      await other.inbox.next('ready');
      return other.counter;
    },
    failStep: (first, n) => failStepIn(directoryOf(first), n),
    async *damage(first) {
      const name = (await readdir(directoryOf(first))).find((each) => RECORD.test(each)) as string;
      const file = join(directoryOf(first), name);
      const sound = await readFile(file);
      for (let length = 0; length < sound.length; length++) {
        await writeFile(file, sound.subarray(0, length));
        yield `cut off at ${length}`;
      }
      // In each byte another one: each takes a file that is set aside.
      for (let bit = 0; bit < sound.length * 8; bit += 9) {
        const bytes = Buffer.from(sound);
        bytes[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7));
        await writeFile(file, bytes);
        yield `bit ${bit}`;
      }
      await writeFile(file, sound);
    },
    async leftovers(first) {
      const directory = directoryOf(first);
      const old = new Date(Date.now() - 10 * 60_000);
      const inside = async (path: string): Promise<string[]> => (await readdir(path).catch(() => [])).map((name) => join(path, name));
      // Records of locks stay, for their numbers.
      const locks = (await inside(join(directory, 'locks'))).filter((path) => !RECORD.test(path.slice(-64)));
      const found = [...(await inside(directory)).filter((path) => path !== join(directory, 'locks')), ...locks];
      for (const path of found) await utimes(path, old, old);
      return found;
    },
    ttl: 1_000,
    limit: 25_000,
  };
}
