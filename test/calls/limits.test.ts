import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CircuitOpenError, type ConnectOptions, RateLimitedError, type ResilientClient, UnreachableError } from '../../src/index.ts';
import { clientOf, connected, failure, heardFrom, say, timed, wireOf } from '../session/clients.ts';
import type { Behaviour } from '../support/contract.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { arrived, countOf, sharedServer } from './servers.ts';

/** Item 6: how much a client asks of a server at a time, in a time, and when it is not there. Counted at the server. */

const CALL = 'tools/call';
const numbers = (count: number): string[] => Array.from({ length: count }, (_, i) => `${i}`);

describe('concurrency', () => {
  const server = sharedServer();

  it('a thousand calls at once take as many connections as it says, 64 by default and never more than 256, and all are answered', async () => {
    const limit = 64;
    const client = await connected(server().url, { listen: false });
    const calls = Promise.all(numbers(1000).map((text) => say(client, 'echo', { text })));
    await waitFor(() => client.metrics().inFlight > 0);
    expect(client.metrics()).toMatchObject({ inFlight: limit, queueLength: 1000 - limit });
    expect(await calls).toEqual(numbers(1000));
    const entries = await wireOf(server(), CALL);
    expect(entries).toHaveLength(1000);
    expect(new Set(entries.map(({ socket }) => socket)).size).toBeLessThanOrEqual(256);
    expect(client.metrics()).toMatchObject({ inFlight: 0, queueLength: 0 });
  });

  it('no more requests than it says are under way at the server; a ping needs no turn', async () => {
    const client = await connected(server().url, { listen: false, concurrency: 5 });
    await server().behave({ hang: { onlyMethod: CALL, times: 1e9 } });
    const controller = new AbortController();
    const calls = numbers(50).map((text) => failure(say(client, 'echo', { text }, { signal: controller.signal })));
    await arrived(server(), CALL, 5);
    await client.ping();
    expect(await countOf(server(), CALL)).toBe(5);
    controller.abort();
    await Promise.all(calls);
    await client.ping();
    // What waited was given up with the others, and never left.
    expect(await countOf(server(), CALL)).toBe(5);
  });

  it('of one keeps the calls in order, those too that others give up before them', async () => {
    const client = await connected(server().url, { listen: false, concurrency: 1 });
    const controller = new AbortController();
    const calls = numbers(60).map((i) => say(client, 'work', { nonce: `order-${i}` }, Number(i) % 3 === 1 ? { signal: controller.signal } : {}).catch(() => 'given up'));
    controller.abort();
    await Promise.all(calls);
    const ran = (await server().executions()).map(({ nonce }) => nonce).filter((nonce) => nonce.startsWith('order-'));
    expect(ran).toEqual(numbers(60).filter((i) => Number(i) % 3 !== 1).map((i) => `order-${i}`));
  });
});

describe('the rate limit', () => {
  const server = sharedServer();

  it('spreads requests at the server: a burst, and then so many a second', async () => {
    const [perSecond, burst, many] = [50, 5, 40];
    const client = await connected(server().url, { listen: false, rateLimit: { perSecond, burst } });
    expect(await Promise.all(numbers(many).map((text) => say(client, 'echo', { text })))).toEqual(numbers(many));
    const times = (await wireOf(server(), CALL)).map(({ at }) => at);
    expect(times).toHaveLength(many);
    const first = times[0] as number;
    // The first of them may have been on its way for longer than the others: 50 ms are for that.
    times.forEach((at, i) => expect(at - first).toBeGreaterThanOrEqual(((i + 1 - burst) * 1000) / perSecond - 50));
  });

  it('counts what is sent again too', async () => {
    const client = await connected(server().url, { listen: false, rateLimit: { perSecond: 10, burst: 1 }, retry: { minTimeout: 1, maxTimeout: 1 } });
    await server().behave({ post: { onlyMethod: CALL, times: 3, status: 429 } });
    expect(await say(client, 'echo', { text: 'in the end' })).toBe('in the end');
    const [first, ...more] = (await wireOf(server(), CALL)).map(({ at }) => at);
    expect(more).toHaveLength(3);
    expect((more.at(-1) as number) - (first as number)).toBeGreaterThanOrEqual(250);
  });

  it('fails at once a call that it would let out too late, and says when', async () => {
    const client = await connected(server().url, { listen: false, rateLimit: { perSecond: 0.1, burst: 1 } });
    expect(await say(client, 'echo', { text: 'first' })).toBe('first');
    const call = failure(say(client, 'echo', { text: 'second' }, { timeout: 5000 }));
    expect(await timed(call)).toBeLessThan(1000);
    const error = await call;
    expect(error).toBeInstanceOf(RateLimitedError);
    expect(error).toMatchObject({ code: 'RATE_LIMITED', outcome: 'not-sent' });
    expect(error['retryAfter']).toBeGreaterThan(5000);
    expect(error['retryAfter']).toBeLessThanOrEqual(10_000);
    expect(error.message).toMatch(/rateLimit/);
    expect(await countOf(server(), CALL)).toBe(1);
    expect(client.metrics().calls).toMatchObject({ answered: 1, notSent: 1 });
  });

  it('holds up no handshake, no ping and nothing that needs no request', async () => {
    const client = await connected(server().url, { listen: false, rateLimit: { perSecond: 0.001, burst: 1 } });
    await client.listTools();
    await server().forget();
    await client.ping();
    await client.ping();
    expect(client.metrics().resets).toBe(1);
  });
});

