import { getEventListeners } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { ClosedError, type ConnectOptions, DeadlineError, memoryStore, type ResilientClient } from '../../src/index.ts';
import { startServer, type FixtureProcess } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { clientOf, connected, failure, heardFrom, runsOf, say, startClients, streamOpen, timed, wellBehaved, wireOf } from './clients.ts';

let server: FixtureProcess;

/** Each test of these has a server of its own, because it is killed. */
function mortalServer(): void {
  beforeEach(async () => {
    server = await startServer();
  });
  afterEach(() => server.stop());
}

/** So long that nothing but what a test does can end a wait between two attempts. */
const longWaits = { retry: { minTimeout: 2 ** 31 - 1, maxTimeout: 2 ** 31 - 1 } } satisfies ConnectOptions;

/** A client whose server has died, and that has noticed. */
async function cutOff(options: ConnectOptions = {}): Promise<ResilientClient> {
  const client = await connected(server.url, options);
  await streamOpen(server);
  await server.kill();
  await waitFor(() => client.session.state === 'degraded');
  return client;
}

/** Resolves at the first wait between two attempts. */
const firstWait = (client: ResilientClient): Promise<unknown> => new Promise((resolve) => void client.events.once('retry', resolve));

describe('calls that are made while the server is down', () => {
  mortalServer();

  test.each([
    ['10 s', 10_000],
    ['a moment', 300],
  ])('succeed when it is back after %s, each ran once, safe or not (G1, G2)', async (_, outage) => {
    const client = await cutOff();
    const heard = heardFrom(client);
    const calls = [
      ...['one', 'two', 'three'].map((nonce) => say(client, 'work', { nonce })),
      ...['four', 'five'].map((nonce) => say(client, 'look', { nonce }, { safe: true })),
      client.readResource({ uri: 'test://one' }).then(({ contents }) => (contents[0] as { text: string }).text),
    ];
    await pause(outage);
    await server.restart();
    expect(await Promise.all(calls)).toEqual(['done:one', 'done:two', 'done:three', 'done:four', 'done:five', 'one']);
    expect((await server.executions()).map(({ nonce }) => nonce).sort()).toEqual(['five', 'four', 'one', 'three', 'two']);
    expect(heard.reset).toHaveLength(1);
    expect(await wireOf(server, 'initialize')).toHaveLength(1);
  });

  test('fail with a DeadlineError when their time is over, at most 250 ms late, and are not made later (G4)', async () => {
    const client = await cutOff();
    const start = performance.now();
    const late = [
      say(client, 'work', { nonce: 'short' }, { timeout: 300 }),
      say(client, 'work', { nonce: 'shorter' }, { maxTotalTimeout: 300 }),
      say(client, 'look', { nonce: 'safe' }, { timeout: 300, safe: true }),
    ].map(async (call) => [await failure(call), performance.now() - start] as const);
    for (const [error, took] of await Promise.all(late)) {
      expect(error).toBeInstanceOf(DeadlineError);
      expect(error).toMatchObject({ outcome: 'not-sent', timeout: 300 });
      expect(took).toBeGreaterThanOrEqual(299);
      expect(took).toBeLessThan(550);
    }
    await server.restart();
    expect(await say(client, 'echo', { text: 'back' })).toBe('back');
    expect(await server.executions()).toEqual([]);
  });

  test('tell each wait: its number, its length and its reason, with full jitter below the growing limit', async () => {
    const client = await cutOff({ retry: { minTimeout: 2, maxTimeout: 20, factor: 2 } });
    const { retry } = heardFrom(client);
    const call = say(client, 'work', { nonce: 'patient' });
    await waitFor(() => retry.length >= 10);
    await server.restart();
    await call;
    expect(retry.slice(0, 10).map(({ attempt }) => attempt)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    for (const [i, { method, delay, reason }] of retry.entries()) {
      expect([method, reason]).toEqual(['tools/call', expect.stringContaining('could not be reached')]);
      expect(delay).toBeGreaterThanOrEqual(0);
      expect(delay).toBeLessThanOrEqual(Math.min(20, 2 ** (i + 1)));
    }
    expect(new Set(retry.map(({ delay }) => delay)).size).toBeGreaterThan(5);
    expect(JSON.stringify(retry)).not.toMatch(/patient/);
  });

  test('pile up no listeners, however often they are tried', async () => {
    const warned: Error[] = [];
    const note = (warning: Error): void => void warned.push(warning);
    process.on('warning', note);
    onTestFinished(() => void process.off('warning', note));
    const client = await cutOff({ retry: { minTimeout: 1, maxTimeout: 1 } });
    const { retry } = heardFrom(client);
    const { signal } = new AbortController();
    const call = say(client, 'work', { nonce: 'often' }, { signal });
    await waitFor(() => retry.length >= 50);
    expect(getEventListeners(signal, 'abort')).toHaveLength(1);
    await server.restart();
    await call;
    expect(getEventListeners(signal, 'abort')).toEqual([]);
    expect(warned).toEqual([]);
  });

  test('settle at once with the signal\'s reason when they are aborted', async () => {
    const client = await cutOff(longWaits);
    const controller = new AbortController();
    const waiting = firstWait(client);
    const call = failure(say(client, 'work', { nonce: 'given up' }, { signal: controller.signal }));
    await waiting;
    const reason = new Error('the user pressed stop');
    controller.abort(reason);
    expect(await timed(call)).toBeLessThan(100);
    expect(await call).toBe(reason);
    await server.restart();
    await client.ping();
    expect(await server.executions()).toEqual([]);
  });

  test('are settled with a ClosedError by close(), which returns within 100 ms (G9)', async () => {
    const client = await cutOff(longWaits);
    const { retry } = heardFrom(client);
    const calls = [say(client, 'work', { nonce: 'dropped' }), say(client, 'look', { nonce: 'dropped' }, { safe: true }), client.listTools()].map(failure);
    await waitFor(() => retry.length === calls.length);
    expect(await timed(client.close())).toBeLessThan(100);
    for (const error of await Promise.all(calls)) {
      expect(error).toBeInstanceOf(ClosedError);
      expect(error).toMatchObject({ outcome: 'not-sent' });
    }
    await server.restart();
    expect(await server.requests()).toEqual([]);
  });

  test('do not keep a process that closes its client', async () => {
    await using child = startClients();
    child.send({ type: 'connect', url: server.url.href, options: longWaits });
    await child.next('connected');
    await streamOpen(server);
    await server.kill();
    // Before that its connections may seem to stand.
    await child.next('degraded');
    child.send({ type: 'call', name: 'work', arguments: { nonce: 'orphan' } });
    await child.next('retrying');
    child.send({ type: 'close' });
    const { took, resources } = await child.next('closed');
    expect(took).toBeLessThan(100);
    expect(resources).toEqual([]);
    expect(await child.next('failed')).toMatchObject({ name: 'ClosedError', outcome: 'not-sent' });
    expect(await child.exit).toEqual({ code: 0, signal: null });
  });
});

describe('a call that is made when the server has just died, unnoticed,', () => {
  mortalServer();

  test.each([true, false])('reports an unknown outcome only if it may have run: safe %s', async (safe) => {
    const client = await connected(server.url);
    process.kill(server.pid ?? 0, 'SIGSTOP');
    const call = say(client, 'work', { nonce: 'in the pipe' }, { safe }).catch((error: Error) => error);
    await server.restart();
    if (safe) expect(await call).toBe('done:in the pipe');
    else expect(await call).toMatchObject({ name: 'OutcomeUnknownError', outcome: 'unknown' });
    expect(await runsOf(server, 'in the pipe')).toHaveLength(safe ? 1 : 0);
  });
});

describe('connect() while the server is down', () => {
  mortalServer();

  beforeEach(() => server.kill());

  test('succeeds when it is back, by one handshake', async () => {
    const client = clientOf(server.url);
    const heard = heardFrom(client);
    const connecting = client.connect();
    await waitFor(() => heard.retry.length > 1);
    await server.restart();
    await connecting;
    expect(await say(client, 'echo', { text: 'back' })).toBe('back');
    expect(heard.retry[0]).toMatchObject({ method: 'initialize', attempt: 1, reason: expect.stringContaining('could not be reached') });
    expect(await wireOf(server, 'initialize')).toHaveLength(1);
    expect(client.session.state).toBe('ready');
  });

  test('fails with a DeadlineError after timeout.connect, at most 250 ms late (G4)', async () => {
    const client = clientOf(server.url, { timeout: { connect: 300 } });
    const start = performance.now();
    expect(await failure(client.connect())).toMatchObject({ name: 'DeadlineError', outcome: 'not-sent', timeout: 300 });
    expect(performance.now() - start).toBeLessThan(550);
  });

  test.each(['the client\'s signal', 'the call\'s signal'])('settles at once with the reason of %s', async (whose) => {
    const controller = new AbortController();
    const reason = new Error('never mind');
    const client = clientOf(server.url, { ...longWaits, ...(whose === 'the client\'s signal' ? { signal: controller.signal } : {}) });
    const waiting = firstWait(client);
    const connecting = failure(client.connect(undefined, whose === 'the client\'s signal' ? {} : { signal: controller.signal }));
    await waiting;
    controller.abort(reason);
    expect(await timed(connecting)).toBeLessThan(100);
    expect(await connecting).toBe(reason);
  });

  test.each([undefined, memoryStore()])('is ended by close() within 100 ms, with a ClosedError', async (store) => {
    const client = clientOf(server.url, { ...longWaits, ...(store ? { store } : {}) });
    const waiting = firstWait(client);
    const connecting = failure(client.connect());
    await waiting;
    expect(await timed(client.close())).toBeLessThan(100);
    expect(await connecting).toBeInstanceOf(ClosedError);
    // And the client can still be used.
    await server.restart();
    await client.connect();
    expect(await say(client, 'echo', { text: 'after all' })).toBe('after all');
  });

  test('can be called again as soon as it has failed', async () => {
    const client = clientOf(server.url, { retry: false, store: memoryStore() });
    for (let i = 0; i < 3; i++) expect(await failure(client.connect())).toMatchObject({ name: 'UnreachableError', outcome: 'not-sent' });
    await server.restart();
    await client.connect();
    expect(await say(client, 'echo', { text: 'at last' })).toBe('at last');
  });

  test('does not keep a process that closes its client', async () => {
    await using child = startClients();
    child.send({ type: 'connect', url: server.url.href, options: longWaits });
    await child.next('retrying');
    child.send({ type: 'close' });
    const { took, resources } = await child.next('closed');
    expect(took).toBeLessThan(100);
    expect(resources).toEqual([]);
    expect(await child.next('failed')).toMatchObject({ name: 'ClosedError' });
    expect(await child.exit).toEqual({ code: 0, signal: null });
  });
});

describe('a stored session taken up while the server is down', () => {
  mortalServer();

  test('connects at once; its first call waits and runs once, on a new session if the old one is gone (G6)', async () => {
    const store = memoryStore();
    const first = await connected(server.url, { store });
    const { id } = first.session;
    await first.close();
    await server.kill();
    const client = await connected(server.url, { store });
    const heard = heardFrom(client);
    expect(client.session).toMatchObject({ id, state: 'resuming', resumed: true });
    const call = say(client, 'work', { nonce: 'waits' });
    await waitFor(() => heard.retry.length > 1);
    await server.restart();
    expect(await call).toBe('done:waits');
    expect(await runsOf(server, 'waits')).toHaveLength(1);
    expect(heard.reset).toHaveLength(1);
    expect(client.session.id).not.toBe(id);
  });
});

describe('a server that takes requests and does not answer', () => {
  beforeAll(async () => {
    server = await startServer();
  });
  afterAll(() => server.stop());
  afterEach(async () => {
    await server.behave(wellBehaved);
    await server.clearRequests();
  });

  test.each([
    ['the handshake', 'initialize'],
    ['the end of the handshake', 'notifications/initialized'],
  ])('fails connect() at its deadline, at most 250 ms late: %s (G4)', async (_, onlyMethod) => {
    await server.behave({ hang: { onlyMethod, times: 1 } });
    const client = clientOf(server.url, { timeout: { connect: 500 } });
    const start = performance.now();
    expect(await failure(client.connect())).toMatchObject({ name: 'DeadlineError', timeout: 500 });
    expect(performance.now() - start).toBeLessThan(750);
    await client.connect();
    expect(await say(client, 'echo', { text: 'next time' })).toBe('next time');
  });

  test.each([
    ['the handshake', 'initialize'],
    ['the end of the handshake', 'notifications/initialized'],
  ])('lets connect() be aborted, with the signal\'s reason: %s', async (_, onlyMethod) => {
    await server.behave({ hang: { onlyMethod, times: 1 } });
    const controller = new AbortController();
    const client = clientOf(server.url, { signal: controller.signal });
    const connecting = failure(client.connect());
    await waitFor(async () => (await wireOf(server, onlyMethod)).length === 1);
    const reason = new Error('no patience');
    controller.abort(reason);
    expect(await timed(connecting)).toBeLessThan(100);
    expect(await connecting).toBe(reason);
    await waitFor(async () => (await wireOf(server, onlyMethod))[0]?.endedBy === 'client');
  });

  test.each([
    ['the handshake', 'initialize'],
    ['the end of the handshake', 'notifications/initialized'],
    ['a subscription', 'resources/subscribe'],
    ['the log level', 'logging/setLevel'],
  ])('while a lost session is replaced, wedges nothing: %s', async (_, onlyMethod) => {
    const client = await connected(server.url, { listen: false, timeout: { connect: 500 } });
    await client.subscribeResource({ uri: 'test://one' });
    await client.setLoggingLevel('warning');
    await server.forget();
    await server.behave({ hang: { onlyMethod, times: 1 } });
    expect(await say(client, 'echo', { text: 'in the end' }, { timeout: 10_000 })).toBe('in the end');
    expect(await say(client, 'echo', { text: 'and again' }, { timeout: 1000 })).toBe('and again');
  });
});
