import { inspect } from 'node:util';
import { describe, expect, it, onTestFinished } from 'vitest';
import { type CallRecord, type ConnectOptions, memoryStore, type ResilientClient } from '../../src/index.ts';
import { connected, failure, heardFrom, say, started, streamOpen } from '../session/clients.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { arrived, countOf, sharedServer } from './servers.ts';

/** Item 9: what a client remembers and counts, against what has really happened; and what it must never tell. */

const CALL = 'tools/call';
const server = sharedServer();
const quiet: ConnectOptions = { listen: false };
const once = { onlyMethod: CALL, times: 1 };

async function ownServer(): Promise<FixtureProcess> {
  const own = await startServer();
  onTestFinished(() => own.stop());
  return own;
}

describe('the history', () => {
  it('has a line for each call: what it was, when, how long, how often it was sent and what became of it', async () => {
    const client = await connected(server().url, { ...quiet, retry: { minTimeout: 1, maxTimeout: 1 } });
    const before = Date.now();
    await say(client, 'work', { nonce: 'lines', ms: 100 });
    await client.readResource({ uri: 'test://one' });
    await client.listTools();
    await client.listTools();
    await client.callTool({ name: 'echo', arguments: { text: 1 } });
    await failure(client.getPrompt({ name: 'none' }));
    await server().behave({ post: { ...once, status: 503 } });
    await say(client, 'echo', { text: 'again' }, { safe: true });
    await server().behave({ post: { ...once, status: 503 } });
    await failure(say(client, 'echo', { text: 'unknown' }));
    await server().behave({ post: { ...once, status: 403 } });
    await failure(say(client, 'echo', { text: 'refused' }));
    const after = Date.now();

    const history = client.history();
    expect(history).toMatchObject([
      { method: CALL, name: 'work', attempts: 1, outcome: 'answered' },
      { method: 'resources/read', name: 'test://one', attempts: 1, outcome: 'answered' },
      { method: 'tools/list', attempts: 1, outcome: 'answered' },
      { method: 'tools/list', attempts: 0, outcome: 'answered' },
      { method: CALL, name: 'echo', attempts: 1, outcome: 'answered', isError: true },
      { method: 'prompts/get', name: 'none', attempts: 1, outcome: 'refused', code: -32602, error: expect.stringContaining('none') },
      { method: CALL, name: 'echo', attempts: 2, outcome: 'answered' },
      { method: CALL, name: 'echo', attempts: 1, outcome: 'unknown', code: 'OUTCOME_UNKNOWN', error: expect.stringContaining('503') },
      { method: CALL, name: 'echo', attempts: 1, outcome: 'refused', code: 'REFUSED', error: expect.stringContaining('403') },
    ]);
    expect(history.map(({ call }) => call)).toEqual([...new Set(history.map(({ call }) => call))].sort((a, b) => a - b));
    for (const { startedAt, duration } of history) {
      expect(startedAt).toBeGreaterThanOrEqual(before);
      expect(startedAt + duration).toBeLessThanOrEqual(after + 1);
    }
    expect(history[0]?.duration).toBeGreaterThanOrEqual(99);
    for (const record of history) {
      expect(record).not.toHaveProperty('params');
      expect(record).not.toHaveProperty('result');
    }
  });

  it.each([
    { option: {}, size: 100 },
    { option: { history: { size: 7 } }, size: 7 },
    { option: { history: { size: 0 } }, size: 0 },
  ])('remembers the last $size calls, oldest first, and no more', async ({ option, size }) => {
    const client = await connected(server().url, { ...quiet, ...option });
    for (let i = 0; i < 130; i++) await client.ping();
    const calls = client.history().map(({ call }) => call);
    expect(calls).toHaveLength(size);
    const last = calls.at(-1) ?? 0;
    expect(calls).toEqual(Array.from({ length: size }, (_, i) => last - size + 1 + i));
    expect(client.metrics().calls.answered).toBe(130);
  });

  it('is a copy: what is done to it changes nothing', async () => {
    const client = await connected(server().url, quiet);
    await client.ping();
    (client.history() as CallRecord[]).length = 0;
    expect(client.history()).toHaveLength(1);
  });

  it('keeps arguments and results only where that was asked for, as they were then', async () => {
    const client = await connected(server().url, { ...quiet, history: { payloads: true } });
    const args = { text: 'as it was' };
    const result = await client.callTool({ name: 'echo', arguments: args });
    args.text = 'changed';
    (result['content'] as unknown[]).length = 0;
    expect(client.history()).toMatchObject([{ params: { name: 'echo', arguments: { text: 'as it was' } }, result: { content: [{ type: 'text', text: 'as it was' }] } }]);
  });

  it('goes on over a close and a new connection', async () => {
    const client = await connected(server().url, quiet);
    await client.ping();
    await client.close();
    await client.connect();
    await client.ping();
    expect(client.history()).toHaveLength(2);
    expect(client.metrics().calls.answered).toBe(2);
  });
});

