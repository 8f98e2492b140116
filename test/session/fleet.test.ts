import { describe, expect, test } from 'vitest';
import { memoryStore, type Store } from '../../src/index.ts';
import { startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { altered, connected, heardFrom, say, wireOf } from './clients.ts';

/** Several clients on one stored session, and what one does to the others. */

async function recordOf(store: Store): Promise<Record<string, unknown>> {
  for await (const key of store.keys('')) return JSON.parse((await store.get(key))?.value ?? '{}') as Record<string, unknown>;
  return {};
}

describe('two clients on one session', () => {
  test('each keeps its subscriptions through a restart of the server, whoever replaces the session', async () => {
    await using server = await startServer();
    const store = memoryStore();
    const one = await connected(server.url, { store, listen: false });
    const two = await connected(server.url, { store, listen: false });
    await one.subscribeResource({ uri: 'test://one' });
    await two.subscribeResource({ uri: 'test://two' });
    await waitFor(async () => (await recordOf(store))['subscriptions'] as string[] | undefined, { what: 'a record' });
    await waitFor(async () => JSON.stringify((await recordOf(store))['subscriptions']) === JSON.stringify(['test://one', 'test://two']));
    await server.restart();
    await say(two, 'echo', { text: 'x' });
    await say(one, 'echo', { text: 'x' });
    expect(one.session.id).toBe(two.session.id);
    const [session] = await server.subscriptions();
    expect([...(session?.uris ?? [])].sort()).toEqual(['test://one', 'test://two']);
  });

  test('a call survives that the session was replaced by another client, and that one was lost too (G1, G6)', async () => {
    await using server = await startServer();
    const store = memoryStore();
    const idle = await connected(server.url, { store, listen: false });
    const busy = await connected(server.url, { store, listen: false });
    await server.forget();
    await say(busy, 'echo', { text: 'makes a new session' });
    await server.forget();
    expect(await say(idle, 'echo', { text: 'x' })).toBe('x');
    const { reset } = heardFrom(busy);
    expect(await say(busy, 'echo', { text: 'y' })).toBe('y');
    expect(busy.session.id).toBe(idle.session.id);
    expect(reset).toEqual([{ reason: expect.any(String), adopted: true }]);
  });

  test('a lost session is not taken up again because its record was touched meanwhile', async () => {
    await using server = await startServer();
    const store = memoryStore();
    const client = await connected(server.url, { store, listen: false });
    const { key = '', id } = client.session;
    // Another client writes that it used the session, just when this one makes a new one.
    const set = store.set.bind(store);
    let touched = false;
    const get = store.get.bind(store);
    store.get = async (each) => {
      const there = await get(each);
      if (!touched && there && (await wireOf(server, 'initialize')).length > 0) {
        touched = true;
        await set(key, there.value);
        return get(each);
      }
      return there;
    };
    await server.forget();
    await server.clearRequests();
    expect(await say(client, 'echo', { text: 'x' })).toBe('x');
    expect(touched).toBe(true);
    expect(client.session.id).not.toBe(id);
    expect(await server.sessions()).toEqual([client.session.id]);
  });

  test('a store that failed for one of them does not end the session of the others', async () => {
    await using server = await startServer();
    const shared = memoryStore();
    const other = await connected(server.url, { store: shared, listen: false });
    let broken = false;
    const flaky: Store = altered(shared, { get: (key: string) => (broken ? Promise.reject(new Error('broken')) : shared.get(key)) });
    const one = await connected(server.url, { store: flaky, listen: false });
    broken = true;
    await one.setLoggingLevel('info');
    await one.close();
    expect(await wireOf(server, 'DELETE')).toEqual([]);
    expect(await say(other, 'echo', { text: 'x' })).toBe('x');
  });

  test('one that lost its place in the store to another ends its own session when it leaves', async () => {
    await using server = await startServer();
    const store = memoryStore();
    const one = await connected(server.url, { store, listen: false });
    const { id } = one.session;
    const other = await connected(server.url, { store, listen: false, capabilities: { roots: {} } });
    expect(other.session.id).not.toBe(id);
    await one.close();
    expect(await server.sessions()).toEqual([other.session.id]);
  });

  test('listing tools again and again writes the record once', async () => {
    await using server = await startServer();
    const store = memoryStore();
    let writes = 0;
    const counted: Store = altered(store, {
      set: (...args: Parameters<Store['set']>) => {
        writes++;
        return store.set(...args);
      },
    });
    const client = await connected(server.url, { store: counted, listen: false });
    await client.listTools();
    await waitFor(async () => (await recordOf(store))['cache']);
    const before = writes;
    for (let i = 0; i < 20; i++) await client.listTools();
    await client.close();
    // The last use is written on leaving.
    expect(writes - before).toBeLessThanOrEqual(1);
  });
});