describe('a circuit breaker', () => {
  let server: FixtureProcess;
  beforeEach(async () => void (server = await startServer()));
  afterEach(() => server.stop());

  /** A client that has found nobody there so often that its circuit is open. */
  async function opened(options: ConnectOptions, failures = 3): Promise<{ client: ResilientClient; heard: ReturnType<typeof heardFrom> }> {
    const client = await connected(server.url, { listen: false, circuitBreaker: { failures }, ...options });
    const heard = heardFrom(client);
    await server.kill();
    for (let i = 0; i < failures; i++) {
      expect(client.metrics().circuit).toBe('closed');
      expect(await failure(say(client, 'echo', { text: 'x' }, { retry: false }))).toBeInstanceOf(UnreachableError);
    }
    expect(client.metrics().circuit).toBe('open');
    return { client, heard };
  }

  it('opens after so many attempts in a row that found nobody; then calls fail at once, and no request is made', async () => {
    // So long that no ping closes it.
    const { client, heard } = await opened({ retry: { minTimeout: 2 ** 31 - 1, maxTimeout: 2 ** 31 - 1 } });
    expect(heard.circuit).toEqual([{ open: true, reason: expect.stringMatching(/could not be reached/) }]);
    await server.restart();
    const calls = numbers(20).map((text) => failure(say(client, 'echo', { text }, { safe: true })));
    expect(await timed(Promise.all(calls))).toBeLessThan(500);
    for (const error of await Promise.all(calls)) {
      expect(error).toBeInstanceOf(CircuitOpenError);
      expect(error).toMatchObject({ code: 'CIRCUIT_OPEN', outcome: 'not-sent', cause: expect.any(UnreachableError) });
      expect(error.message).toMatch(/3 times in a row.*was not sent/);
    }
    expect(await server.requests()).toEqual([]);
    expect(heard.circuit).toHaveLength(1);
    expect(client.metrics().calls).toMatchObject({ notSent: 23, pending: 0 });
  });

  it('closes by a ping of its own when the server is back, and says so; calls go on', async () => {
    const { client, heard } = await opened({ retry: { minTimeout: 20, maxTimeout: 50 } });
    await server.restart();
    await waitFor(() => heard.circuit.length === 2, { what: 'the circuit to close' });
    expect(heard.circuit[1]).toEqual({ open: false, reason: expect.stringMatching(/answers again/) });
    expect(client.metrics().circuit).toBe('closed');
    expect(await countOf(server, CALL)).toBe(0);
    const pings = await countOf(server, 'ping');
    expect(pings).toBeGreaterThan(0);
    expect(await say(client, 'echo', { text: 'on' })).toBe('on');
    // And then nobody asks any more.
    expect(await countOf(server, 'ping')).toBe(pings);

    // The next outage opens it after as many failures.
    await server.kill();
    const errors = [];
    for (let i = 0; i < 4; i++) errors.push((await failure(say(client, 'echo', { text: 'x' }, { retry: false })))['code']);
    expect(errors).toEqual(['UNREACHABLE', 'UNREACHABLE', 'UNREACHABLE', 'CIRCUIT_OPEN']);
    expect(heard.circuit.map(({ open }) => open)).toEqual([true, false, true]);
  });

  it('fails calls that wait for the server too, once it has opened', async () => {
    const client = await connected(server.url, { listen: false, circuitBreaker: { failures: 4 }, retry: { minTimeout: 5, maxTimeout: 10 } });
    await server.kill();
    const errors = await Promise.all(numbers(2).map((text) => failure(say(client, 'echo', { text }, { safe: true }))));
    for (const error of errors) expect(error).toBeInstanceOf(CircuitOpenError);
  });

  it('holds up no connect(), and a handshake that finds nobody does not open it', async () => {
    await server.kill();
    const client = clientOf(server.url, { listen: false, circuitBreaker: { failures: 1 }, retry: { minTimeout: 10, maxTimeout: 20 } });
    const heard = heardFrom(client);
    const connecting = client.connect();
    await waitFor(() => heard.retry.length >= 3);
    await server.restart();
    await connecting;
    expect(await say(client, 'echo', { text: 'x' })).toBe('x');
    expect(heard.circuit).toEqual([]);
  });

  it('is closed again with a new connection, also to a server that is away', async () => {
    const { client, heard } = await opened({ retry: { minTimeout: 2 ** 31 - 1, maxTimeout: 2 ** 31 - 1 } });
    await client.close();
    await server.restart();
    await client.connect();
    expect(client.metrics().circuit).toBe('closed');
    expect(heard.circuit.map(({ open }) => open)).toEqual([true, false]);
    expect(await say(client, 'echo', { text: 'on' })).toBe('on');
  });

  it('is not there unless it is asked for: calls wait for the server', async () => {
    const client = await connected(server.url, { listen: false, retry: { minTimeout: 5, maxTimeout: 20 } });
    const heard = heardFrom(client);
    await server.kill();
    const call = say(client, 'echo', { text: 'in the end' });
    await waitFor(() => heard.retry.length >= 10);
    await server.restart();
    expect(await call).toBe('in the end');
    expect(heard.circuit).toEqual([]);
  });
});

