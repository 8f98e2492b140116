import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { memoryStore, Sessions, type Store, StoreError } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { runScript } from '../support/client-process.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { altered, connected, failure, say, temporaryDirectory, wellBehaved, wireOf } from '../session/clients.ts';
import type { Said, Told } from './sessions.process.ts';
import { expired, HOUR, keysIn, kinds, put, recordOf, storeOf } from './sessions.parts.ts';

let server: FixtureProcess;
beforeAll(async () => void (server = await startServer()));
afterAll(() => server.stop());
beforeEach(async () => {
  await server.behave(wellBehaved);
  await server.forget();
  await server.clearRequests();
});
afterEach(() => void vi.useRealTimers());

/** Only the clock is set: what waits, waits. */
function goesBy(time: number): void {
  const now = Date.now();
  vi.useFakeTimers({ toFake: ['Date'], now: now + time });
}

describe.each(kinds)('cleaning up a store ($kind)', (kind) => {
  test('removes expired sessions, ends them on the server, and leaves the others', async () => {
    const store = await storeOf(kind);
    const ids: Record<string, string | undefined> = {};
    for (const [name, ttl] of [['short', HOUR], ['long', 3 * HOUR], ['endless', Number.POSITIVE_INFINITY]] as const) {
      const client = await connected(server.url, { store, session: name, ttl, listen: false });
      ids[name] = client.session.id;
      await client.close();
    }
    await server.clearRequests();
    const sessions = new Sessions(store);
    expect(await sessions.cleanupExpired()).toBe(0);
    expect(await server.requests()).toEqual([]);
    goesBy(2 * HOUR);
    expect(await sessions.cleanupExpired()).toBe(1);
    expect(await server.requests()).toMatchObject([{ http: 'DELETE', sessionId: ids['short'], status: 200 }]);
    expect((await sessions.list()).map(({ name }) => name).sort()).toEqual(['endless', 'long']);
    goesBy(20 * HOUR);
    expect(await sessions.cleanupExpired({ end: false })).toBe(1);
    expect(await server.sessions()).toHaveLength(2);
    expect((await sessions.list()).map(({ name }) => name)).toEqual(['endless']);
  });

  test('removes what expired durable calls have left, and leaves the others', async () => {
    const store = await storeOf(kind);
    const client = await connected(server.url, { store, session: 'short', ttl: HOUR, listen: false });
    const other = await connected(server.url, { store, session: 'long', ttl: 3 * HOUR, listen: false });
    for (const each of [client, other]) await say(each, 'echo', { text: 'x' }, { callId: 'once' });
    await client.close();
    await other.close();
    const sessions = new Sessions(store);
    expect(await sessions.cleanupExpired()).toBe(0);
    goesBy(2 * HOUR);
    expect(await sessions.cleanupExpired()).toBe(2);
    expect(await keysIn(store, 'call/')).toEqual([expect.stringContaining('/long/once')]);
    expect(await keysIn(store, 'session/')).toEqual([expect.stringContaining('/long')]);
  });
});

