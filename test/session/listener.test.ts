import { LoggingMessageNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { type ConnectOptions, type Lock, memoryStore, type ResilientClient, type Store } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import type { WireEntry } from '../support/contract.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { altered, clientOf, heardFrom, say, temporaryDirectory, wellBehaved, wireOf } from './clients.ts';
import { type Member, members, streamsOf, watched } from './members.ts';

/** Of all clients on one stored session one at a time has the server's stream, and no notification is lost between two of them. */

let plain: FixtureProcess;
let keeping: FixtureProcess;
beforeAll(async () => {
  [plain, keeping] = await Promise.all([startServer(), startServer({ eventStore: true })]);
});
afterAll(() => Promise.all([plain.stop(), keeping.stop()]));
beforeEach(() => Promise.all([plain, keeping].map(async (server) => {
  await server.forget();
  await server.clearRequests();
})));
afterEach(() => Promise.all([plain.behave(wellBehaved), keeping.behave(wellBehaved)]));

/** Clients of this process that say their names, and what each hears. */
interface Named {
  readonly name: string;
  readonly client: ResilientClient;
  readonly messages: string[];
}

/** A client that has shown that its session is alive, and so wants the stream. */
async function named(name: string, server: FixtureProcess, options: ConnectOptions): Promise<Named> {
  const client = clientOf(server.url, { ...options, headers: { 'x-member': name } });
  const messages: string[] = [];
  client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => void messages.push(String(params.data)));
  await client.connect();
  await client.ping();
  return { name, client, messages };
}

/** The one of them whose stream stands, and that stream. */
async function listening<T extends { readonly name: string }>(server: FixtureProcess, among: readonly T[]): Promise<{ who: T; stream: WireEntry }> {
  return waitFor(async () => {
    for (const stream of await streamsOf(server)) {
      const who = among.find(({ name }) => name === stream.headers['x-member']);
      if (who) return { who, stream };
    }
    return undefined;
  }, { timeout: 20_000, what: `a stream of ${among.map(({ name }) => name).join(' or ')}` });
}

/** The streams that others asked for since this one. The server would refuse them (409), which is how they show. */
async function strangers(server: FixtureProcess, { n, headers }: WireEntry): Promise<WireEntry[]> {
  return (await wireOf(server, 'GET')).filter((each) => each.n > n && each.headers['x-member'] !== headers['x-member']);
}

/** What the record of the only session in a store says. */
async function recordIn(store: Store): Promise<Record<string, unknown>> {
  for await (const key of store.keys('')) {
    const value = (await store.get(key))?.value;
    if (value !== undefined) return JSON.parse(value) as Record<string, unknown>;
  }
  return {};
}

// ── Handed over ─────────────────────────────────────────────────────────────────────────────────────────────────────

