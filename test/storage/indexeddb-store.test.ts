import 'fake-indexeddb/auto';
import { IDBFactory } from 'fake-indexeddb';
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { StoreError } from '../../src/errors.ts';
import { indexedDbStore } from '../../src/storage/indexeddb-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { occupy, opened, Origin } from './indexeddb-tabs.ts';

beforeEach(() => {
  globalThis.indexedDB = new IDBFactory();
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

describe('The IndexedDB store', () => {
  it('refuses a name that is empty or not a string', () => {
    expect(() => indexedDbStore('')).toThrow(TypeError);
    expect(() => indexedDbStore(1 as unknown as string)).toThrow(TypeError);
  });

  it('opens the database at first use and not before', async () => {
    const open = vi.spyOn(indexedDB, 'open');
    const store = indexedDbStore('mine');
    expect(open).not.toHaveBeenCalled();
    await store.set('a', '1');
    await store.get('a');
    expect(open).toHaveBeenCalledExactlyOnceWith('mine');
    await store.close();
  });

  it('does not open the database in order to close', async () => {
    const open = vi.spyOn(indexedDB, 'open');
    await indexedDbStore().close();
    expect(open).not.toHaveBeenCalled();
  });

  it('keeps databases of different names apart', async () => {
    const one = indexedDbStore('one');
    const two = indexedDbStore('two');
    await one.set('key', 'value');
    expect(await two.get('key')).toBeUndefined();
    await Promise.all([one.close(), two.close()]);
  });

  it('makes a compare-and-set in one transaction', async () => {
    const store = indexedDbStore();
    const revision = await store.set('key', 'value');
    const transaction = vi.spyOn(IDBDatabase.prototype, 'transaction');
    await store.set('key', 'next', revision);
    await store.delete('key', await revisionOf(store));
    expect(transaction.mock.calls.map(([, mode]) => mode)).toEqual(['readwrite', 'readonly', 'readwrite']);
    await store.close();
  });

  it('rejects with a StoreError where there is no IndexedDB', async () => {
    vi.stubGlobal('indexedDB', undefined);
    const store = indexedDbStore();
    for (const attempt of everyOperation(store)) {
      await expect(attempt).rejects.toMatchObject({ name: 'StoreError', cause: expect.anything() });
    }
    vi.unstubAllGlobals();
    await store.set('key', 'value');
    await store.close();
  });

  it('gives up an open that hangs after 3 s, and opens anew for the next use', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const open = vi.spyOn(indexedDB, 'open').mockImplementation(() => ({}) as IDBOpenDBRequest);
    const store = indexedDbStore();
    const attempts = everyOperation(store).map((attempt) => attempt.catch((error: unknown) => error));
    let settled = 0;
    for (const attempt of attempts) void attempt.then(() => settled++);
    await vi.advanceTimersByTimeAsync(2_999);
    expect(settled).toBe(0);
    await vi.advanceTimersByTimeAsync(1);
    for (const error of await Promise.all(attempts)) {
      expect(error).toBeInstanceOf(StoreError);
      expect((error as Error).message).toMatch('within 3 s');
    }
    open.mockRestore();
    await store.set('key', 'value');
    expect((await store.get('key'))?.value).toBe('value');
    await store.close();
    expect(vi.getTimerCount()).toBe(0);
  });

  it('writes nothing and keeps nothing open when the open succeeds too late', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const realOpen = indexedDB.open.bind(indexedDB);
    let openLate = (): void => undefined;
    const open = vi.spyOn(indexedDB, 'open').mockImplementation((name) => {
      const request = {} as { -readonly [K in keyof IDBOpenDBRequest]: IDBOpenDBRequest[K] };
      openLate = () => {
        const real = realOpen(name);
        real.onupgradeneeded = (event) => {
          request.result = real.result;
          request.onupgradeneeded?.call(real, event);
        };
        real.onsuccess = (event) => request.onsuccess?.call(real, event);
      };
      return request;
    });
    const store = indexedDbStore();
    const writing = store.set('key', 'value').catch((error: unknown) => error);
    await vi.advanceTimersByTimeAsync(3_000);
    expect(await writing).toBeInstanceOf(StoreError);

    open.mockRestore();
    const close = vi.spyOn(IDBDatabase.prototype, 'close');
    const closed = new Promise<void>((resolve) => close.mockImplementation(() => resolve()));
    openLate();
    await closed;
    close.mockRestore();
    expect(await store.get('key')).toBeUndefined();
    await store.close();
  });

  it('takes back a transaction that does not end within 3 s', async () => {
    const store = indexedDbStore();
    await store.set('key', 'old');
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const goOn = await occupy('mcp-reprise');
    const writing = store.set('key', 'new').catch((error: unknown) => error);
    await vi.advanceTimersByTimeAsync(3_000);
    expect(await writing).toBeInstanceOf(StoreError);
    await goOn();
    expect((await store.get('key'))?.value).toBe('old');
    await store.close();
  });

  it('goes on with a new connection when the browser closed the old one without a word', async () => {
    const store = indexedDbStore();
    await store.set('key', 'value');
    const open = vi.spyOn(indexedDB, 'open');
    vi.spyOn(IDBDatabase.prototype, 'transaction').mockImplementationOnce(() => {
      throw new DOMException('The database connection is closing.', 'InvalidStateError');
    });
    expect((await store.get('key'))?.value).toBe('value');
    expect(open).toHaveBeenCalledTimes(1);
    await store.close();
  });

  it('rejects when a new connection is lost too', async () => {
    const store = indexedDbStore();
    await store.set('key', 'value');
    const cause = new DOMException('The database connection is closing.', 'InvalidStateError');
    const transaction = vi.spyOn(IDBDatabase.prototype, 'transaction').mockImplementation(() => {
      throw cause;
    });
    await expect(store.get('key')).rejects.toMatchObject({ name: 'StoreError', cause });
    transaction.mockRestore();
    expect((await store.get('key'))?.value).toBe('value');
    await store.close();
  });

  it('does not stand in the way when another tab deletes the database', async () => {
    const store = indexedDbStore();
    await store.set('key', 'value');
    await deleted('mcp-reprise');
    expect(await store.get('key')).toBeUndefined();
    await store.set('key', 'again', null);
    await store.close();
  });

  it('lets go of the database on close', async () => {
    const store = indexedDbStore();
    await store.set('key', 'value');
    const closed = vi.spyOn(IDBDatabase.prototype, 'close');
    await store.close();
    expect(closed).toHaveBeenCalledTimes(1);
  });

  it('rejects with a StoreError for an entry that it did not write, and can overwrite nothing by mistake', async () => {
    const store = indexedDbStore();
    await store.set('key', 'value');
    const tab = await opened('mcp-reprise');
    tab.transaction('entries', 'readwrite').objectStore('entries').put({ other: true }, 'key');
    await expect(store.get('key')).rejects.toBeInstanceOf(StoreError);
    await expect(store.set('key', 'value', null)).rejects.toBeInstanceOf(StoreError);
    tab.close();
    await store.close();
  });

  it('rejects with a StoreError when a write fails', async () => {
    const store = indexedDbStore();
    const cause = new DOMException('Full.', 'QuotaExceededError');
    vi.spyOn(IDBObjectStore.prototype, 'put').mockImplementationOnce(() => {
      throw cause;
    });
    await expect(store.set('key', 'value')).rejects.toMatchObject({ name: 'StoreError', cause });
    await store.set('key', 'value', null);
    await store.close();
  });
});

