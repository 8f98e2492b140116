import { setImmediate as turn } from 'node:timers/promises';
import { LoggingMessageNotificationSchema, ResourceUpdatedNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { memoryStore, type ResilientClient } from '../../src/index.ts';
import type { Behaviour, WireEntry } from '../support/contract.ts';
import { startEverything } from '../support/everything.ts';
import { startRecordingProxy } from '../support/recording-proxy.ts';
import { startServer, type FixtureProcess } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { connected, heardFrom, say, streamOpen, wellBehaved, wireOf } from './clients.ts';

/** The server-to-client stream is optional: whatever happens to it, calls go on; what it may have cost is told (G10). */

let plain: FixtureProcess;
let keeping: FixtureProcess;
beforeAll(async () => {
  [plain, keeping] = await Promise.all([startServer(), startServer({ eventStore: true })]);
});
afterAll(() => Promise.all([plain.stop(), keeping.stop()]));
beforeEach(() => Promise.all([plain.clearRequests(), keeping.clearRequests()]));
afterEach(() => Promise.all([plain.behave(wellBehaved), keeping.behave(wellBehaved)]));

/** The log messages that a client hears. */
function messagesOf(client: ResilientClient): unknown[] {
  const heard: unknown[] = [];
  client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => void heard.push(params.data));
  return heard;
}

/** How the state goes, from now on. */
function statesOf(client: ResilientClient): string[] {
  const states: string[] = [];
  client.events.on('state', ({ to }) => states.push(to));
  return states;
}

const gets = (server: FixtureProcess): Promise<WireEntry[]> => wireOf(server, 'GET');
const openAgain = (server: FixtureProcess, after: WireEntry): Promise<WireEntry | undefined> =>
  waitFor(async () => (await gets(server)).find(({ n, status, endedBy }) => n > after.n && status === 200 && !endedBy), { what: 'another open GET stream' });

// ── Time that a test moves ──────────────────────────────────────────────────────────────────────────────────────────

/** From now on our own timers move only by `pass()`. node:http has its own, so the network goes on by itself. */
function stopTime(): { pass(ms: number, step?: number): Promise<void> } {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  onTestFinished(() => void vi.useRealTimers());
  return {
    async pass(ms, step = 50) {
      for (let passed = 0; passed < ms; passed += step) {
        vi.advanceTimersByTime(step);
        await turn();
      }
    },
  };
}

/** Like waitFor, without a timer. */
async function eventually<T>(predicate: () => T | undefined | false | Promise<T | undefined | false>): Promise<T> {
  for (;;) {
    const found = await predicate();
    if (found) return found;
    await turn();
  }
}

// ── Refused ─────────────────────────────────────────────────────────────────────────────────────────────────────────

describe('a stream that is refused', () => {
  const refusals: { what: string; behaviour: Partial<Behaviour>; retrying: boolean }[] = [
    { what: '404', behaviour: { get: 404 }, retrying: false },
    { what: '405', behaviour: { get: 405 }, retrying: false },
    { what: '406', behaviour: { get: 406 }, retrying: false },
    { what: '409', behaviour: { get: 409 }, retrying: true },
    { what: '401', behaviour: { reply: { onlyMethod: 'GET', times: 1000, status: 401, contentType: 'text/plain', body: 'Who are you?' } }, retrying: false },
    { what: '500', behaviour: { reply: { onlyMethod: 'GET', times: 1000, status: 500, contentType: 'text/plain', body: 'Oops' } }, retrying: true },
  ];

  test.each(refusals)('with $what is told as degraded, and calls go on', async ({ what, behaviour, retrying }) => {
    await plain.behave(behaviour);
    const client = await connected(plain.url);
    const { degraded, reset, cursorLost } = heardFrom(client);
    const first = await waitFor(() => degraded[0]);
    expect(first).toEqual({ reason: expect.stringContaining(what), retrying });
    expect(client.session.state).toBe('degraded');
    const answers = await Promise.all(Array.from({ length: 10 }, (_, i) => say(client, 'echo', { text: `on ${i}` })));
    expect(answers).toEqual(Array.from({ length: 10 }, (_, i) => `on ${i}`));
    expect([reset, cursorLost]).toEqual([[], []]);
    expect(await wireOf(plain, 'initialize')).toHaveLength(1);

    // One that may come back is asked for again; one that is not offered is not.
    const seen = (await gets(plain)).length;
    await plain.behave(wellBehaved);
    if (retrying) {
      await streamOpen(plain);
      await waitFor(() => client.session.state === 'ready');
    } else {
      const time = stopTime();
      await time.pass(600_000, 1000);
      expect(await gets(plain)).toHaveLength(seen);
      expect(vi.getTimerCount()).toBe(0);
    }
  });
});

