import { beforeEach, describe, expect, it } from 'vitest';
import { OutcomeUnknownError, RateLimitedError, type ResilientClient } from '../../src/index.ts';
import type { CallOptions } from '../../src/client.ts';
import { connected, failure, heardFrom, runsOf, say, started, timed, wireOf } from '../session/clients.ts';
import type { Behaviour } from '../support/contract.ts';
import { startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { arrived, countOf, sharedServer } from './servers.ts';

/** Item 2 (G1, G2, G5): what is sent again, when, how often, and what is never. Counted at the server. */

const CALL = 'tools/call';
const once = { onlyMethod: CALL, times: 1 };
const always = { onlyMethod: CALL, times: 1e9 };
/** So short that only what a server asks for takes time. */
const quick = { retry: { minTimeout: 1, maxTimeout: 1 } };

describe('a server that has too many requests (429)', () => {
  const server = sharedServer();
  const limited = (times: number, retryAfter?: string): Partial<Behaviour> => ({
    post: { onlyMethod: CALL, times, status: 429, ...(retryAfter === undefined ? {} : { headers: { 'retry-after': retryAfter } }) },
  });

  it.each([
    { form: 'seconds', header: () => '1', least: 1000 },
    { form: 'a date', header: () => new Date(Date.now() + 2000).toUTCString(), least: 1000 },
  ])('G5 is left alone for as long as it asks, in $form, and then answers; the call ran once', async ({ form, header, least }) => {
    const client = await connected(server().url, { listen: false, ...quick });
    const heard = heardFrom(client);
    await server().behave(limited(1, header()));
    expect(await say(client, 'work', { nonce: form })).toBe(`done:${form}`);
    const [first, second, ...more] = await wireOf(server(), CALL);
    expect(more).toEqual([]);
    // The server's clock counts whole ms.
    expect((second?.at ?? 0) - (first?.at ?? 0)).toBeGreaterThanOrEqual(least - 2);
    expect(heard.retry).toEqual([{ call: expect.any(Number), method: CALL, attempt: 1, delay: expect.any(Number), reason: expect.stringContaining('429') }]);
    expect(heard.retry[0]?.delay).toBeGreaterThanOrEqual(least - 2);
    expect(await runsOf(server(), form)).toHaveLength(1);
  });

  it.each([
    { form: 'seconds', header: '60', asked: 60_000 },
    { form: 'a date', header: new Date(Date.now() + 3_600_000).toUTCString(), asked: 3_600_000 },
  ])('G5 fails the call at once where it asks for more time than that has, in $form, and says so', async ({ header, asked }) => {
    const client = await connected(server().url, { listen: false });
    await server().behave(limited(1, header));
    const call = failure(say(client, 'echo', { text: 'x' }, { timeout: 10_000 }));
    expect(await timed(call)).toBeLessThan(2000);
    const error = await call;
    expect(error).toBeInstanceOf(RateLimitedError);
    expect(error).toMatchObject({ code: 'RATE_LIMITED', outcome: 'refused' });
    expect(Math.abs((error['retryAfter'] as number) - asked)).toBeLessThan(60_000);
    expect(error.message).toMatch(/asks to wait \d+ ms.* only \d+ ms left/);
    expect(await countOf(server(), CALL)).toBe(1);
  });

  it('is asked again with backoff where it does not say when', async () => {
    const client = await connected(server().url, { listen: false, ...quick });
    await server().behave(limited(3));
    expect(await say(client, 'work', { nonce: 'unsaid' })).toBe('done:unsaid');
    expect(await countOf(server(), CALL)).toBe(4);
    expect(await runsOf(server(), 'unsaid')).toHaveLength(1);
  });

  it('holds up no other call', async () => {
    const client = await connected(server().url, { listen: false, concurrency: 1 });
    await server().behave(limited(1, '5'));
    const controller = new AbortController();
    const waiting = failure(say(client, 'echo', { text: 'put off' }, { signal: controller.signal }));
    await arrived(server(), CALL);
    expect(await say(client, 'echo', { text: 'other' }, { timeout: 4000 })).toBe('other');
    controller.abort();
    await waiting;
  });
});

describe('a call of which nobody knows whether it ran', () => {
  const server = sharedServer();
  const faults: { what: string; fault: Partial<Behaviour> }[] = [
    { what: 'a stream that ends empty', fault: { endEmpty: once } },
    ...[408, 500, 502, 503, 504].map((status) => ({ what: `a ${status}`, fault: { post: { ...once, status } } })),
    { what: 'a 202', fault: { post: { ...once, status: 202 } } },
    { what: 'an answer that is no JSON', fault: { reply: { ...once, contentType: 'application/json', body: '{"jsonrpc"' } } },
  ];

  it.each(faults)('G1 is sent again under a new id where it is safe: $what', async ({ what, fault }) => {
    const client = await connected(server().url, { listen: false, ...quick });
    const heard = heardFrom(client);
    await server().behave(fault);
    expect(await say(client, 'work', { nonce: what }, { safe: true })).toBe(`done:${what}`);
    const ids = (await wireOf(server(), CALL)).map(({ rpc }) => rpc[0]?.id);
    expect(new Set(ids).size).toBe(2);
    expect(heard.retry).toMatchObject([{ attempt: 1 }]);
  });

  it.each(faults)('G2 is sent once where it is not: $what', async ({ what, fault }) => {
    const client = await connected(server().url, { listen: false, ...quick });
    const heard = heardFrom(client);
    await server().behave(fault);
    const error = await failure(say(client, 'work', { nonce: `unsafe ${what}` }));
    expect(error).toBeInstanceOf(OutcomeUnknownError);
    expect(error.message).toMatch(/may or may not have run.*safe/);
    await client.ping();
    expect(await countOf(server(), CALL)).toBe(1);
    expect(heard.retry).toEqual([]);
  });

  it.each([true, false])('G1 G2 is cut: safe %s', async (safe) => {
    const client = await connected(server().url, { listen: false, ...quick });
    const nonce = `cut ${safe}`;
    const call = say(client, 'work', { nonce, ms: 200 }, { safe }).catch((error: unknown) => error);
    await started(server(), nonce);
    await server().cut();
    if (safe) expect(await call).toBe(`done:${nonce}`);
    else expect(await call).toBeInstanceOf(OutcomeUnknownError);
    expect(await countOf(server(), CALL)).toBe(safe ? 2 : 1);
  });

  it('G1 is tried until its deadline, which then says what the last attempt failed of', async () => {
    const client = await connected(server().url, { listen: false, retry: { minTimeout: 20, maxTimeout: 40 } });
    await server().behave({ post: { ...always, status: 503 } });
    const error = await failure(say(client, 'look', { nonce: 'late' }, { safe: true, timeout: 300 }));
    // On a busy machine the last answer may come when the time is over, but the timer has not said so yet: then that is the error.
    expect(error).toMatchObject({ code: expect.stringMatching(/^(DEADLINE|OUTCOME_UNKNOWN)$/), outcome: 'unknown' });
    expect(error.message).toMatch(/503/);
    expect(await countOf(server(), CALL)).toBeGreaterThan(2);
  });

  it('is not sent again while its connection stands, however long that is silent', async () => {
    const client = await connected(server().url, { listen: false, ...quick });
    await server().behave({ hang: always });
    expect(await failure(say(client, 'look', { nonce: 'hung' }, { safe: true, timeout: 300 }))).toMatchObject({ code: 'DEADLINE', outcome: 'unknown' });
    expect(await countOf(server(), CALL)).toBe(1);
  });

  it('G5 is left alone for as long as a server that is away (503) asks', async () => {
    const client = await connected(server().url, { listen: false, ...quick });
    await server().behave({ post: { ...once, status: 503, headers: { 'retry-after': '1' } } });
    expect(await say(client, 'look', { nonce: '503' }, { safe: true })).toBe('done:503');
    const [first, second] = await wireOf(server(), CALL);
    expect((second?.at ?? 0) - (first?.at ?? 0)).toBeGreaterThanOrEqual(998);
  });

  it('G5 fails at once where a server that is away (503) asks for more time than there is', async () => {
    const client = await connected(server().url, { listen: false, ...quick });
    await server().behave({ post: { ...always, status: 503, headers: { 'retry-after': '60' } } });
    const error = await failure(say(client, 'look', { nonce: '503 late' }, { safe: true, timeout: 2000 }));
    expect(error).toBeInstanceOf(OutcomeUnknownError);
    expect(error.message).toMatch(/asks to wait 60000 ms/);
    expect(await countOf(server(), CALL)).toBe(1);
  });
});

describe('an answer', () => {
  const server = sharedServer();
  const error = (code: number, status = 200) => ({ reply: { ...always, status, contentType: 'application/json', body: `{"jsonrpc":"2.0","id":{{id}},"error":{"code":${code},"message":"no"}}` } });

  it.each([-32603, -32601, -32602, -32001, 7])('is handed over and not asked for again, though it is the error %i and the call is safe', async (code) => {
    const client = await connected(server().url, { listen: false, ...quick });
    await server().behave(error(code));
    expect(await failure(say(client, 'echo', { text: 'x' }, { safe: true }))).toMatchObject({ name: 'McpError', code });
    expect(await countOf(server(), CALL)).toBe(1);
  });

  it('is handed over, though it says isError and the call is safe', async () => {
    const client = await connected(server().url, { listen: false, ...quick });
    expect(await client.callTool({ name: 'echo', arguments: { text: 1 } }, undefined, { safe: true })).toMatchObject({ isError: true });
    expect(await countOf(server(), CALL)).toBe(1);
  });

  it('is a refusal, and not asked for again, where it is a 4xx', async () => {
    const client = await connected(server().url, { listen: false, ...quick });
    await server().behave({ post: { ...always, status: 403, body: 'not you' } });
    expect(await failure(say(client, 'echo', { text: 'x' }, { safe: true }))).toMatchObject({ code: 'REFUSED', status: 403, outcome: 'refused' });
    expect(await countOf(server(), CALL)).toBe(1);
  });
});

describe('how often a call is sent again', () => {
  const server = sharedServer();
  beforeEach(() => server().behave({ post: { ...always, status: 503 } }));

  const attempts = async (client: ResilientClient, options: CallOptions = {}): Promise<number> => {
    await server().clearRequests();
    expect(await failure(say(client, 'echo', { text: 'x' }, { safe: true, ...options }))).toBeInstanceOf(OutcomeUnknownError);
    return countOf(server(), CALL);
  };

  it('says the client, and each call for itself', async () => {
    const client = await connected(server().url, { listen: false, retry: { retries: 2, minTimeout: 1, maxTimeout: 1 } });
    expect(await attempts(client)).toBe(3);
    expect(await attempts(client, { retry: { retries: 1 } })).toBe(2);
    expect(await attempts(client, { retry: { retries: 0 } })).toBe(1);
    expect(await attempts(client, { retry: false })).toBe(1);
    // What a call does not say is as its client says.
    expect(await attempts(client, { retry: { factor: 1 } })).toBe(3);
  });

  it('a call may be sent again though its client sends nothing again', async () => {
    const client = await connected(server().url, { listen: false, retry: false });
    expect(await attempts(client)).toBe(1);
    expect(await attempts(client, { retry: { retries: 2, minTimeout: 1 } })).toBe(3);
  });

  it('is told by an event for each time, with what belongs together under one number', async () => {
    const client = await connected(server().url, { listen: false, retry: { retries: 2, minTimeout: 40, maxTimeout: 60 } });
    const heard = heardFrom(client);
    await client.ping();
    expect(await attempts(client)).toBe(3);
    expect(heard.retry.map(({ method, attempt }) => ({ method, attempt }))).toEqual([1, 2].map((attempt) => ({ method: CALL, attempt })));
    for (const { delay, reason } of heard.retry) {
      expect(delay).toBeLessThanOrEqual(60);
      expect(reason).toContain('503');
    }
    const record = client.history().find(({ method }) => method === CALL);
    expect(new Set(heard.retry.map(({ call }) => call))).toEqual(new Set([record?.call]));
    expect(record?.attempts).toBe(3);
    expect(client.metrics().retries).toBe(2);
  });
});

describe('many calls in an outage', () => {
  const sick = sharedServer();

  it('G1 G2 of a server that is gone are each answered once when it is back, by hardly more requests than calls', async () => {
    const MANY = 400;
    await using server = await startServer();
    const client = await connected(server.url, { concurrency: 16, listen: false });
    await server.kill();
    const retried = new Promise((resolve) => void client.events.once('retry', resolve));
    const nonces = Array.from({ length: MANY }, (_, i) => `outage-${i}`);
    const calls = Promise.all(nonces.map((nonce, i) => (i % 2 ? say(client, 'work', { nonce }) : say(client, 'look', { nonce }, { safe: true }))));
    await retried;
    await waitFor(() => client.metrics().queueLength === 0, { what: 'every call to have met the outage' });
    await server.restart();
    expect(await calls).toEqual(nonces.map((nonce) => `done:${nonce}`));
    expect((await server.executions()).map(({ nonce }) => nonce).sort()).toEqual([...nonces].sort());
    expect(await countOf(server, 'initialize')).toBe(1);
    expect((await server.requests()).length).toBeLessThanOrEqual(MANY * 1.1);
    expect(client.metrics().calls).toMatchObject({ answered: MANY, pending: 0 });
  });

  it.each([
    { what: 'is sick (503)', status: 503, error: OutcomeUnknownError },
    { what: 'puts everything off (429)', status: 429, error: RateLimitedError },
  ])('of a server that $what add a tenth to what it gets, and the bucket; then it is left alone and the calls say why', async ({ status, error }) => {
    const MANY = 300;
    const tokens = 20;
    const client = await connected(sick().url, { listen: false, retry: { minTimeout: 1, maxTimeout: 5, budget: { tokens } } });
    await sick().behave({ post: { ...always, status } });
    const failures = await Promise.all(Array.from({ length: MANY }, (_, i) => failure(say(client, 'echo', { text: `${i}` }, { safe: true }))));
    for (const each of failures) {
      expect(each).toBeInstanceOf(error);
      expect(each.message).toMatch(/retry budget is empty/);
    }
    const requests = await countOf(sick(), CALL);
    expect(requests).toBeGreaterThan(MANY);
    expect(requests).toBeLessThanOrEqual(MANY * 1.1 + tokens);
    await sick().behave({ post: null });
    expect(await say(client, 'echo', { text: 'well again' })).toBe('well again');
  });

  it('are sent again as often as there is time, where the budget is off', async () => {
    const client = await connected(sick().url, { listen: false, retry: { minTimeout: 1, maxTimeout: 2, budget: false } });
    await sick().behave({ post: { onlyMethod: CALL, times: 150, status: 503 } });
    const texts = Array.from({ length: 20 }, (_, i) => `${i}`);
    expect(await Promise.all(texts.map((text) => say(client, 'echo', { text }, { safe: true })))).toEqual(texts);
    expect(await countOf(sick(), CALL)).toBe(170);
  });
});