describe('of several clients one has the stream, and', () => {
  test('when it leaves another has it at once and goes on: each notification is heard once (G10)', async () => {
    const { store, asked, given } = watched(memoryStore());
    const all: Named[] = [];
    for (const name of ['a', 'b', 'c', 'd']) all.push(await named(name, keeping, { store }));
    const heard = all.map(({ client }) => heardFrom(client));
    const wants = (): number => asked.filter((key) => key.startsWith('stream/')).length;
    await waitFor(() => wants() === all.length);
    const sent: string[] = [];
    const notify = async (text: string): Promise<void> => {
      sent.push(text);
      await keeping.notify(text);
    };
    let waiting = [...all];
    while (waiting.length > 0) {
      const { who: now, stream } = await listening(keeping, waiting);
      waiting = waiting.filter((each) => each !== now);
      await notify(`to ${now.name}`);
      await waitFor(() => now.messages.includes(`to ${now.name}`));
      // The others wait for their turn without a word to the server.
      expect(await strangers(keeping, stream)).toEqual([]);
      await now.client.close();
      if (waiting.length > 0) await notify(`after ${now.name}`);
    }
    expect(all.flatMap(({ messages }) => messages).sort()).toEqual([...sent].sort());
    for (const { messages } of all) expect(messages).toEqual(sent.filter((text) => messages.includes(text)));
    expect(heard.flatMap(({ cursorLost, warning }) => [...cursorLost, ...warning])).toEqual([]);
    // The locks of a memory store never expire: that each had it shows that the one before gave it back.
    expect(given.filter(({ lost }) => lost.aborted)).toEqual([]);
    expect(await wireOf(keeping, 'initialize')).toHaveLength(1);
  });

  test('over processes, when it leaves another goes on: each notification is heard once (G10)', async () => {
    const directory = await temporaryDirectory();
    const all = await members(3, keeping, directory);
    for (const each of all) await each.does('connect');
    for (const each of all) await each.does('echo');
    for (const each of all) await each.until('asks', 'stream');
    const sent: string[] = [];
    const notify = async (text: string): Promise<void> => {
      sent.push(text);
      await keeping.notify(text);
    };
    let waiting = all;
    while (waiting.length > 0) {
      const { who: now, stream } = await listening(keeping, waiting);
      waiting = waiting.filter((each) => each !== now);
      await notify(`to ${now.name}`);
      await waitFor(() => now.heard.includes(`to ${now.name}`));
      expect(await strangers(keeping, stream)).toEqual([]);
      await now.close();
      if (waiting.length > 0) await notify(`after ${now.name}`);
    }
    expect(all.flatMap(({ heard }) => heard).sort()).toEqual([...sent].sort());
    for (const { heard } of all) expect(heard).toEqual(sent.filter((text) => heard.includes(text)));
    for (const each of all) {
      expect([each.toldOf('cursorLost'), each.toldOf('warning'), each.all('failed')]).toEqual([[], [], []]);
      expect(await each.exit).toEqual({ code: 0, signal: null });
    }
  });

  test('when its process is killed another has it, and no notification is lost (G10)', async () => {
    const directory = await temporaryDirectory();
    const store = fileStore(directory);
    onTestFinished(() => store.close());
    const [killed, next] = (await members(2, keeping, directory)) as [Member, Member];
    await killed.does('connect');
    const { stream } = await listening(keeping, [killed]);
    await next.does('connect');
    await next.does('echo');
    await next.until('asks', 'stream');
    const sent: string[] = [];
    // Where it was is written once a second at the most, and a process that is killed writes no more.
    await waitFor(async () => {
      const text = `${sent.length}`;
      sent.push(text);
      await keeping.notify(text);
      await waitFor(() => killed.heard.includes(text));
      return (await recordIn(store))['cursor'];
    }, { interval: 100, what: 'a cursor in the store' });
    expect(await strangers(keeping, stream)).toEqual([]);
    await killed.signal('SIGKILL');
    sent.push('to nobody');
    await keeping.notify('to nobody');

    await next.until('has', 'stream');
    await listening(keeping, [next]);
    sent.push('to the next');
    await keeping.notify('to the next');
    await waitFor(() => next.heard.includes('to the next'));
    const heard = [...killed.heard, ...next.heard];
    expect(sent.filter((text) => !heard.includes(text))).toEqual([]);
    // It goes on from where the store says that the other one was: that may be a little back.
    expect(next.heard).toEqual(sent.slice(-next.heard.length));
    expect(next.heard.length).toBeLessThan(sent.length);
    expect(next.toldOf('cursorLost')).toEqual([]);
  });
});

// ── Who wants none ──────────────────────────────────────────────────────────────────────────────────────────────────

test('a client with `listen: false` never asks for the turn, also on a new session, and keeps nobody from it', async () => {
  const quiet = watched(memoryStore());
  const silent = await named('silent', plain, { store: quiet.store, listen: false });
  await plain.forget();
  expect(await say(silent.client, 'echo', { text: 'on a new one' })).toBe('on a new one');
  const other = await named('other', plain, { store: quiet.store });
  const { stream } = await listening(plain, [other]);
  expect(quiet.asked.filter((key) => key.startsWith('stream/'))).toHaveLength(1);
  await silent.client.close();
  expect(await strangers(plain, stream)).toEqual([]);
});