// ── Interrupted ─────────────────────────────────────────────────────────────────────────────────────────────────────

describe('a stream that ends', () => {
  const ends = [
    ['dropped', (server: FixtureProcess) => server.cut()],
    ['closed gracefully', (server: FixtureProcess) => server.closeStreams()],
  ] as const;

  test.each(ends)('%s is opened again: degraded, ready, and notifications arrive; the gap is told (G10)', async (_, end) => {
    const client = await connected(plain.url);
    const messages = messagesOf(client);
    const first = await streamOpen(plain);
    await plain.notify('before');
    await waitFor(() => messages.length === 1);
    const states = statesOf(client);
    const { degraded, cursorLost } = heardFrom(client);
    await end(plain);
    await openAgain(plain, first);
    await waitFor(() => states.length === 2);
    expect(states).toEqual(['degraded', 'ready']);
    expect(degraded).toEqual([{ reason: expect.any(String), retrying: true }]);
    await plain.notify('after');
    await waitFor(() => messages.includes('after'));
    expect(messages).toEqual(['before', 'after']);
    expect(cursorLost).toHaveLength(1);
  });

  test.each(ends)('%s on a server that keeps its events misses nothing, and no gap is told (G10)', async (_, end) => {
    const client = await connected(keeping.url);
    const messages = messagesOf(client);
    const { cursorLost } = heardFrom(client);
    let last = await streamOpen(keeping);
    await keeping.notify('0');
    await waitFor(() => messages.length === 1);
    for (let round = 1; round <= 2; round++) {
      await end(keeping);
      await waitFor(() => client.session.state === 'degraded');
      await keeping.notify(`${round} in the gap`);
      last = (await openAgain(keeping, last)) as WireEntry;
      expect(last.lastEventId).toBeDefined();
      await keeping.notify(`${round} after it`);
      await waitFor(() => messages.includes(`${round} after it`));
    }
    expect(messages).toEqual(['0', '1 in the gap', '1 after it', '2 in the gap', '2 after it']);
    expect(cursorLost).toEqual([]);
  });

  test('goes on from where the process before left it, and no gap is told', async () => {
    const store = memoryStore();
    const first = await connected(keeping.url, { store });
    const heard = messagesOf(first);
    await streamOpen(keeping);
    await keeping.notify('to the first');
    await waitFor(() => heard.length === 1);
    await first.close();
    await waitFor(async () => (await gets(keeping)).every(({ endedBy }) => endedBy));
    await keeping.notify('to nobody');

    const second = await connected(keeping.url, { store });
    const messages = messagesOf(second);
    const { cursorLost } = heardFrom(second);
    await second.ping();
    await waitFor(() => messages.length === 1);
    await keeping.notify('to the second');
    await waitFor(() => messages.length === 2);
    expect(messages).toEqual(['to nobody', 'to the second']);
    expect(cursorLost).toEqual([]);
  });

  test('is resumed from a plain stream where the server no longer knows the event, and the gap is told (G10)', async () => {
    const client = await connected(keeping.url);
    const messages = messagesOf(client);
    const { cursorLost } = heardFrom(client);
    const first = await streamOpen(keeping);
    await keeping.notify('one');
    await waitFor(() => messages.length === 1);
    await keeping.behave({ reply: { onlyMethod: 'GET', times: 1, status: 400, contentType: 'text/plain', body: 'Invalid event ID' } });
    await keeping.closeStreams();
    const again = await openAgain(keeping, first);
    expect(again?.lastEventId).toBeUndefined();
    await waitFor(() => cursorLost.length === 1);
    await keeping.notify('two');
    await waitFor(() => messages.includes('two'));
    expect(await say(client, 'echo', { text: 'on' })).toBe('on');
  });

  test('on server-everything, whose event store forgets who listens: notifications arrive again', async () => {
    await using everything = await startEverything();
    await using proxy = await startRecordingProxy(everything.url);
    const client = await connected(proxy.url);
    const messages = messagesOf(client);
    await streamOpen(proxy);
    // It says something at once whenever it is switched on.
    const speak = async (): Promise<boolean> => {
      const before = messages.length;
      for (let i = 0; i < 2; i++) await client.callTool({ name: 'toggle-simulated-logging', arguments: {} });
      return messages.length > before;
    };
    await waitFor(speak);
    for (let cuts = 0; cuts < 2; cuts++) {
      proxy.cut();
      await waitFor(() => client.session.state === 'degraded');
      await waitFor(() => client.session.state === 'ready');
      await waitFor(speak);
    }
    expect(proxy.requests().filter(({ rpc }) => rpc[0]?.method === 'initialize')).toHaveLength(1);
  });
});

