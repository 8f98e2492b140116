import { CallToolResultSchema, McpError } from '@modelcontextprotocol/sdk/types.js';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { z } from 'zod';
import { type CallOptions, type ConnectOptions, DeadlineError, memoryStore, OutcomeUnknownError, type ResilientClient, type Store, StoreError, type Target } from '../../src/index.ts';
import { altered, connected, failure, heardFrom, runsOf, say, started, wireOf } from '../session/clients.ts';
import { wellBehaved } from '../support/contract.ts';
import { everythingStdio } from '../support/everything.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { entriesOf, entryOf, rewrite } from './entries.ts';

/** Item 7: what a durable call keeps, what it shares, and what becomes of it when something fails. (Killed programs: durable-killed.test.ts.) */

let server: FixtureProcess;
beforeAll(async () => void (server = await startServer({ eventStore: true })));
afterAll(() => server.stop());
beforeEach(async () => {
  await server.behave(wellBehaved);
  await server.clearRequests();
});

/** Makes the call of this name: the nonce of its work, and its `callId`. Returns the text of its answer. */
function work(client: ResilientClient, call: string, options: CallOptions = {}, more: Record<string, unknown> = {}): Promise<string> {
  return say(client, 'work', { nonce: call, ...more }, { callId: call, ...options });
}

/** A client whose requests are its calls: it listens to nothing. */
const quiet = (target: Target, options: ConnectOptions = {}) => connected(target, { listen: false, ...options });

const callsOf = async () => (await wireOf(server, 'tools/call')).length;
const ran = async (call: string) => (await runsOf(server, call)).length;

/** A store in which calls, and nothing else, are stored in another way. */
function withCalls(store: Store, methods: (key: string) => Partial<Store>): Store {
  const pick = (key: string): Store => (key.startsWith('call/') ? altered(store, methods(key)) : store);
  return altered(store, {
    get: (key) => pick(key).get(key),
    set: (key, value, expected) => pick(key).set(key, value, expected),
    delete: (key, expected) => pick(key).delete(key, expected),
  });
}