describe('cleaning up', () => {
  test('several times at once ends each session once', async () => {
    const store = fileStore(await temporaryDirectory());
    for (let i = 0; i < 10; i++) await put(store, { id: `old-${i}`, name: `s${i}`, url: server.url.href, ...expired() });
    const removed = await Promise.all([1, 2, 3].map(() => new Sessions(store).cleanupExpired()));
    expect(removed.reduce((a, b) => a + b)).toBe(10);
    const ended = (await wireOf(server, 'DELETE')).map(({ sessionId }) => sessionId);
    expect(ended.sort()).toEqual(Array.from({ length: 10 }, (_, i) => `old-${i}`));
  });

  test('neither removes nor ends a session that is used just then', async () => {
    const store = memoryStore();
    const key = await put(store, { url: server.url.href, ...expired() });
    const raced = altered(store, {
      delete: async (each, expected) => {
        await put(store, { url: server.url.href });
        return store.delete(each, expected);
      },
    });
    expect(await new Sessions(raced).cleanupExpired()).toBe(0);
    expect(await keysIn(store)).toEqual([key]);
    expect(await server.requests()).toEqual([]);
  });

  test('leaves what cannot be read, unless it is told to remove that too', async () => {
    const store = memoryStore();
    await put(store, expired());
    const later = await put(store, { name: 'later' });
    await store.set(later, JSON.stringify({ ...recordOf(), v: 2, expiresAt: 1 }));
    await store.set('call/later', '{"v":2,"expiresAt":1}');
    await store.set('another/thing', 'x');
    const locked = await put(store, { name: 'locked', ...expired() });
    const sessions = new Sessions(altered(store, { get: (key) => (key === locked ? Promise.reject(new StoreError('encrypted with another key')) : store.get(key)) }));
    expect(await sessions.cleanupExpired()).toBe(1);
    expect(await keysIn(store)).toEqual(['another/thing', 'call/later', later, locked].sort());
    expect(await sessions.cleanupExpired({ unreadable: true })).toBe(3);
    expect(await keysIn(store)).toEqual(['another/thing']);
    expect(await server.requests()).toEqual([]);
  });

  test('goes on where one cannot be removed or ended, and says so at the end', async () => {
    const store = memoryStore();
    for (const name of ['one', 'two', 'three', 'four']) await put(store, { name, id: name, url: server.url.href, ...expired() });
    const broken = altered(store, { delete: (key, expected) => (key.endsWith('two') ? Promise.reject(new StoreError('broken')) : store.delete(key, expected)) });
    const access = ({ name }: { name: string }) => {
      if (name === 'three') throw new Error('no token');
      return {};
    };
    const error = await failure(new Sessions(broken, { access }).cleanupExpired());
    expect(error).toBeInstanceOf(AggregateError);
    expect((error as unknown as AggregateError).errors.map(({ message }: Error) => message).sort()).toEqual(['broken', 'no token']);
    expect((await wireOf(server, 'DELETE')).map(({ sessionId }) => sessionId).sort()).toEqual(['four', 'one']);
    // One that could not be ended now may be the next time.
    expect(await keysIn(store)).toEqual([expect.stringContaining('three'), expect.stringContaining('two')]);
    expect(await new Sessions(store).cleanupExpired({ end: false })).toBe(2);
    await put(store, { name: 'two', id: 'two', url: server.url.href, ...expired() });
    await expect(new Sessions(broken).cleanupExpired()).rejects.toThrow(new StoreError('broken'));
  });

  test('asks a server that does not answer only a few times, however many sessions it had', async () => {
    const store = memoryStore();
    await server.behave({ hang: { onlyMethod: 'DELETE', times: 1000 } });
    for (let i = 0; i < 100; i++) await put(store, { id: `old-${i}`, name: `s${i}`, url: server.url.href, ...expired() });
    expect(await new Sessions(store).cleanupExpired()).toBe(100);
    expect((await wireOf(server, 'DELETE')).length).toBeLessThanOrEqual(16);
    expect(await keysIn(store)).toEqual([]);
  });

  test('looks at what durable calls have left, also where no session can be read', async () => {
    const store = memoryStore();
    const locked = await put(store, expired());
    await store.set('call/old', '{"v":1,"digest":"x","method":"tools/call","seenAt":1,"expiresAt":1}');
    const sessions = new Sessions(altered(store, { get: (key) => (key === locked ? Promise.reject(new StoreError('encrypted with another key')) : store.get(key)) }));
    await expect(sessions.cleanupExpired()).rejects.toThrow('another key');
    expect(await keysIn(store)).toEqual([locked]);
    expect(await sessions.cleanupExpired({ unreadable: true })).toBe(1);
    expect(await keysIn(store)).toEqual([]);
  });

  test('rejects where the store fails', async () => {
    const store = memoryStore();
    await store.close();
    await expect(new Sessions(store).cleanupExpired()).rejects.toThrow(StoreError);
  });
});