// ── A session that is gone ──────────────────────────────────────────────────────────────────────────────────────────

describe('a session that the server forgot while the client is idle', () => {
  test.each([
    ['forgotten', false, (server: FixtureProcess) => server.forget()],
    ['lost in a restart', false, (server: FixtureProcess) => server.restart()],
    ['forgotten, with a cursor', true, (server: FixtureProcess) => server.forget()],
  ])('is noticed through the stream and replaced, with its subscriptions: %s (G6)', async (_, eventStore, lose) => {
    await using server = await startServer({ eventStore });
    const client = await connected(server.url);
    const updated: string[] = [];
    client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => void updated.push(params.uri));
    const messages = messagesOf(client);
    const { reset } = heardFrom(client);
    const { id } = client.session;
    await client.subscribeResource({ uri: 'test://one' });
    await client.setLoggingLevel('info');
    await streamOpen(server);
    await server.notify('before');
    await waitFor(() => messages.length === 1);
    await server.clearRequests();

    await lose(server);
    await waitFor(() => reset.length === 1);
    expect(client.session.id).not.toBe(id);
    expect(await wireOf(server, 'tools/call')).toEqual([]);
    expect(await wireOf(server, 'initialize')).toHaveLength(1);
    expect(await server.subscriptions()).toEqual([{ sessionId: client.session.id, uris: ['test://one'], level: 'info' }]);
    await streamOpen(server);
    await server.notify('after');
    await say(client, 'touch', { uri: 'test://one' });
    await waitFor(() => messages.includes('after') && updated.length === 1);
    expect(reset).toHaveLength(1);
  });
});

// ── How often ───────────────────────────────────────────────────────────────────────────────────────────────────────