describe('G3 the answer of a durable call is kept', () => {
  it('and given to whoever makes the call again, without a request', async () => {
    const store = memoryStore();
    expect(await work(await quiet(server.url, { store }), 'kept')).toBe('done:kept');
    const next = await quiet(server.url, { store });
    await server.clearRequests();
    expect(await work(next, 'kept')).toBe('done:kept');
    expect(await server.requests()).toEqual([]);
    expect(await ran('kept')).toBe(1);
    expect(next.history().at(-1)).toMatchObject({ outcome: 'answered', attempts: 0 });
  });

  it('also an isError result', async () => {
    const client = await quiet(server.url, { store: memoryStore() });
    const call = () => client.callTool({ name: 'no-such-tool', arguments: {} }, undefined, { callId: 'error' });
    const first = await call();
    expect(first).toMatchObject({ isError: true });
    expect(await call()).toEqual(first);
    expect(await callsOf()).toBe(1);
  });

  it('also a JSON-RPC error, which comes as the SDK would give it', async () => {
    const client = await quiet(server.url, { store: memoryStore() });
    const body = '{"jsonrpc":"2.0","id":{{id}},"error":{"code":-32603,"message":"broken","data":{"part":7}}}';
    await server.behave({ reply: { onlyMethod: 'tools/call', times: 1, contentType: 'application/json', body } });
    const first = await failure(work(client, 'broken'));
    expect(first).toMatchObject({ code: -32603, data: { part: 7 } });
    const again = await failure(work(client, 'broken'));
    expect(again).toBeInstanceOf(McpError);
    expect({ ...again, message: again.message }).toEqual({ ...first, message: first.message });
    expect(await callsOf()).toBe(1);
  });

  it.each([-32700, -32600, -32601, -32602])('but not a refusal (%i), which says that it did not run: the call can be made again', async (code) => {
    const client = await quiet(server.url, { store: memoryStore() });
    const body = `{"jsonrpc":"2.0","id":{{id}},"error":{"code":${code},"message":"no"}}`;
    await server.behave({ reply: { onlyMethod: 'tools/call', times: 1, contentType: 'application/json', body } });
    const call = `refused${code}`;
    expect(await failure(work(client, call))).toMatchObject({ code });
    expect(await work(client, call)).toBe(`done:${call}`);
  });

  it('and is held against the output schema of its tool', async () => {
    const store = memoryStore();
    const client = await quiet(server.url, { store });
    await client.listTools();
    const sum = () => client.callTool({ name: 'sum', arguments: { a: 1, b: 2 } }, undefined, { callId: 'sum' });
    const first = await sum();
    expect(first).toMatchObject({ structuredContent: { total: 3 } });
    expect(await sum()).toEqual(first);
    await rewrite(store, 'sum', (text) => text.replace('{"total":3}', '{"total":"three"}'));
    expect((await failure(sum())).message).toMatch(/structured content does not match/i);
  });

  it('as the server gave it: a schema of the caller\'s own is applied once, and each time', async () => {
    const client = await quiet(server.url, { store: memoryStore() });
    const schema = CallToolResultSchema.extend({ content: z.array(z.object({ text: z.string() })).transform((content) => content.map(({ text }) => ({ said: text }))) });
    const request = { method: 'tools/call' as const, params: { name: 'work', arguments: { nonce: 'schema' } } };
    const call = () => (client.request as (...args: unknown[]) => Promise<unknown>)(request, schema, { callId: 'schema' });
    expect(await call()).toMatchObject({ content: [{ said: 'done:schema' }] });
    expect(await call()).toMatchObject({ content: [{ said: 'done:schema' }] });
  });

  it('for its ttl, and no longer', async () => {
    const store = memoryStore();
    const client = await quiet(server.url, { store, ttl: 60_000 });
    await work(client, 'ttl');
    const now = Date.now();
    const clock = vi.spyOn(Date, 'now');
    try {
      clock.mockReturnValue(now + 59_000);
      await work(client, 'ttl');
      expect(await ran('ttl')).toBe(1);
      clock.mockReturnValue(now + 61_000);
      await work(client, 'ttl');
      expect(await ran('ttl')).toBe(2);
    } finally {
      clock.mockRestore();
    }
  });

  it('for ever, where the ttl says so', async () => {
    const store = memoryStore();
    await work(await quiet(server.url, { store, ttl: Number.POSITIVE_INFINITY }), 'ever');
    expect(await entryOf(store, 'ever')).toMatchObject({ expiresAt: null });
  });

  it('G2 a call that runs longer than the ttl is not forgotten while it runs', async () => {
    const store = memoryStore();
    const options = { store, ttl: 200 };
    const call = work(await quiet(server.url, options), 'long', {}, { ms: 2500, steps: 1 });
    await started(server, 'long');
    const other = await quiet(server.url, options);
    await waitFor(async () => Date.now() - Number((await runsOf(server, 'long'))[0]?.startedAt) > 400);
    expect(await work(other, 'long', {}, { ms: 2500, steps: 1 })).toBe('done:long');
    expect(await call).toBe('done:long');
    expect(await ran('long')).toBe(1);
  });
});