describe('cleaning up again and again', () => {
  const minute = 60_000;

  /** A store of which the keys are listed as slowly as the test wants. */
  function slow(): { store: Store; listings: (() => void)[] } {
    const store = memoryStore();
    const listings: (() => void)[] = [];
    const keys = async function* (prefix: string): AsyncGenerator<string> {
      await new Promise<void>((resolve) => void listings.push(resolve));
      yield* store.keys(prefix);
    };
    return { store: altered(store, { keys }), listings };
  }

  /** Lets what was begun come to where it waits. */
  const settle = (): Promise<unknown> => vi.advanceTimersByTimeAsync(0);

  test('comes when its time has come, and never while the last one is under way', async () => {
    vi.useFakeTimers();
    const { store, listings } = slow();
    const { stop } = new Sessions(store).startCleanup({ interval: minute });
    await vi.advanceTimersByTimeAsync(minute - 1);
    expect(listings).toHaveLength(0);
    await vi.advanceTimersByTimeAsync(1);
    expect(listings).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(10 * minute);
    expect(listings).toHaveLength(1);
    listings[0]?.();
    await settle();
    listings[1]?.();
    await settle();
    await vi.advanceTimersByTimeAsync(minute - 1);
    expect(listings).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(1);
    expect(listings).toHaveLength(3);
    for (const go of listings) go();
    await settle();
    for (const go of listings) go();
    await settle();
    expect(vi.getTimerCount()).toBe(1);
    await stop();
    expect(vi.getTimerCount()).toBe(0);
  });

  test('removes what is expired each time', async () => {
    vi.useFakeTimers();
    const store = memoryStore();
    const { stop } = new Sessions(store).startCleanup({ interval: minute, end: false });
    for (const name of ['one', 'two']) {
      await put(store, { name, ...expired() });
      await vi.advanceTimersByTimeAsync(minute);
      expect(await keysIn(store)).toEqual([]);
    }
    await stop();
    await put(store, expired());
    await vi.advanceTimersByTimeAsync(10 * minute);
    expect(await keysIn(store)).toHaveLength(1);
  });

  test('tells what goes wrong, and goes on; whoever hears of it can break nothing', async () => {
    vi.useFakeTimers();
    const store = memoryStore();
    await store.close();
    const heard: unknown[] = [];
    const listeners = [
      (error: unknown) => {
        heard.push(error);
        throw new Error('the listener broke');
      },
      async (error: unknown) => {
        heard.push(error);
        throw new Error('the listener broke later');
      },
      undefined,
    ];
    const stops = listeners.map((onError) => new Sessions(store).startCleanup({ interval: minute, ...(onError ? { onError } : {}) }));
    await vi.advanceTimersByTimeAsync(2 * minute);
    expect(heard).toHaveLength(4);
    for (const error of heard) expect(error).toBeInstanceOf(StoreError);
    await Promise.all(stops.map(({ stop }) => stop()));
  });

  test('stops at once; what is under way comes to its end first', async () => {
    vi.useFakeTimers();
    const { store, listings } = slow();
    for (let i = 0; i < 50; i++) await put(store, { name: `s${i}`, ...expired() });
    const { stop } = new Sessions(store).startCleanup({ interval: minute, end: false });
    await vi.advanceTimersByTimeAsync(minute);
    let stopped = false;
    const stopping = stop().then(() => (stopped = true));
    await settle();
    expect(stopped).toBe(false);
    listings[0]?.();
    await settle();
    listings[1]?.();
    await stopping;
    expect(vi.getTimerCount()).toBe(0);
    expect(await keysLeft(store, listings)).toBe(50);
    await stop();
  });

  async function keysLeft(store: Store, listings: (() => void)[]): Promise<number> {
    const keys = keysIn(store);
    await settle();
    listings.at(-1)?.();
    return (await keys).length;
  }

  test('does not keep a process alive', async () => {
    const child = runScript<Said, Told>(new URL('./sessions.process.ts', import.meta.url), [server.url.href, await temporaryDirectory()]);
    await child.next('ready');
    child.send({ type: 'leave' });
    expect(await child.exit).toEqual({ code: 0, signal: null });
  });
});