test('a client without a store listens without asking anybody', async () => {
  const clients = [await named('a', plain, {}), await named('b', plain, {})];
  await waitFor(async () => (await streamsOf(plain)).length === 2);
  await plain.notify('to all');
  await waitFor(() => clients.every(({ messages }) => messages.length === 1));
});

// ── Lost ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A store whose turns to listen a test gives and takes away by hand: the one that was asked for as number `to`, from 0 on. */
function byHand(base = memoryStore()): { store: Store; asked: string[]; released: number[]; give: (to: number) => () => void } {
  const asked: string[] = [];
  const released: number[] = [];
  const waiting: ((lock: Lock) => void)[] = [];
  const store = altered(base, {
    lock(key, options) {
      if (!key.startsWith('stream/')) return base.lock(key, options);
      asked.push(key);
      return new Promise((resolve, reject) => {
        waiting.push(resolve);
        options.signal?.addEventListener('abort', () => reject(options.signal?.reason as Error), { once: true });
      });
    },
  });
  const give = (to: number): (() => void) => {
    const lost = new AbortController();
    waiting[to]?.({ fence: to, lost: lost.signal, release: async () => void released.push(to) });
    return () => lost.abort(new Error('taken over'));
  };
  return { store, asked, released, give };
}

test('a turn that is lost ends the stream, and the client waits for its turn anew: never two streams at once', async () => {
  const { store, asked, released, give } = byHand();
  const one = await named('one', keeping, { store });
  const two = await named('two', keeping, { store });
  await waitFor(() => asked.length === 2);
  const heard = [one, two].map(({ client }) => heardFrom(client));
  // Nobody listens without a turn.
  expect(await wireOf(keeping, 'GET')).toEqual([]);
  let [holder, other] = [one, two];
  for (let round = 0; round < 4; round++) {
    const lose = give(round);
    const { stream } = await listening(keeping, [holder]);
    await keeping.notify(`${round}`);
    await waitFor(() => holder.messages.includes(`${round}`));
    expect(await strangers(keeping, stream)).toEqual([]);
    lose();
    await waitFor(async () => (await streamsOf(keeping)).length === 0, { what: 'the end of the stream' });
    await waitFor(() => asked.length === 3 + round);
    expect(released).toHaveLength(round + 1);
    // With nobody's turn nobody asks.
    expect(await strangers(keeping, stream)).toEqual([]);
    [holder, other] = [other, holder];
  }
  expect(heard.flatMap(({ reset, warning }) => [...reset, ...warning])).toEqual([]);
  expect(await say(one.client, 'echo', { text: 'on' })).toBe('on');
  expect([...new Set([...one.messages, ...two.messages])].sort()).toEqual(['0', '1', '2', '3']);
});

test('a process that was paused for so long that another took its turn stops listening when it wakes up', async () => {
  const directory = await temporaryDirectory();
  const [paused, next] = (await members(2, keeping, directory)) as [Member, Member];
  await paused.does('connect');
  await listening(keeping, [paused]);
  await next.does('connect');
  await next.does('echo');
  await next.until('asks', 'stream');
  await paused.signal('SIGSTOP');
  await next.until('has', 'stream');
  await paused.signal('SIGCONT');
  await paused.until('lost', 'stream');
  // And waits for its turn like everybody else.
  await paused.until('asks', 'stream', 2);
  await listening(keeping, [next]);
  expect((await streamsOf(keeping)).map(({ headers }) => headers['x-member'])).toEqual([next.name]);
  await keeping.notify('after');
  await waitFor(() => next.heard.includes('after'));
  expect(paused.heard).toEqual([]);
  expect(await paused.does('echo')).toBe(await next.does('echo'));
  expect(await wireOf(keeping, 'initialize')).toHaveLength(1);
});

// ── Gaps ────────────────────────────────────────────────────────────────────────────────────────────────────────────

