import { getEventListeners } from 'node:events';
import { afterAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { DeadlineError, type ResilientClient } from '../../src/index.ts';
import type { CallOptions } from '../../src/client.ts';
import { connected, failure, runsOf, say, started, wireOf } from '../session/clients.ts';
import { LoopLag } from '../faults/loop-lag.ts';
import { waitFor } from '../support/wait.ts';
import { arrived, countOf, sharedServer } from './servers.ts';

/** Item 3 (G4): how long a call may take, against a server that takes longer. */

const CALL = 'tools/call';
const CANCELLED = 'notifications/cancelled';
const hanging = { hang: { onlyMethod: CALL, times: 1e9 } };
/** How late a promise may settle, in ms. */
const LATEST = 250;

const server = sharedServer();

/** A time, in ms, and how much of it this process could do nothing, because the machine did something else. */
interface Time {
  readonly whole: number;
  readonly blocked: number;
}

const lag = new LoopLag();
afterAll(() => lag.stop());

/** What a call fails with, and after how long. */
async function late(call: Promise<unknown>): Promise<{ error: Error & Record<string, unknown>; after: Time }> {
  const start = performance.now();
  const error = await failure(call);
  const end = performance.now();
  return { error, after: { whole: end - start, blocked: lag.between(start, end) } };
}

function expectWithin({ whole, blocked }: Time, limit: number): void {
  // A timer may fire a fraction of a ms early.
  expect(whole).toBeGreaterThanOrEqual(limit - 1);
  expect(whole - blocked).toBeLessThanOrEqual(limit + LATEST);
}

describe('a call that is not answered', () => {
  it.each<{ what: string; client?: { call: number; total?: number }; options?: CallOptions; limit: number; name: string }>([
    { what: 'its own timeout', options: { timeout: 200 }, limit: 200, name: 'timeout.call' },
    { what: 'its own total', options: { maxTotalTimeout: 200 }, limit: 200, name: 'timeout.total' },
    { what: 'that of its client', client: { call: 200 }, limit: 200, name: 'timeout.call' },
    { what: 'its own, though its client has more', client: { call: 60_000 }, options: { timeout: 200 }, limit: 200, name: 'timeout.call' },
    { what: 'its own, though its client has less', client: { call: 100, total: 100 }, options: { timeout: 300 }, limit: 300, name: 'timeout.call' },
  ])('G4 fails when $what is over, and says which', async ({ client: timeout, options, limit, name }) => {
    const client = await connected(server().url, { listen: false, ...(timeout ? { timeout } : {}) });
    await server().behave(hanging);
    const { error, after } = await late(say(client, 'echo', { text: 'x' }, options));
    expectWithin(after, limit);
    expect(error).toBeInstanceOf(DeadlineError);
    expect(error).toMatchObject({ code: 'DEADLINE', outcome: 'unknown', timeout: limit });
    expect(error.message).toContain(`within ${limit} ms (${name})`);
    expect(error.message).toContain('the server is told');
    await arrived(server(), CANCELLED);
  });

  it('G4 is cancelled at the server under the id that the server knows, and its connection is closed', async () => {
    const client = await connected(server().url, { listen: false });
    const call = failure(say(client, 'work', { nonce: 'cancelled', ms: 60_000 }, { timeout: 600 }));
    await started(server(), 'cancelled');
    await call;
    await waitFor(async () => (await runsOf(server(), 'cancelled'))[0]?.aborted, { what: 'the end of the tool' });
    await waitFor(async () => (await wireOf(server(), CALL))[0]?.endedBy);
  });

  it('G4 with hundreds of others fails with all of them, when their time is over', async () => {
    const client = await connected(server().url, { listen: false, concurrency: 20 });
    await server().behave(hanging);
    const all = await Promise.all(Array.from({ length: 200 }, (_, i) => late(say(client, 'echo', { text: `${i}` }, { timeout: 600 }))));
    for (const { after } of all) expectWithin(after, 600);
    const outcomes = all.map(({ error }) => error['outcome']);
    expect(outcomes.filter((outcome) => outcome === 'unknown')).toHaveLength(20);
    expect(outcomes.filter((outcome) => outcome === 'not-sent')).toHaveLength(180);
    await arrived(server(), CANCELLED, 20);
    expect(await countOf(server(), CALL)).toBe(20);
    expect(client.metrics()).toMatchObject({ inFlight: 0, queueLength: 0, calls: { pending: 0 } });
  });

  it('G4 is given up between two attempts too, and then nobody is told of what is not under way', async () => {
    const client = await connected(server().url, { listen: false, retry: { minTimeout: 2 ** 31 - 1, maxTimeout: 2 ** 31 - 1 } });
    await server().behave({ post: { onlyMethod: CALL, times: 1, status: 503 } });
    const { error, after } = await late(say(client, 'echo', { text: 'x' }, { safe: true, timeout: 300 }));
    expectWithin(after, 300);
    expect(error).toMatchObject({ code: 'DEADLINE', outcome: 'unknown' });
    expect(error.message).toContain('503');
    expect(error.message).not.toContain('the server is told');
    await client.ping();
    expect(await countOf(server(), CANCELLED)).toBe(0);
  });
});

describe('progress', () => {
  const working = (client: ResilientClient, nonce: string, options: CallOptions): Promise<string> => say(client, 'work', { nonce, ms: 1200, steps: 12 }, options);

  it('G4 starts the time of a call afresh', async () => {
    const client = await connected(server().url, { listen: false });
    let steps = 0;
    expect(await working(client, 'extended', { timeout: 700, onprogress: () => steps++ })).toBe('done:extended');
    expect(steps).toBe(12);
  });

  it.each<{ what: string; options: CallOptions }>([
    { what: 'that nobody asked for', options: {} },
    { what: 'that is not to extend it', options: { onprogress: () => {}, resetTimeoutOnProgress: false } },
  ])('G4 $what does not', async ({ what, options }) => {
    const client = await connected(server().url, { listen: false });
    const { error, after } = await late(working(client, what, { ...options, timeout: 400 }));
    expectWithin(after, 400);
    expect(error).toMatchObject({ code: 'DEADLINE', timeout: 400 });
  });

  it.each<{ whose: string; total?: number; options?: CallOptions }>([
    { whose: 'its client', total: 800 },
    { whose: 'the call', options: { maxTotalTimeout: 800 } },
  ])('G4 never extends the total of $whose', async ({ whose, total, options }) => {
    const client = await connected(server().url, { listen: false, timeout: { call: 500, ...(total ? { total } : {}) } });
    let steps = 0;
    const { error, after } = await late(working(client, `total of ${whose}`, { ...options, onprogress: () => steps++ }));
    expectWithin(after, 800);
    expect(error).toMatchObject({ code: 'DEADLINE', timeout: 800 });
    expect(error.message).toContain('timeout.total');
    expect(steps).toBeGreaterThan(0);
  });

  it('is not waited for when its listener throws', async () => {
    const client = await connected(server().url, { listen: false });
    const onprogress = (): never => {
      throw new Error('the fault of a user');
    };
    expect(await say(client, 'work', { nonce: 'thrown', ms: 50, steps: 5 }, { onprogress })).toBe('done:thrown');
  });
});

describe('a call that waits for its turn', () => {
  /** A client whose only turn is taken by a call that hangs. */
  async function busy(): Promise<{ client: ResilientClient; release: () => void }> {
    const client = await connected(server().url, { listen: false, concurrency: 1 });
    await server().behave({ hang: { onlyMethod: CALL, times: 1 } });
    const controller = new AbortController();
    void failure(say(client, 'echo', { text: 'first' }, { signal: controller.signal }));
    await arrived(server(), CALL);
    return { client, release: () => controller.abort() };
  }

  it('G4 fails when its time is over, says that it was not sent and why, and is not sent later', async () => {
    const { client, release } = await busy();
    const { error, after } = await late(say(client, 'work', { nonce: 'queued' }, { timeout: 200 }));
    expectWithin(after, 200);
    expect(error).toMatchObject({ code: 'DEADLINE', outcome: 'not-sent', timeout: 200 });
    expect(error.message).toContain('It was not sent: it waited for its turn (1 in flight).');
    release();
    expect(await say(client, 'echo', { text: 'after' })).toBe('after');
    expect(await runsOf(server(), 'queued')).toEqual([]);
  });

  it('has waited on its own time', async () => {
    const { client, release } = await busy();
    const second = late(say(client, 'work', { nonce: 'half', ms: 60_000 }, { timeout: 800 }));
    await waitFor(() => client.metrics().queueLength === 1);
    setTimeout(release, 400);
    await started(server(), 'half');
    expectWithin((await second).after, 800);
  });

  it('does not hold up a handshake, nor what asks whether the server lives', async () => {
    const { client, release } = await busy();
    const queued = Array.from({ length: 20 }, (_, i) => say(client, 'echo', { text: `${i}` }));
    await server().forget();
    // Finds that the session is lost, and has it replaced.
    await client.ping({ timeout: 3000 });
    expect(await countOf(server(), 'initialize')).toBe(2);
    expect(client.metrics()).toMatchObject({ resets: 1, queueLength: 20 });
    release();
    expect(await Promise.all(queued)).toEqual(queued.map((_, i) => `${i}`));
  });

  it('does not use up the time of a handshake', async () => {
    const client = await connected(server().url, { listen: false, concurrency: 1, rateLimit: { perSecond: 0.001, burst: 1 }, timeout: { connect: 1000 } });
    expect(await say(client, 'echo', { text: 'first' })).toBe('first');
    await server().forget();
    await client.ping();
    expect(client.metrics().resets).toBe(1);
  });
});

describe('the signal of a caller', () => {
  const warnings: Error[] = [];
  beforeEach(() => {
    warnings.length = 0;
    const note = (warning: Error): void => void warnings.push(warning);
    process.on('warning', note);
    onTestFinished(() => void process.off('warning', note));
  });
  const listeners = (signal: AbortSignal): number => getEventListeners(signal, 'abort').length;

  it('keeps no listener of ours after 10,000 calls on it, has one at the most meanwhile, and nobody is warned', async () => {
    const client = await connected(server().url, { listen: false });
    const { signal } = new AbortController();
    let most = 0;
    const one = async (i: number): Promise<void> => {
      expect(await client.readResource({ uri: 'test://one', _meta: { i: i % 100 } }, { signal })).toBeDefined();
      most = Math.max(most, listeners(signal));
    };
    for (let round = 0; round < 10; round++) await Promise.all(Array.from({ length: 1000 }, (_, i) => one(i)));
    expect(client.metrics().calls.answered).toBe(10_000);
    expect(listeners(signal)).toBe(0);
    expect(most).toBe(1);
    // A warning is emitted in the next turn.
    await new Promise((resolve) => setImmediate(resolve));
    expect(warnings).toEqual([]);
  });

  it('keeps none after calls that failed, were late, or were given up in any place', async () => {
    const client = await connected(server().url, { listen: false, concurrency: 2, retry: { minTimeout: 2 ** 31 - 1, maxTimeout: 2 ** 31 - 1 } });
    const controller = new AbortController();
    const { signal } = controller;
    await failure(client.readResource({ uri: 'test://none' }, { signal }));
    await server().behave({ post: { onlyMethod: CALL, times: 1, status: 503 } });
    const calls = [failure(say(client, 'echo', { text: 'in backoff' }, { signal, safe: true }))];
    await waitFor(() => client.metrics().retries === 1);
    await server().behave(hanging);
    await failure(say(client, 'echo', { text: 'late' }, { signal, timeout: 50 }));
    for (let i = 0; i < 10; i++) calls.push(failure(say(client, 'echo', { text: `in flight or in the queue ${i}` }, { signal })));
    await waitFor(() => client.metrics().queueLength === 8);
    expect(listeners(signal)).toBe(1);
    controller.abort();
    for (const error of await Promise.all(calls)) expect(error).toBe(signal.reason);
    expect(listeners(signal)).toBe(0);
    expect(client.metrics()).toMatchObject({ inFlight: 0, queueLength: 0, calls: { pending: 0 } });
  });

  it.each([
    { what: 'an error', reason: new Error('of the user') },
    { what: 'a text', reason: 'a text' },
    { what: 'an object', reason: { why: 'no patience' } },
    { what: 'null', reason: null },
    { what: 'what cannot be made a text', reason: Object.create(null) as unknown },
    { what: 'a symbol', reason: Symbol('why') },
  ])('fails the call with its own reason, as it is: $what', async ({ reason }) => {
    const client = await connected(server().url, { listen: false });
    await server().behave(hanging);
    const controller = new AbortController();
    const call = client.callTool({ name: 'echo', arguments: { text: 'x' } }, undefined, { signal: controller.signal });
    await arrived(server(), CALL);
    controller.abort(reason);
    const caught = await call.then(
      () => 'answered',
      (error: unknown) => ({ error }),
    );
    expect(caught).toEqual({ error: reason });
    expect((caught as { error: unknown }).error).toBe(reason);
    expect(client.history().at(-1)).toMatchObject({ outcome: 'unknown', attempts: 1 });
    await arrived(server(), CANCELLED);
  });

  it('sends nothing where it has aborted before', async () => {
    const client = await connected(server().url, { listen: false });
    const reason = new Error('before');
    expect(await failure(say(client, 'echo', { text: 'x' }, { signal: AbortSignal.abort(reason) }))).toBe(reason);
    expect(await failure(client.listTools(undefined, { signal: AbortSignal.abort(reason) }))).toBe(reason);
    await client.ping();
    expect(await countOf(server(), CALL)).toBe(0);
    expect(await countOf(server(), 'tools/list')).toBe(0);
  });
});
