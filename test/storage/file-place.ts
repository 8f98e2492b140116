import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach } from 'vitest';
import { fileStore } from '../../src/storage/file-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { listed } from '../../src/testing/parts.ts';
import { unpatch } from './file-faults.ts';

/** A directory of its own for each test of the file store, and what was opened in it. */
export interface Place {
  /** Not there yet. */
  readonly directory: string;
  /** A store that is closed when the test is over. */
  opened(options?: Parameters<typeof fileStore>[1]): Store;
  /** The path of a key's file. */
  file(key: string): string;
}

export function usePlace(): Place {
  let directory: string;
  let stores: Store[];
  beforeEach(async () => {
    directory = join(await mkdtemp(join(tmpdir(), 'mcp-reprise-')), 'store');
    stores = [];
  });
  afterEach(async () => {
    unpatch();
    await Promise.all(stores.map((store) => store.close()));
    await rm(join(directory, '..'), { recursive: true });
  });
  return {
    get directory() {
      return directory;
    },
    opened(options) {
      const store = fileStore(directory, options);
      stores.push(store);
      return store;
    },
    file: (key) => join(directory, nameOf(key)),
  };
}

/** The name of a key's file. */
export function nameOf(key: string): string {
  return createHash('sha256').update(key, 'utf16le').digest('hex');
}

export function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

/** A record whose sum is right. */
export function record(header: string, value: string): Buffer {
  return Buffer.from(`${header},"sum":"${sha256(header)}"}\n${value}`);
}

export async function contents(store: Store): Promise<Record<string, string | undefined>> {
  const found: Record<string, string | undefined> = {};
  for (const key of await listed(store, '')) found[key] = (await store.get(key))?.value;
  return found;
}