describe('a callId', () => {
  it('is for one call: other parameters, or another tool, are a TypeError, and nothing is sent', async () => {
    const store = memoryStore();
    await work(await quiet(server.url, { store }), 'taken');
    const client = await quiet(server.url, { store });
    await server.clearRequests();
    for (const error of await Promise.all([failure(work(client, 'taken', {}, { ms: 1 })), failure(say(client, 'look', { nonce: 'taken' }, { callId: 'taken' }))])) {
      expect(error).toBeInstanceOf(TypeError);
      expect(error.message).toMatch(/"taken" was used for another call/);
    }
    expect(client.history().map(({ outcome }) => outcome)).toEqual(['not-sent', 'not-sent']);
    expect(await server.requests()).toEqual([]);
  });

  it('is for one call also while that is under way', async () => {
    const client = await quiet(server.url, { store: memoryStore() });
    const first = work(client, 'busy', {}, { ms: 300 });
    await started(server, 'busy');
    expect(await failure(work(client, 'busy', {}, { ms: 301 }))).toBeInstanceOf(TypeError);
    expect(await first).toBe('done:busy');
  });

  it('is for the same parameters, in whatever order they are written', async () => {
    const client = await quiet(server.url, { store: memoryStore() });
    await say(client, 'work', { nonce: 'order', ms: 1, steps: 1 }, { callId: 'order' });
    await say(client, 'work', { steps: 1, ms: 1, nonce: 'order' }, { callId: 'order' });
    expect(await ran('order')).toBe(1);
  });

  it('belongs to a principal and a session: another\'s is another call', async () => {
    const store = memoryStore();
    const whose: ConnectOptions[] = [{}, { principal: 'ada' }, { principal: 'alan' }, { session: 'second' }];
    for (const options of whose) await work(await quiet(server.url, { store, ...options }), 'whose');
    expect(await ran('whose')).toBe(4);
  });

  it('may be any text, and no two are the same', async () => {
    const client = await quiet(server.url, { store: memoryStore() });
    const ids = ['a/b', 'a%2Fb', 'A/B', '../a', '__proto__', ' ', 'é', 'e\u0301', '🗝', 'x'.repeat(1024)];
    const say1 = (callId: string, nonce: string) => say(client, 'work', { nonce }, { callId });
    expect(await Promise.all(ids.map((id, i) => say1(id, `id-${i}`)))).toEqual(ids.map((_, i) => `done:id-${i}`));
    await server.clearRequests();
    expect(await Promise.all(ids.map((id, i) => say1(id, `id-${i}`)))).toEqual(ids.map((_, i) => `done:id-${i}`));
    expect(await callsOf()).toBe(0);
  });

  it.each(['', 'x'.repeat(1025), '\ud800', 5, null, {}])('that makes no sense is a TypeError at once: %j', async (callId) => {
    const client = await quiet(server.url, { store: memoryStore() });
    await server.clearRequests();
    expect(await failure(work(client, 'odd', { callId } as CallOptions))).toBeInstanceOf(TypeError);
    expect(await server.requests()).toEqual([]);
  });

  const nobody = { tokens: () => undefined } as unknown as NonNullable<ConnectOptions['authProvider']>;
  const nowhere: { what: string; make(): Promise<ResilientClient> }[] = [
    { what: 'no store', make: () => quiet(server.url) },
    { what: 'an `authProvider` and no `principal`', make: () => quiet(server.url, { store: memoryStore(), authProvider: nobody }) },
    { what: 'a pipe for a server', make: () => quiet(everythingStdio, { store: memoryStore() }) },
  ];

  it.each(nowhere)('needs somewhere to be kept: with $what it is a TypeError at once', async ({ make }) => {
    const client = await make();
    const error = await failure(work(client, 'nowhere'));
    expect(error).toBeInstanceOf(TypeError);
    expect(error.message).toMatch(/store/);
    expect(await callsOf()).toBe(0);
  });
});

describe('G3 a durable call that is made while it is under way', () => {
  it('in the same client is one call, and one caller who leaves spares the other', async () => {
    const client = await quiet(server.url, { store: memoryStore() });
    const giveUp = new AbortController();
    const both = [work(client, 'same', {}, { ms: 300 }), failure(work(client, 'same', { signal: giveUp.signal }, { ms: 300 }))] as const;
    await started(server, 'same');
    giveUp.abort(new Error('enough'));
    expect((await both[1]).message).toBe('enough');
    expect(await both[0]).toBe('done:same');
    expect(await runsOf(server, 'same')).toMatchObject([{ finished: true }]);
    expect(await callsOf()).toBe(1);
  });

  it('in another client waits for the answer, and leaves the stream to the first', async () => {
    const store = memoryStore();
    const first = work(await quiet(server.url, { store }), 'other', {}, { ms: 1500, steps: 10 });
    await started(server, 'other');
    const second = await quiet(server.url, { store });
    expect(await work(second, 'other', {}, { ms: 1500, steps: 10 })).toBe('done:other');
    expect(await first).toBe('done:other');
    expect(await ran('other')).toBe(1);
    expect((await server.requests()).filter(({ lastEventId }) => lastEventId !== undefined)).toEqual([]);
  });

  it('in another client in the very same moment is one call: both find nothing, and one of them may write', async () => {
    const plain = memoryStore();
    let looks = 0;
    let go = (): void => {};
    const bothHaveLooked = new Promise<void>((resolve) => (go = resolve));
    const get = async (key: string) => {
      const found = await plain.get(key);
      if (++looks === 2) go();
      await bothHaveLooked;
      return found;
    };
    const store = withCalls(plain, () => ({ get }));
    const clients = [await quiet(server.url, { store }), await quiet(server.url, { store })];
    expect(await Promise.all(clients.map((client) => work(client, 'twins')))).toEqual(['done:twins', 'done:twins']);
    expect([await ran('twins'), await callsOf()]).toEqual([1, 1]);
  });

  it('in another client that has no time left fails there, and goes on with the first', async () => {
    const store = memoryStore();
    const first = work(await quiet(server.url, { store }), 'patient', {}, { ms: 1000 });
    await started(server, 'patient');
    const error = await failure(work(await quiet(server.url, { store }), 'patient', { timeout: 200 }, { ms: 1000 }));
    expect(error).toBeInstanceOf(DeadlineError);
    expect(error).toMatchObject({ outcome: 'unknown' });
    expect(error.cause).toBeUndefined();
    expect(error.message).toMatch(/may still be running: call it again with the same `callId` to get its answer\.$/);
    expect(await first).toBe('done:patient');
    expect(await runsOf(server, 'patient')).toMatchObject([{ finished: true }]);
  });

  it('in another client makes the call where the first could not', async () => {
    await using own = await startServer({ eventStore: true });
    const store = memoryStore();
    const [one, other] = [await quiet(own.url, { store }), await quiet(own.url, { store })];
    await own.kill();
    const first = failure(work(one, 'heir', { timeout: 600 }));
    await waitFor(() => entryOf(store, 'heir'));
    const second = work(other, 'heir');
    expect(await first).toMatchObject({ code: 'DEADLINE', outcome: 'not-sent' });
    await own.restart();
    expect(await second).toBe('done:heir');
    expect(await runsOf(own, 'heir')).toHaveLength(1);
  });
});