describe('a notification that comes while nobody has the turn', () => {
  /** Two clients; the first one has heard something, and then it leaves or loses its turn. */
  async function handedOver(server: FixtureProcess, leave: (one: Named, lose: () => void, store: Store) => unknown, base?: Store): Promise<{ one: Named; next: Named; cursorLost: unknown[] }> {
    const { store, asked, released, give } = byHand(base);
    const one = await named('one', server, { store });
    const next = await named('next', server, { store });
    const { cursorLost } = heardFrom(next.client);
    await waitFor(() => asked.length === 2);
    const lose = give(0);
    await listening(server, [one]);
    await server.notify('to the one');
    await waitFor(() => one.messages.length === 1);
    await leave(one, lose, store);
    await waitFor(() => released.length === 1);
    await waitFor(async () => (await streamsOf(server)).length === 0);
    await server.notify('to nobody');
    // As soon as the turn was given back another could have had it: whatever it needs to know was in the store by then.
    give(1);
    await listening(server, [next]);
    await server.notify('to the next');
    await waitFor(() => next.messages.includes('to the next'));
    return { one, next, cursorLost };
  }

  test('is heard once by the next one, where the server keeps events and the one before has left', async () => {
    const { next, cursorLost } = await handedOver(keeping, ({ client }) => void client.close());
    expect(next.messages).toEqual(['to nobody', 'to the next']);
    expect(cursorLost).toEqual([]);
  });

  test('is heard once by the next one, where the one before has left and the store takes its time to write', async () => {
    const base = memoryStore();
    const slow = altered(base, {
      async set(...args) {
        await new Promise((resolve) => setTimeout(resolve, 300));
        return base.set(...args);
      },
    });
    const { next, cursorLost } = await handedOver(keeping, ({ client }) => void client.close(), slow);
    expect(next.messages).toEqual(['to nobody', 'to the next']);
    expect(cursorLost).toEqual([]);
  });

  test('is heard once by the next one, where the one before has lost its turn', async () => {
    const { next, cursorLost } = await handedOver(keeping, async (_, lose, store) => {
      // It learns late that it lost its turn. The other one had it by then, and knew as much as was in the store.
      await waitFor(async () => (await recordIn(store))['cursor'], { what: 'a cursor in the store' });
      lose();
    });
    expect(next.messages).toEqual(['to nobody', 'to the next']);
    expect(cursorLost).toEqual([]);
  });

  test('is lost where the server keeps no events, and the next one tells of the gap (G10)', async () => {
    const { next, cursorLost } = await handedOver(plain, ({ client }) => void client.close());
    expect(next.messages).toEqual(['to the next']);
    expect(cursorLost).toHaveLength(1);
  });
});

// ── Lost sessions ───────────────────────────────────────────────────────────────────────────────────────────────────

test('after a reset the stream goes on on the new session, still one (G6)', async () => {
  const { store, asked } = watched(memoryStore());
  const all: Named[] = [];
  for (const name of ['a', 'b', 'c']) all.push(await named(name, keeping, { store }));
  const heard = all.map(({ client }) => heardFrom(client));
  for (let round = 1; round <= 3; round++) {
    await waitFor(() => asked.filter((key) => key.startsWith('stream/')).length === all.length * round);
    const { who: now } = await listening(keeping, all);
    await keeping.notify(`${round}`);
    await waitFor(() => now.messages.includes(`${round}`));
    if (round === 3) break;
    await keeping.forget();
    await Promise.all(all.map(({ client }) => say(client, 'echo', { text: 'on' })));
  }
  const ids = new Set(all.map(({ client }) => client.session.id));
  expect([...ids]).toEqual(await keeping.sessions());
  expect((await streamsOf(keeping)).map(({ sessionId }) => sessionId)).toEqual([...ids]);
  expect(all.flatMap(({ messages }) => messages).sort()).toEqual(['1', '2', '3']);
  expect(heard.map(({ reset }) => reset.length)).toEqual([2, 2, 2]);
  expect(await wireOf(keeping, 'initialize')).toHaveLength(3);
});