describe('how often a stream is opened again', () => {
  const message = '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"hello"}}';
  test.each<[string, Partial<Behaviour>]>([
    ['closes it at once', { get: 'close' }],
    ['says one thing and closes it', { reply: { onlyMethod: 'GET', times: 1000, contentType: 'text/event-stream', body: `data: ${message}\n\n` } }],
  ])('a server that %s, for a minute, sees at most 8 reconnects, whatever the jitter', async (_what, behaviour) => {
    vi.spyOn(Math, 'random').mockReturnValue(0);
    onTestFinished(() => void vi.restoreAllMocks());
    const time = stopTime();
    await plain.behave(behaviour);
    const client = await connected(plain.url);
    await eventually(async () => (await gets(plain)).length === 1);
    for (let passed = 0; passed < 60_000; passed += 50) {
      // While no attempt is on the wire, the next one waits for its time.
      await eventually(() => vi.getTimerCount() > 0);
      await time.pass(50);
    }
    await eventually(() => vi.getTimerCount() > 0);
    const reconnects = (await gets(plain)).length - 1;
    expect(reconnects).toBeLessThanOrEqual(8);
    // It does not give up either.
    expect(reconnects).toBeGreaterThanOrEqual(6);
    expect(client.session.state).toBe('degraded');
  });

  test('`retry:` is a lower bound, on every close anew (G5)', async () => {
    await plain.behave({ getRetry: 900 });
    const client = await connected(plain.url);
    let last = await streamOpen(plain);
    for (let round = 0; round < 2; round++) {
      const closedAt = Date.now();
      await plain.closeStreams();
      last = (await openAgain(plain, last)) as WireEntry;
      // The server's clock counts whole ms.
      expect(last.at - closedAt).toBeGreaterThanOrEqual(899);
    }
    // What it says is not remembered for a stream on which it does not say it.
    await plain.behave({ getRetry: null });
    await plain.closeStreams();
    last = (await openAgain(plain, last)) as WireEntry;
    await client.ping();
  });

  test.each([4_294_967_296, 2_147_483_648, 1e15])('`retry: %d` is clamped to five minutes: neither a storm nor silence for ever (G5)', async (retry) => {
    const time = stopTime();
    await plain.behave({ getRetry: retry });
    const client = await connected(plain.url);
    await eventually(async () => (await gets(plain)).some(({ status, endedBy }) => status === 200 && !endedBy));
    await plain.behave({ getRetry: null });
    await plain.closeStreams();
    await eventually(() => client.session.state === 'degraded' && vi.getTimerCount() === 1);
    await time.pass(299_000, 1000);
    expect(await gets(plain)).toHaveLength(1);
    await time.pass(1000, 1000);
    await eventually(() => client.session.state === 'ready');
    expect(await gets(plain)).toHaveLength(2);
  });

  test.each([0, 1, -1, 'NaN', '1e3', ''])('`retry: %s` makes no storm: the backoff stays (G5)', async (retry) => {
    vi.spyOn(Math, 'random').mockReturnValue(0);
    onTestFinished(() => void vi.restoreAllMocks());
    const time = stopTime();
    await plain.behave({ getRetry: retry as number });
    const client = await connected(plain.url);
    await eventually(async () => (await gets(plain)).some(({ status, endedBy }) => status === 200 && !endedBy));
    await plain.closeStreams();
    await eventually(() => client.session.state === 'degraded' && vi.getTimerCount() === 1);
    await time.pass(249, 1);
    expect(await gets(plain)).toHaveLength(1);
    await time.pass(1, 1);
    await eventually(() => client.session.state === 'ready');
    expect(await gets(plain)).toHaveLength(2);
  });

  test.each([true, false])('an idle client asks for nothing, and waits for nothing; stored: %s', async (stored) => {
    const time = stopTime();
    const client = await connected(plain.url, stored ? { store: memoryStore() } : {});
    await say(client, 'echo', { text: 'busy' });
    await eventually(async () => (await gets(plain)).some(({ status, endedBy }) => status === 200 && !endedBy));
    await time.pass(2000);
    await plain.clearRequests();
    // The one that notes in the store that the session is in use.
    const timers = stored ? 1 : 0;
    expect(vi.getTimerCount()).toBe(timers);
    await time.pass(3_600_000, 10_000);
    expect(await plain.requests()).toEqual([]);
    expect(vi.getTimerCount()).toBe(timers);
    expect(client.session.state).toBe('ready');
    // G9
    await client.close();
    expect(vi.getTimerCount()).toBe(0);
  });

  test('no stream is opened where none is wanted', async () => {
    const client = await connected(plain.url, { listen: false });
    const answers = await Promise.all(['a', 'b', 'c'].map((text) => say(client, 'echo', { text })));
    expect(answers).toEqual(['a', 'b', 'c']);
    await client.close();
    expect(await gets(plain)).toEqual([]);
  });
});