it('G3 a durable call that a lost session refused is replayed on the next one, and can be taken up there', async () => {
  await using own = await startServer({ eventStore: true });
  const store = memoryStore();
  const client = await quiet(own.url, { store });
  await own.restart();
  const call = failure(work(client, 'replayed', {}, { ms: 500, steps: 5 }));
  await waitFor(async () => (await entryOf(store, 'replayed'))?.['token']);
  await client.close();
  await call;
  expect(await work(await quiet(own.url, { store }), 'replayed', {}, { ms: 500, steps: 5 })).toBe('done:replayed');
  expect(await runsOf(own, 'replayed')).toMatchObject([{ finished: true }]);
});

describe('a durable call that is left', () => {
  it('G3 by its deadline goes on at the server, and a repetition gets its answer', async () => {
    const client = await quiet(server.url, { store: memoryStore() });
    const error = await failure(work(client, 'late', { timeout: 150 }, { ms: 600, steps: 1 }));
    expect(error).toMatchObject({ code: 'DEADLINE', outcome: 'unknown' });
    expect(error.message).toMatch(/may still be running: call it again with the same `callId`/);
    expect(await work(client, 'late', {}, { ms: 600, steps: 1 })).toBe('done:late');
    expect(await runsOf(server, 'late')).toMatchObject([{ finished: true }]);
    expect(await wireOf(server, 'notifications/cancelled')).toEqual([]);
  });

  it('G3 by close() goes on at the server, and the next client takes it up at once', async () => {
    const store = memoryStore();
    const first = await quiet(server.url, { store });
    const call = failure(work(first, 'closed', {}, { ms: 500, steps: 5 }));
    await waitFor(async () => (await entryOf(store, 'closed'))?.['token']);
    await first.close();
    expect(await call).toMatchObject({ code: 'CLOSED', outcome: 'unknown' });
    // Nobody waits for it any more: the next one need not find that out.
    expect(await entryOf(store, 'closed')).toMatchObject({ seenAt: 0 });
    expect(await work(await quiet(server.url, { store }), 'closed', {}, { ms: 500, steps: 5 })).toBe('done:closed');
    expect(await runsOf(server, 'closed')).toMatchObject([{ finished: true }]);
  });

  it('by its caller\'s signal is cancelled at the server, and a repetition says so', async () => {
    const store = memoryStore();
    const client = await quiet(server.url, { store });
    const giveUp = new AbortController();
    const call = failure(work(client, 'aborted', { signal: giveUp.signal }, { ms: 60_000 }));
    await started(server, 'aborted');
    giveUp.abort(new Error('enough'));
    expect((await call).message).toBe('enough');
    await waitFor(async () => (await runsOf(server, 'aborted'))[0]?.aborted);
    await waitFor(async () => (await entryOf(store, 'aborted'))?.['cancelled']);
    const error = await failure(work(client, 'aborted', {}, { ms: 60_000 }));
    expect(error).toBeInstanceOf(OutcomeUnknownError);
    expect(error.message).toMatch(/was made before.*cancelled/);
    expect(await ran('aborted')).toBe(1);
  });

  it('G1 and was cancelled is made again, where it is safe', async () => {
    const client = await quiet(server.url, { store: memoryStore() });
    const giveUp = new AbortController();
    const call = failure(work(client, 'anew', { signal: giveUp.signal, safe: true }, { ms: 500 }));
    await started(server, 'anew');
    giveUp.abort();
    await call;
    expect(await work(client, 'anew', { safe: true }, { ms: 500 })).toBe('done:anew');
    expect(await ran('anew')).toBe(2);
  });

  it('G9 by close() leaves no write behind', async () => {
    let open = 0;
    let last = '';
    const inner = memoryStore();
    const store = withCalls(inner, () => ({
      set: async (key, value, expected) => {
        open++;
        await new Promise((resolve) => setTimeout(resolve, 30));
        last = value;
        open--;
        return inner.set(key, value, expected);
      },
    }));
    const client = await quiet(server.url, { store });
    const call = failure(work(client, 'tidy', {}, { ms: 60_000, steps: 600 }));
    await started(server, 'tidy');
    await client.close();
    expect(open).toBe(0);
    expect(JSON.parse(last)).toMatchObject({ seenAt: 0 });
    await call;
  });
});