describe('the event of a call', () => {
  it('tells the line of the history, once for each, when it is settled', async () => {
    const client = await connected(server().url, quiet);
    const heard = heardFrom(client);
    const controller = new AbortController();
    const calls = [
      say(client, 'work', { nonce: 'event', ms: 50 }),
      failure(say(client, 'work', { nonce: 'event late', ms: 60_000 }, { timeout: 100 })),
      failure(say(client, 'work', { nonce: 'event given up', ms: 60_000 }, { signal: controller.signal })),
      client.readResource({ uri: 'test://one' }),
      client.readResource({ uri: 'test://one' }),
    ];
    await started(server(), 'event given up');
    expect(heard.call.length).toBeLessThan(calls.length);
    controller.abort(new Error('no patience'));
    await Promise.all(calls);
    await client.listTools();
    await client.listTools();
    expect(heard.call).toEqual(client.history());
    expect(heard.call).toHaveLength(7);
    expect(heard.call.filter(({ outcome }) => outcome === 'unknown')).toMatchObject([{ error: 'no patience' }, { code: 'DEADLINE' }]);
    expect(heard.call.filter(({ shared }) => shared)).toMatchObject([{ attempts: 0, outcome: 'answered' }]);
  });

  it('cannot break a call, whatever a listener does', async () => {
    const client = await connected(server().url, {
      ...quiet,
      on: {
        call: () => {
          throw new Error('the fault of a user');
        },
      },
    });
    expect(await say(client, 'echo', { text: 'x' })).toBe('x');
    expect(await say(client, 'echo', { text: 'y' })).toBe('y');
    expect(client.history()).toHaveLength(2);
  });
});

describe('the numbers', () => {
  it('say what has become of calls', async () => {
    const client = await connected(server().url, { ...quiet, concurrency: 1, retry: { minTimeout: 1, maxTimeout: 1 } });
    expect(client.metrics()).toMatchObject({
      calls: { answered: 0, notSent: 0, refused: 0, unknown: 0, errors: 0, shared: 0, cached: 0, pending: 0 },
      latency: { count: 0, p50: 0, p90: 0, p99: 0, max: 0 },
      retries: 0,
      resumes: 0,
      resets: 0,
      inFlight: 0,
      queueLength: 0,
      circuit: 'closed',
    });
    await Promise.all([client.readResource({ uri: 'test://one' }), client.readResource({ uri: 'test://one' })]);
    await client.listTools();
    await client.listTools();
    await client.callTool({ name: 'echo', arguments: { text: 1 } });
    await server().behave({ post: { ...once, status: 503, times: 2 } });
    await say(client, 'echo', { text: 'again' }, { safe: true });
    await server().behave({ post: { ...once, status: 503 } });
    await failure(say(client, 'echo', { text: 'unknown' }));
    await server().behave({ hang: once });
    const controller = new AbortController();
    const hung = failure(say(client, 'echo', { text: 'x' }, { signal: controller.signal }));
    await arrived(server(), CALL, 6);
    const late = failure(say(client, 'echo', { text: 'x' }, { timeout: 300 }));
    await waitFor(() => client.metrics().queueLength === 1);
    expect(client.metrics()).toMatchObject({ inFlight: 1, calls: { pending: 2 } });
    await late;
    controller.abort();
    await hung;
    const { calls, latency, retries, inFlight, queueLength } = client.metrics();
    expect(calls).toEqual({ answered: 6, errors: 1, shared: 1, cached: 1, unknown: 2, notSent: 1, refused: 0, pending: 0 });
    // Of what was answered over the wire.
    expect(latency.count).toBe(4);
    expect({ retries, inFlight, queueLength }).toEqual({ retries: 2, inFlight: 0, queueLength: 0 });
  });

  it('say how long calls took', async () => {
    const client = await connected(server().url, { ...quiet, concurrency: 1 });
    for (let i = 0; i < 20; i++) await client.ping();
    await say(client, 'work', { nonce: 'slow', ms: 400 });
    const { count, p50, p90, p99, max } = client.metrics().latency;
    const durations = client.history().map(({ duration }) => duration).sort((a, b) => a - b);
    expect(count).toBe(21);
    expect(max).toBe(durations.at(-1));
    expect(max).toBeGreaterThanOrEqual(399);
    for (const [quantile, rank] of [[p50, 11], [p90, 19], [p99, 21]] as const) {
      const real = durations[rank - 1] as number;
      expect(quantile / real).toBeGreaterThan(0.97);
      expect(quantile / real).toBeLessThan(1.03);
    }
  });

  it('say how many bytes went and came, and how many streams are open', async () => {
    const client = await connected(server().url);
    await streamOpen(server());
    await waitFor(() => client.metrics().openStreams === 1);
    const before = client.metrics().bytes;
    expect(before.sent).toBeGreaterThan(0);
    expect(before.received).toBeGreaterThan(0);
    const text = 'ä'.repeat(5000);
    expect(await say(client, 'echo', { text })).toBe(text);
    const after = client.metrics().bytes;
    for (const grown of [after.sent - before.sent, after.received - before.received]) {
      expect(grown).toBeGreaterThanOrEqual(10_000);
      expect(grown).toBeLessThan(10_500);
    }
    const working = say(client, 'work', { nonce: 'stream', ms: 60_000 }).catch(() => {});
    await started(server(), 'stream');
    await waitFor(() => client.metrics().openStreams === 2);
    await client.close();
    await working;
    expect(client.metrics().openStreams).toBe(0);
  });

  it('say how often a session was taken up, and how often replaced', async () => {
    const store = memoryStore();
    const first = await connected(server().url, { ...quiet, store });
    await first.close();
    const client = await connected(server().url, { ...quiet, store });
    expect(client.metrics()).toMatchObject({ resumes: 0, resets: 0 });
    await client.ping();
    expect(client.metrics()).toMatchObject({ resumes: 1, resets: 0 });
    await server().forget();
    await client.ping();
    expect(client.metrics()).toMatchObject({ resumes: 1, resets: 1 });
    expect(await countOf(server(), 'initialize')).toBe(2);
  });
});

