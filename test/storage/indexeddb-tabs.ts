import { vi } from 'vitest';
import type { Store } from '../../src/storage/store.ts';
import type * as Timers from '../../src/timers.ts';

/** What tests of the IndexedDB store need of other tabs, in one process. */

interface Tab {
  readonly indexedDbStore: (name?: string) => Store;
  freeze(): void;
  thaw(): void;
}

let opening: Promise<unknown> = Promise.resolve();

/** A tab of its own: the modules once more, with timers that can be made to stand still, as for a tab that is frozen. */
export function openTab(): Promise<Tab> {
  // The modules are for all: one after another.
  const tab = opening.then(loadTab);
  opening = tab;
  return tab;
}

async function loadTab(): Promise<Tab> {
  let frozen = false;
  const due: (() => void)[] = [];
  const late = (task: () => void) => () => void (frozen ? due.push(task) : task());
  vi.resetModules();
  vi.doMock('../../src/timers.ts', async (original) => {
    const timers = await original<typeof Timers>();
    const { after, afterIdle } = timers;
    return { ...timers, after: (delay: number, task: () => void) => after(delay, late(task)), afterIdle: (delay: number, task: () => void) => afterIdle(delay, late(task)) };
  });
  const { indexedDbStore } = await import('../../src/storage/indexeddb-store.ts');
  vi.doUnmock('../../src/timers.ts');
  vi.resetModules();
  return {
    indexedDbStore,
    freeze: () => void (frozen = true),
    thaw() {
      frozen = false;
      for (const task of due.splice(0)) task();
    },
  };
}

/** Keeps another tab's transaction going, so that nobody else comes to anything. Returns what ends it. */
export async function occupy(name: string): Promise<() => Promise<void>> {
  const tab = await opened(name);
  const transaction = tab.transaction('entries', 'readwrite');
  const over = new Promise<void>((resolve) => {
    transaction.oncomplete = () => resolve();
  });
  let holding = true;
  const hold = (): void => {
    if (holding) transaction.objectStore('entries').get('key').onsuccess = hold;
  };
  hold();
  return async () => {
    holding = false;
    await over;
    tab.close();
  };
}

export async function opened(name: string): Promise<IDBDatabase> {
  const request = indexedDB.open(name);
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** All that is in a database, except the records of locks, which stay for their numbers. */
export async function namesIn(name: string): Promise<string[]> {
  const database = await opened(name);
  const request = database.transaction('entries').objectStore('entries').getAllKeys();
  const keys = await new Promise<IDBValidKey[]>((resolve) => {
    request.onsuccess = () => resolve(request.result);
  });
  database.close();
  return keys.filter((key) => !(Array.isArray(key) && key[0] === 'lock')).map((key) => JSON.stringify(key));
}

interface Asking {
  readonly tab: object;
  readonly grant: () => void;
  readonly end: (error: DOMException) => void;
}

/** The Web Locks of one origin: as much of them as is needed here, as the standard has it. */
export class Origin {
  /** Those who have a lock or wait for it, in order: the first one has it. */
  readonly #lines = new Map<string, Asking[]>();

  /** The `navigator.locks` of one tab. */
  tab(): LockManager {
    const tab = {};
    const request = async (name: string, { signal }: LockOptions, callback: (lock: Lock | null) => Promise<unknown>): Promise<unknown> => {
      signal?.throwIfAborted();
      const line = this.#lines.get(name) ?? [];
      this.#lines.set(name, line);
      return new Promise((resolve, reject) => {
        const onAbort = (): void => asking.end(signal?.reason as DOMException);
        const leave = (): void => {
          const wasFirst = line[0] === asking;
          if (line.includes(asking)) line.splice(line.indexOf(asking), 1);
          if (wasFirst) line[0]?.grant();
        };
        const asking: Asking = {
          tab,
          grant: () => {
            signal?.removeEventListener('abort', onAbort);
            callback({ name, mode: 'exclusive' }).then(resolve, reject).finally(leave);
          },
          end(error) {
            reject(error);
            leave();
          },
        };
        signal?.addEventListener('abort', onAbort, { once: true });
        line.push(asking);
        if (line[0] === asking) asking.grant();
      });
    };
    return Object.assign(tab, { request, query: async () => ({}) }) as unknown as LockManager;
  }

  /** Ends a tab: what it has and waits for goes to the others. */
  close(tab: LockManager): void {
    for (const line of this.#lines.values()) {
      for (const asking of line.filter((each) => each.tab === tab)) asking.end(new DOMException('The tab is gone.', 'AbortError'));
    }
  }
}