describe('a durable call that was not sent leaves no trace, so that its id can be used', () => {
  it('because the server was down until the deadline', async () => {
    await using own = await startServer({ eventStore: true });
    const store = memoryStore();
    const client = await quiet(own.url, { store });
    await own.kill();
    expect(await failure(work(client, 'down', { timeout: 400 }))).toMatchObject({ code: 'DEADLINE', outcome: 'not-sent' });
    await waitFor(async () => Object.keys(await entriesOf(store)).length === 0);
    await own.restart();
    expect(await work(client, 'down')).toBe('done:down');
  });

  it('because its session was lost, and no new one came until the deadline', async () => {
    await using own = await startServer({ eventStore: true });
    const store = memoryStore();
    const client = await quiet(own.url, { store });
    await own.restart();
    await own.behave({ hang: { onlyMethod: 'initialize', times: 1 } });
    expect(await failure(work(client, 'lost', { timeout: 400 }))).toMatchObject({ code: 'DEADLINE', outcome: 'not-sent' });
    await waitFor(async () => Object.keys(await entriesOf(store)).length === 0, { timeout: 1000 });
  });

  it('because the server has too many requests', async () => {
    const store = memoryStore();
    const client = await quiet(server.url, { store, retry: false });
    await server.behave({ post: { onlyMethod: 'tools/call', times: 1, status: 429 } });
    expect(await failure(work(client, 'busy'))).toMatchObject({ code: 'RATE_LIMITED' });
    expect(await entriesOf(store)).toEqual({});
    expect(await work(client, 'busy')).toBe('done:busy');
  });

  it('because the client was closed while it was noted', async () => {
    const inner = memoryStore();
    const store = withCalls(inner, () => ({
      get: async (key) => {
        await new Promise((resolve) => setTimeout(resolve, 50));
        return inner.get(key);
      },
    }));
    const client = await quiet(server.url, { store });
    const call = failure(work(client, 'hasty'));
    await client.close();
    expect(await call).toMatchObject({ code: 'CLOSED', outcome: 'not-sent' });
    expect(await entriesOf(inner)).toEqual({});
    expect(await ran('hasty')).toBe(0);
  });

  it('because its caller gave it up while it was noted', async () => {
    const store = memoryStore();
    const client = await quiet(server.url, { store });
    const giveUp = new AbortController();
    const call = failure(work(client, 'fickle', { signal: giveUp.signal }));
    giveUp.abort(new Error('enough'));
    expect((await call).message).toBe('enough');
    expect(await work(client, 'fickle')).toBe('done:fickle');
    expect(await ran('fickle')).toBe(1);
  });

  it('because what makes the headers failed', async () => {
    const store = memoryStore();
    let broken = false;
    const headers = () => {
      if (broken) throw new Error('no token today');
      return {};
    };
    const client = await quiet(server.url, { store, headers });
    broken = true;
    expect((await failure(work(client, 'headless'))).message).toBe('no token today');
    expect(await entriesOf(store)).toEqual({});
    broken = false;
    expect(await work(client, 'headless')).toBe('done:headless');
  });
});