describe('no secret', () => {
  const token = 'canary-token-3f9a';
  const secretHeader = 'canary-header-77c1';

  /** Makes everything that a client can tell, and returns all of it as text, the errors with what caused them. */
  async function everythingTold(own: FixtureProcess, client: ResilientClient, heard: object): Promise<{ told: string; id: string }> {
    const { id } = client.session;
    if (id === undefined) throw new Error('there is no session');
    const echoed = `You sent ${id} and Bearer ${token} and ${secretHeader}`;
    const errors: unknown[] = [];
    const fail = async (call: Promise<unknown>): Promise<void> => void errors.push(await failure(call));
    await own.behave({ hang: once });
    await fail(say(client, 'echo', { text: 'x' }, { timeout: 50 }));
    for (const status of [400, 401, 403, 429, 500, 503]) {
      await own.behave({ post: { ...once, times: 1, status, body: echoed, headers: { 'retry-after': '3600' } } });
      await fail(say(client, 'echo', { text: 'x' }));
    }
    await own.behave({ post: { ...once, times: 2, status: 503, body: `{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"${echoed}"}}` } });
    await say(client, 'echo', { text: 'x' }, { safe: true });
    await own.behave({ reply: { ...once, contentType: 'application/json', body: `{${echoed}` } });
    await fail(say(client, 'echo', { text: 'x' }));
    await own.behave({ endEmpty: once });
    await fail(say(client, 'echo', { text: 'x' }));
    await own.forget();
    await client.ping();
    const working = failure(say(client, 'work', { nonce: 'cut', ms: 60_000 }));
    await started(own, 'cut');
    await own.cut();
    errors.push(await working);
    await own.kill();
    await fail(say(client, 'echo', { text: 'x' }, { retry: false }));
    await fail(say(client, 'echo', { text: 'x' }));
    errors.push(await failure(say(client, 'echo', { text: 'x' })));
    await client.close();
    await fail(say(client, 'echo', { text: 'x' }));
    const told = inspect({ heard, errors, history: client.history(), metrics: client.metrics() }, { depth: 20, maxArrayLength: null, maxStringLength: null, showHidden: true });
    return { told, id };
  }

  it.each([
    { how: 'node:http', options: {} },
    { how: 'fetch', options: { requestInit: {} } },
  ])('is in any error, event, number or line of the history, whatever a server repeats: over $how', async ({ options }) => {
    const own = await ownServer();
    const client = await connected(own.url, {
      ...options,
      headers: { authorization: `Bearer ${token}`, 'x-api-key': secretHeader },
      store: memoryStore(),
      circuitBreaker: { failures: 2 },
      retry: { minTimeout: 1, maxTimeout: 1 },
    });
    const heard = heardFrom(client);
    const errors: Error[] = [];
    client.onerror = (error) => void errors.push(error);
    const { told, id } = await everythingTold(own, client, { heard, errors });
    expect(told).toContain('CIRCUIT_OPEN');
    expect(told).toContain('You sent');
    for (const secret of [id, token, secretHeader]) expect(told).not.toContain(secret);
  });

  it('nor an argument or a result, unless that was asked for', async () => {
    const client = await connected(server().url, quiet);
    const heard = heardFrom(client);
    expect(await say(client, 'echo', { text: 'canary-argument' })).toBe('canary-argument');
    await server().behave({ post: { ...once, status: 500 } });
    const error = await failure(say(client, 'echo', { text: 'canary-argument' }));
    expect(inspect({ heard, error, history: client.history(), metrics: client.metrics() }, { depth: 20, showHidden: true })).not.toContain('canary-argument');
  });
});