describe('a circuit breaker stays closed whatever a server that is there', () => {
  const server = sharedServer();
  const times = 3;
  const answer = (code: number) => ({ reply: { onlyMethod: CALL, times, contentType: 'application/json', body: `{"jsonrpc":"2.0","id":{{id}},"error":{"code":${code},"message":"no"}}` } });
  const status = (status: number) => ({ post: { onlyMethod: CALL, times, status } });

  it.each<{ says: string; fault: Partial<Behaviour>; args?: Record<string, unknown> }>([
    { says: 'isError', fault: {}, args: { text: 1 } },
    ...[-32603, -32601, -32001].map((code) => ({ says: `the JSON-RPC error ${code}`, fault: answer(code) })),
    ...[500, 502, 503, 504, 404, 401, 403, 400, 429].map((code) => ({ says: `${code}`, fault: status(code) })),
    { says: 'nothing at all', fault: { hang: { onlyMethod: CALL, times } } },
    { says: 'half of an answer', fault: { endEmpty: { onlyMethod: CALL, times } } },
  ])('says: $says', async ({ fault, args = { text: 'x' } }) => {
    const client = await connected(server().url, { listen: false, circuitBreaker: { failures: 1 }, retry: false });
    const heard = heardFrom(client);
    await server().behave(fault);
    for (let i = 0; i < times; i++) await say(client, 'echo', args, { timeout: 150 }).catch(() => {});
    await server().behave({ post: null });
    expect(await say(client, 'echo', { text: 'on' })).toBe('on');
    expect(heard.circuit).toEqual([]);
    expect(client.metrics().circuit).toBe('closed');
  });

  it('does to a connection that stands', async () => {
    const client = await connected(server().url, { listen: false, circuitBreaker: { failures: 1 }, retry: false });
    const heard = heardFrom(client);
    const call = failure(say(client, 'work', { nonce: 'cut', ms: 60_000 }));
    await arrived(server(), CALL);
    await server().cut();
    expect(await call).toMatchObject({ code: 'OUTCOME_UNKNOWN' });
    expect(await say(client, 'echo', { text: 'on' })).toBe('on');
    expect(heard.circuit).toEqual([]);
  });
});