describe('a store that fails', () => {
  const full = () => Promise.reject(new Error('disk full'));

  it.each([
    { what: 'reads nothing', methods: { get: full } },
    { what: 'writes nothing', methods: { set: full } },
    { what: 'fails by something that is no error', methods: { set: () => Promise.reject('disk full') } },
  ])('G2 and $what: what cannot be noted is not sent', async ({ methods }) => {
    const client = await quiet(server.url, { store: withCalls(memoryStore(), () => methods) });
    const error = await failure(work(client, 'unnoted'));
    expect(error).toBeInstanceOf(StoreError);
    expect(error).toMatchObject({ code: 'STORE', outcome: 'not-sent' });
    expect(error.message).toMatch(/disk full.*was not sent/);
    expect(await callsOf()).toBe(0);
  });

  it('G2 by hanging: the call is not sent, and not after its deadline either', async () => {
    const client = await quiet(server.url, { store: withCalls(memoryStore(), () => ({ get: () => new Promise<never>(() => {}) })) });
    const [hung, late] = await Promise.all([failure(work(client, 'hung')), failure(work(client, 'late store', { timeout: 200 }))]);
    expect(hung).toMatchObject({ code: 'STORE', outcome: 'not-sent' });
    expect(late).toMatchObject({ code: 'DEADLINE', outcome: 'not-sent' });
    // The outcome is that of this time.
    for (const { message } of [hung, late]) expect(message).toContain('Whether it was sent before under this `callId`, only the store can tell.');
    expect(await callsOf()).toBe(0);
  });

  it('G8 after the call was sent: the answer comes, and one warning', async () => {
    const inner = memoryStore();
    let broken = false;
    const store = withCalls(inner, () => ({ set: (key, value, expected) => (broken ? full() : inner.set(key, value, expected)) }));
    const client = await quiet(server.url, { store });
    const heard = heardFrom(client);
    const call = work(client, 'sent', {}, { ms: 1500, steps: 3 });
    await waitFor(() => entryOf(inner, 'sent'));
    broken = true;
    expect(await call).toBe('done:sent');
    expect(heard.warning).toHaveLength(1);
    expect(heard.warning[0]).toBeInstanceOf(StoreError);
    expect(heard.warning[0]?.message).toMatch(/disk full.*may not be found again/);
  });

  it('while an answer is waited for: the error says that the call was sent', async () => {
    const inner = memoryStore();
    const first = work(await quiet(server.url, { store: inner }), 'followed', {}, { ms: 800 });
    await started(server, 'followed');
    let reads = 0;
    const store = withCalls(inner, () => ({ get: (key) => (reads++ === 0 ? inner.get(key) : full()) }));
    const error = await failure(work(await quiet(server.url, { store }), 'followed', {}, { ms: 800 }));
    expect(error).toBeInstanceOf(StoreError);
    expect(error).toMatchObject({ code: 'STORE', outcome: 'unknown' });
    expect(error.message).toMatch(/disk full.*same `callId`/);
    expect(await first).toBe('done:followed');
    expect(await ran('followed')).toBe(1);
  });
});

describe('an entry that cannot be read', () => {
  const texts = ['', 'oops', 'null', '[]', '{"v":2,"answer":{"result":{"content":[]}}}', '{"v":1}'];

  it.each(texts)('G2 may be of a call that ran: that is not made again (%j)', async (text) => {
    const store = memoryStore();
    const client = await quiet(server.url, { store });
    await work(client, 'corrupt');
    await rewrite(store, 'corrupt', () => text);
    await server.clearRequests();
    const error = await failure(work(client, 'corrupt'));
    expect(error).toBeInstanceOf(OutcomeUnknownError);
    expect(error.message).toMatch(/cannot be read.*another `callId`/);
    expect(await server.requests()).toEqual([]);
  });

  it('G1 is replaced where the call is safe', async () => {
    const store = memoryStore();
    const client = await quiet(server.url, { store });
    await work(client, 'mended', { safe: true });
    await rewrite(store, 'mended', () => 'oops');
    for (let i = 0; i < 2; i++) expect(await work(client, 'mended', { safe: true })).toBe('done:mended');
    expect(await ran('mended')).toBe(2);
  });

  it('or whose token is none of ours: the answer cannot be taken up', async () => {
    const store = memoryStore();
    const first = await quiet(server.url, { store });
    const call = failure(work(first, 'token', {}, { ms: 60_000 }));
    await waitFor(async () => (await entryOf(store, 'token'))?.['token']);
    await first.close();
    await call;
    await rewrite(store, 'token', (text) => text.replace('mcp-reprise:1:', 'mcp-reprise:2:'));
    const error = await failure(work(await quiet(server.url, { store }), 'token', {}, { ms: 60_000 }));
    expect(error).toBeInstanceOf(OutcomeUnknownError);
    expect(await ran('token')).toBe(1);
  });
});
