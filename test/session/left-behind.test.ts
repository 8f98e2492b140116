import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { memoryStore, type Store } from '../../src/index.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { altered, connected, failure, heardFrom, say, wellBehaved, wireOf } from './clients.ts';

/** Sessions whose place in the store goes to another, or is lost: none is left on its server for ever, and nothing hangs. */

let server: FixtureProcess;
beforeAll(async () => void (server = await startServer()));
afterAll(() => server.stop());
beforeEach(async () => {
  await server.behave(wellBehaved);
  await server.forget();
  await server.clearRequests();
});

async function rewrite(store: Store, changes: object): Promise<string> {
  for await (const key of store.keys('session/')) {
    await store.set(key, JSON.stringify({ ...(JSON.parse((await store.get(key))?.value ?? '') as object), ...changes }));
    return key;
  }
  throw new Error('nothing is stored');
}

async function left(store: Store): Promise<void> {
  const client = await connected(server.url, { store, listen: false });
  await client.close();
}

describe('a stored session is ended on its server', () => {
  test('when it is found expired, and replaced', async () => {
    const store = memoryStore();
    await left(store);
    await rewrite(store, { lastUsedAt: 1, expiresAt: 2 });
    const client = await connected(server.url, { store, listen: false });
    await waitFor(async () => (await wireOf(server, 'DELETE')).length === 1);
    expect(await server.sessions()).toEqual([client.session.id]);
  });

  test('but not when it may still be used: its client ends it on leaving', async () => {
    const store = memoryStore();
    const other = await connected(server.url, { store, listen: false });
    const client = await connected(server.url, { store, listen: false, capabilities: { roots: {} } });
    expect(await say(other, 'echo', { text: 'still there' })).toBe('still there');
    await other.close();
    expect(await server.sessions()).toEqual([client.session.id]);
  });

  test('not when its record is gone, and others may be using it: that is told', async () => {
    const store = memoryStore();
    const client = await connected(server.url, { store, listen: false });
    const other = await connected(server.url, { store, listen: false });
    const { warning } = heardFrom(client);
    for await (const key of store.keys('')) await store.delete(key);
    await client.setLoggingLevel('info');
    await waitFor(() => warning.length === 1);
    expect(warning[0]?.message).toContain('removed from the store');
    expect(await failure(client.update(() => ({ data: { page: 7 } })))).toMatchObject({ code: 'STORE', message: expect.stringContaining('removed from the store') });
    await client.close();
    expect(await say(other, 'echo', { text: 'x' })).toBe('x');
  });
});

test('the session of a later version of this library is left alone, and told of (G8)', async () => {
  const store = memoryStore();
  await left(store);
  const key = await rewrite(store, { v: 2, invented: 'later' });
  const before = await store.get(key);
  const told: string[] = [];
  const client = await connected(server.url, { store, listen: false, on: { warning: ({ message }) => told.push(message) } });
  expect(await say(client, 'echo', { text: 'x' })).toBe('x');
  await client.close();
  expect(await store.get(key)).toEqual(before);
  expect(told).toEqual([expect.stringContaining('later version')]);
});

describe('a store whose locks', () => {
  const never = new Promise<never>(() => {});

  test('never answer holds up connecting and leaving for a while, and no longer (G4, G8)', async () => {
    const store = altered(memoryStore(), { lock: () => never });
    const client = await connected(server.url, { store, listen: false, timeout: { connect: 2000 } });
    expect(await say(client, 'echo', { text: 'x' })).toBe('x');
    await client.close();
    expect(client.session.state).toBe('closed');
  });

  test('cannot be released holds up connecting and leaving for a while, and no longer (G4, G9)', async () => {
    const inner = memoryStore();
    const store = altered(inner, { lock: async (key, options) => ({ ...(await inner.lock(key, options)), release: () => never }) });
    const client = await connected(server.url, { store });
    await waitFor(async () => (await wireOf(server, 'GET')).length === 1);
    expect(await say(client, 'echo', { text: 'x' })).toBe('x');
    await client.close();
    expect(client.session.state).toBe('closed');
  });
});

describe('a store that works again after a failure', () => {
  const REST = 30_000;
  /** From now on so much later, for whoever asks how much time has passed. */
  function later(ms: number): void {
    const now = performance.now.bind(performance);
    const spy = vi.spyOn(performance, 'now').mockImplementation(() => now() + ms);
    onTestFinished(() => spy.mockRestore());
  }
  const failing = (inner: Store) => {
    const state = { broken: false };
    const check = () => {
      if (state.broken) throw new Error('no connection');
    };
    const store = altered(inner, {
      get: async (key) => (check(), inner.get(key)),
      set: async (...args) => (check(), inner.set(...args)),
      lock: async (...args) => (check(), inner.lock(...args)),
    });
    return { state, store };
  };
  const subscriptionsIn = async (store: Store) => {
    for await (const key of store.keys('session/')) return (JSON.parse((await store.get(key))?.value ?? '{}') as { subscriptions: string[] }).subscriptions;
    return undefined;
  };

  test('gets what was changed meanwhile, with one warning for the failure (G8)', async () => {
    const inner = memoryStore();
    const { state, store } = failing(inner);
    const client = await connected(server.url, { store, listen: false });
    const { warning } = heardFrom(client);
    state.broken = true;
    await client.subscribeResource({ uri: 'test://one' });
    await waitFor(() => warning.length === 1);
    await client.subscribeResource({ uri: 'test://two' });
    state.broken = false;
    later(REST);
    await client.subscribeResource({ uri: 'test://three' });
    await waitFor(async () => (await subscriptionsIn(inner))?.length === 3);
    expect(warning).toHaveLength(1);
  });

  test('gets a session that it never had, or has lost: the next client goes on with it', async () => {
    const inner = memoryStore();
    const { state, store } = failing(inner);
    state.broken = true;
    const client = await connected(server.url, { store, listen: false });
    state.broken = false;
    later(REST);
    await client.subscribeResource({ uri: 'test://one' });
    await waitFor(async () => (await subscriptionsIn(inner))?.length === 1);
    const { id } = client.session;
    await client.close();
    expect((await connected(server.url, { store, listen: false })).session).toMatchObject({ id, resumed: true });
  });
});