describe('The locks of the IndexedDB store', () => {
  const origin = new Origin();

  function tab(name?: string): { locks: LockManager; store: Store } {
    const locks = origin.tab();
    vi.stubGlobal('navigator', { locks });
    onTestFinished(() => void vi.unstubAllGlobals());
    const store = indexedDbStore(name);
    onTestFinished(() => store.close());
    return { locks, store };
  }

  it('of different databases do not meet', async () => {
    const locks = await Promise.all([tab('one').store.lock('two/key', { ttl: 1_000 }), tab('one/two').store.lock('key', { ttl: 1_000 })]);
    expect(locks.map(({ lost }) => lost.aborted)).toEqual([false, false]);
  });

  it('are given by the browser, and counted in the database', async () => {
    const { fence, release } = await tab().store.lock('key', { ttl: 1_000 });
    await release();
    expect((await tab().store.lock('key', { ttl: 1_000 })).fence).toBe(fence + 1);
    vi.stubGlobal('navigator', undefined);
    const withoutWebLocks = indexedDbStore();
    expect((await withoutWebLocks.lock('key', { ttl: 1_000 })).fence).toBe(fence + 2);
    await withoutWebLocks.close();
  });

  it('need no timer where the browser gives them', async () => {
    const { store } = tab();
    await store.get('key');
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    await store.lock('key', { ttl: 1_000 });
    expect(vi.getTimerCount()).toBe(0);
  });

  it('are lost when the browser takes them away', async () => {
    const { locks, store } = tab();
    const lock = await store.lock('key', { ttl: 1_000 });
    origin.close(locks);
    await vi.waitFor(() => expect(lock.lost.aborted).toBe(true));
    await lock.release();
    await store.lock('key', { ttl: 1_000 });
  });

  it('are free for others when they could not be counted', async () => {
    const { store } = tab();
    const cause = new DOMException('Full.', 'QuotaExceededError');
    vi.spyOn(IDBObjectStore.prototype, 'put').mockImplementationOnce(() => {
      throw cause;
    });
    await expect(store.lock('key', { ttl: 1_000 })).rejects.toMatchObject({ name: 'StoreError', cause });
    await tab().store.lock('key', { ttl: 1_000 });
  });

  it('are a StoreError where the browser refuses them', async () => {
    const cause = new DOMException('Not here.', 'SecurityError');
    vi.stubGlobal('navigator', { locks: { request: () => Promise.reject(cause) } });
    onTestFinished(() => void vi.unstubAllGlobals());
    const store = indexedDbStore();
    await expect(store.lock('key', { ttl: 1_000 })).rejects.toMatchObject({ name: 'StoreError', cause });
    await store.close();
  });
});

function everyOperation(store: Store): Promise<unknown>[] {
  return [store.get('key'), store.set('key', 'value'), store.delete('key'), store.keys('')[Symbol.asyncIterator]().next()];
}

async function revisionOf(store: Store): Promise<string> {
  return (await store.get('key'))?.revision as string;
}

/** Deletes a database, which fails as long as a connection to it stays open. */
async function deleted(name: string): Promise<void> {
  const request = indexedDB.deleteDatabase(name);
  await new Promise<void>((resolve, reject) => {
    request.onsuccess = () => resolve();
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error('A connection is still open.'));
  });
}
