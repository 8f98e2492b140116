import { getEventListeners } from 'node:events';
import { ListToolsResultSchema } from '@modelcontextprotocol/sdk/types.js';
import { describe, expect, it, test } from 'vitest';
import { z } from 'zod';
import { type BatchOptions, type BatchRequest, type ConnectOptions, memoryStore } from '../../src/index.ts';
import { connected, failure, heardFrom, runsOf, started, wireOf } from '../session/clients.ts';
import { fixtureStdio, type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { batchOf, CALL, echo, numbered, tool, type ToolCall, work } from './batches.ts';
import { countOf, sharedServer } from './servers.ts';

/** Item 4: many requests under one deadline and one limit, settled like `Promise.allSettled`, in arrays where the protocol has them. */

const FOREVER = 60_000;

/** How the calls of tools came to the server: how many in each request, in an array or not. */
const posts = async (server: FixtureProcess) => (await wireOf(server, CALL)).map(({ rpc, array }) => (array ? rpc.length : 'single'));

describe.each([
  { how: 'in arrays (event streams)', arrays: true, options: { protocolVersion: '2025-03-26', mode: 'sse' } },
  { how: 'in arrays (JSON)', arrays: true, options: { protocolVersion: '2025-03-26', mode: 'json' } },
  { how: 'side by side', arrays: false, options: {} },
] as const)('a batch $how', ({ how, arrays, options }) => {
  const server = sharedServer(options);
  const connect = (more: ConnectOptions = {}) => connected(server().url, { listen: false, ...more });
  /** A name of its own for a run of a tool. */
  const named = (what: string) => `${what}, ${how}`;

  it(`goes out ${arrays ? 'as arrays of at most a hundred' : 'as one request for each'}, and gives the answers in order`, async () => {
    const client = await connect();
    const texts = numbered(250, 'text');
    expect(await batchOf(client, texts.map((text) => echo(text)))).toEqual(texts);
    expect(await posts(server())).toEqual(arrays ? [100, 100, 50] : texts.map(() => 'single'));
    const ids = (await wireOf(server(), CALL)).flatMap(({ rpc }) => rpc.map(({ id }) => id));
    expect(new Set(ids).size).toBe(250);
    expect(await countOf(server(), 'initialize')).toBe(1);
    expect(client.metrics()).toMatchObject({ inFlight: 0, queueLength: 0 });
  });

  it('goes the other way when that is asked for', async () => {
    const client = await connect();
    const other = arrays ? 'single' : 'array';
    expect(await batchOf(client, ['a', 'b', 'c'].map((text) => echo(text)), { wire: other })).toEqual(['a', 'b', 'c']);
    expect(await posts(server())).toEqual(arrays ? ['single', 'single', 'single'] : [3]);
  });

  it('takes requests of every kind, one that is there twice, and one alone', async () => {
    const client = await connect();
    const twice = echo('twice');
    const results = await client.batch([
      { method: 'tools/list' },
      twice,
      { method: 'resources/read', params: { uri: 'test://one' } },
      { method: 'ping' },
      { method: 'logging/setLevel', params: { level: 'error' } },
      { method: 'prompts/get', params: { name: 'greet', arguments: { name: 'Ada' } } },
      { method: 'completion/complete', params: { ref: { type: 'ref/prompt', name: 'greet' }, argument: { name: 'name', value: 'A' } } },
      { method: 'prompts/list' },
      { method: 'resources/list' },
      { method: 'resources/templates/list' },
      { method: 'resources/subscribe', params: { uri: 'test://one' } },
      { method: 'resources/unsubscribe', params: { uri: 'test://one' } },
      { method: 'tools/list', schema: ListToolsResultSchema.transform(({ tools }) => tools.length) },
      twice,
    ]);
    expect(results.filter(({ status }) => status === 'rejected')).toEqual([]);
    const [tools, once, read, , , prompt, completion] = results.map((result) => (result.status === 'fulfilled' ? result.value : undefined));
    expect(tools).toMatchObject({ tools: expect.arrayContaining([expect.objectContaining({ name: 'echo' })]) });
    expect([once, results.at(-1)]).toMatchObject([{ content: [{ text: 'twice' }] }, { value: { content: [{ text: 'twice' }] } }]);
    expect(read).toMatchObject({ contents: [{ text: 'one' }] });
    expect(prompt).toMatchObject({ messages: [{ content: { text: 'Hello, Ada!' } }] });
    expect(completion).toMatchObject({ completion: { values: ['Ada', 'Alan'] } });
    expect(results.at(-2)).toMatchObject({ value: expect.any(Number) });

    expect(await batchOf(client, [echo('alone')])).toEqual(['alone']);
    expect((await posts(server())).at(-1)).toBe('single');
  });

  it('leaves the others alone when one fails, however it fails', async () => {
    const client = await connect();
    const reason = new Error('mine');
    const abort = new AbortController();
    void started(server(), named('aborted')).then(() => abort.abort(reason));
    const late = named('too late');
    const results = await client.batch([
      echo('first'),
      tool('sum', { a: 'no number' }),
      tool('no such tool', {}),
      { method: 'resources/read', params: { uri: 'no://such/resource' } },
      { method: 'no/such/method', schema: z.object({}) },
      { method: 'tools/list', schema: z.object({ tools: z.string() }) },
      work(named('aborted'), 1000, { signal: abort.signal }),
      work(named('aborted before'), 0, { signal: AbortSignal.abort(reason) }),
      work(late, 1000, { timeout: 300 }),
      work(named('bad timeout'), 0, { timeout: -1 }),
      work(named('no store'), 0, { callId: 'x' }),
      { method: 'logging/setLevel' } as unknown as BatchRequest,
      echo('last'),
    ]);
    const outcome = (result: PromiseSettledResult<unknown>) => (result.status === 'rejected' ? result.reason : result.value);
    expect(results.map(outcome)).toEqual([
      expect.objectContaining({ content: [{ type: 'text', text: 'first' }] }),
      expect.objectContaining({ isError: true }),
      expect.objectContaining({ isError: true }),
      expect.objectContaining({ name: 'McpError', code: -32602 }),
      expect.objectContaining({ name: 'McpError', code: -32601 }),
      expect.objectContaining({ issues: expect.any(Array) }),
      reason,
      reason,
      expect.objectContaining({ code: 'DEADLINE', outcome: 'unknown', timeout: 300 }),
      expect.any(RangeError),
      expect.any(TypeError),
      expect.any(TypeError),
      expect.objectContaining({ content: [{ type: 'text', text: 'last' }] }),
    ]);
    expect((await server().executions()).map(({ nonce }) => nonce).filter((nonce) => nonce.endsWith(how)).sort()).toEqual([named('aborted'), late].sort());
    const sizes = (await server().requests()).map(({ rpc }) => rpc.length);
    expect(Math.max(...sizes)).toBe(arrays ? 9 : 1);
    expect(await batchOf(client, [echo('a'), tool('echo', { text: 1n }), echo('b')])).toEqual(['a', expect.any(TypeError), 'b']);
    expect(client.metrics()).toMatchObject({ inFlight: 0, queueLength: 0 });
  });

  it('G4 when its time is over, what is in flight may have run, what waits for its turn was not sent, and both say so', async () => {
    const client = await connect();
    const start = performance.now();
    const results = await batchOf(client, numbered(4, named('late')).map((nonce) => work(nonce, FOREVER)), { timeout: 400, concurrency: 2 });
    const took = performance.now() - start;
    const deadline = (outcome: string) => expect.objectContaining({ code: 'DEADLINE', outcome });
    expect(results).toEqual([deadline('unknown'), deadline('unknown'), deadline('not-sent'), deadline('not-sent')]);
    expect(results.map(String)).toEqual([
      ...Array(2).fill(expect.stringMatching(/^DeadlineError: tools\/call "work" was not answered within .* It was sent and may or may not have run; the server is told/)),
      ...Array(2).fill('DeadlineError: tools/call "work" was not answered within the 400 ms of its batch. It was not sent: it waited for its turn.'),
    ]);
    expect(took).toBeGreaterThanOrEqual(399);
    expect(took).toBeLessThan(400 + 250);
    for (const [i, nonce] of numbered(4, named('late')).entries()) expect(await runsOf(server(), nonce)).toHaveLength(i < 2 ? 1 : 0);
    expect(await batchOf(client, [echo('on')])).toEqual(['on']);
  });

  it('is given up as a whole by its signal, each with its reason', async () => {
    const client = await connect();
    const abort = new AbortController();
    const own = new AbortController();
    const reason = new Error('enough');
    const nonces = numbered(4, named('given up'));
    const batch = batchOf(client, [echo('done'), ...nonces.map((nonce) => work(nonce, FOREVER, { signal: own.signal }))], { signal: abort.signal, concurrency: 3 });
    await started(server(), nonces[1] as string);
    // A JSON array is answered as a whole.
    const echoed = options.mode !== 'json';
    if (echoed) await waitFor(() => client.metrics().calls.answered === 1);
    abort.abort(reason);
    const [first, ...rest] = await batch;
    expect(first).toBe(echoed ? 'done' : reason);
    expect(rest).toEqual([reason, reason, reason, reason]);
    await waitFor(async () => (await runsOf(server(), nonces[0] as string))[0]?.aborted);
    expect(await runsOf(server(), nonces[3] as string)).toEqual([]);

    await server().clearRequests();
    expect(await batchOf(client, nonces.map((nonce) => work(nonce, 0)), { signal: AbortSignal.abort(reason), concurrency: 2 })).toEqual([reason, reason, reason, reason]);
    expect(await server().requests()).toEqual([]);
  });

  it('G9 leaves nothing behind: no listener on a signal, and no turn', async () => {
    const client = await connect();
    const shared = new AbortController();
    const own = new AbortController();
    const listeners = () => [shared, own].map(({ signal }) => getEventListeners(signal, 'abort').length);
    const nonces = numbered(30, named('nothing left'));
    const batch = client.batch([...nonces.map((nonce) => work(nonce, 20, { signal: own.signal })), { method: 'ping', options: { signal: 'none' as unknown as AbortSignal } }], {
      signal: shared.signal,
      concurrency: 10,
    });
    await started(server(), nonces[0] as string);
    expect(listeners()).toEqual([1, 1]);
    expect((await batch).filter(({ status }) => status === 'rejected')).toHaveLength(1);
    expect(listeners()).toEqual([0, 0]);
    expect(client.metrics()).toMatchObject({ inFlight: 0, queueLength: 0 });
  });

  it('G1 G2 sends again what is safe when the connection breaks, each in its own turn, and fails the others', async () => {
    // An array that kept its only turn until all is settled would wait for itself.
    const client = await connect({ retry: { minTimeout: 1, maxTimeout: 5 }, ...(arrays ? { concurrency: 1 } : {}) });
    const nonces = numbered(4, named('cut'));
    const batch = batchOf(client, nonces.map((nonce, i) => work(nonce, 600, { safe: i % 2 === 0 })), { timeout: 10_000 });
    for (const nonce of nonces) await started(server(), nonce);
    await server().cut();
    const unknown = expect.objectContaining({ code: 'OUTCOME_UNKNOWN', outcome: 'unknown' });
    expect(await batch).toEqual([`done:${nonces[0]}`, unknown, `done:${nonces[2]}`, unknown]);
    for (const [i, nonce] of nonces.entries()) expect(await runsOf(server(), nonce)).toHaveLength(i % 2 === 0 ? 2 : 1);
    expect(await posts(server())).toEqual([...(arrays ? [4] : nonces.map(() => 'single')), 'single', 'single']);
  });

  it('answers identical safe requests each', async () => {
    const client = await connect();
    const nonce = named('identical');
    const outside = client.callTool({ name: 'work', arguments: { nonce, ms: 100 } }, undefined, { safe: true });
    const same = Array.from({ length: 20 }, () => work(nonce, 100, { safe: true }));
    expect(await batchOf(client, same, { timeout: 10_000 })).toEqual(same.map(() => `done:${nonce}`));
    await outside;
    // In an array each has its own place; side by side they are one request, also with one that is no part of the batch.
    expect(await runsOf(server(), nonce)).toHaveLength(arrays ? 21 : 1);
  });

  it('makes a durable call in it durable, and lets nobody wait with that', async () => {
    const store = memoryStore();
    const client = await connect({ store });
    const [nonce, callId] = [named('durable'), named('id')];
    const requests = [echo('a'), work(nonce, 50, { callId }), echo('b'), work(nonce, 50, { callId })];
    const expected = ['a', `done:${nonce}`, 'b', `done:${nonce}`];
    expect(await batchOf(client, requests)).toEqual(expected);
    expect((await posts(server())).sort()).toEqual(arrays ? [2, 'single'] : ['single', 'single', 'single']);
    const next = await connect({ store });
    expect(await batchOf(next, requests)).toEqual(expected);
    expect(await runsOf(server(), nonce)).toHaveLength(1);
  });

  it('takes a list of tools from the session, and nobody waits for its place', async () => {
    const client = await connect();
    await client.listTools();
    const results = await client.batch([{ method: 'tools/list' }, echo('a'), { method: 'tools/list', options: { cache: false } }, echo('b')], { timeout: 10_000 });
    expect(results.map(({ status }) => status)).toEqual(Array(4).fill('fulfilled'));
    expect(await countOf(server(), 'tools/list')).toBe(2);
    expect(await posts(server())).toEqual(arrays ? [3] : ['single', 'single']);
  });

  it('gives progress to each, which extends its own time and not that of the batch', async () => {
    const client = await connect();
    const heard = [0, 0];
    const long = (i: number, timeout: number): ToolCall => ({
      method: CALL,
      params: { name: 'work', arguments: { nonce: `${named('progress')} ${i}`, ms: 600, steps: 12 } },
      options: { timeout, onprogress: () => void (heard[i] = (heard[i] ?? 0) + 1) },
    });
    const results = await batchOf(client, [long(0, options.mode === 'json' ? 5000 : 400), long(1, 5000)], { timeout: 5000 });
    expect(results).toEqual([0, 1].map((i) => `done:${named('progress')} ${i}`));
    expect(heard).toEqual(options.mode === 'json' ? [0, 0] : [12, 12]);
  });

  it('G6 is answered in full where the session is lost under it, after one handshake', async () => {
    const client = await connect();
    const { reset } = heardFrom(client);
    await server().forget();
    await server().clearRequests();
    const texts = numbered(50, 'lost');
    expect(await batchOf(client, texts.map((text) => echo(text)))).toEqual(texts);
    expect(await countOf(server(), 'initialize')).toBe(1);
    expect(reset).toHaveLength(1);
  });

  it('G4 settles when the client is closed, each with what became of it', async () => {
    const client = await connect();
    const nonces = numbered(4, named('closed'));
    const batch = batchOf(client, nonces.map((nonce) => work(nonce, FOREVER)), { concurrency: 2 });
    await started(server(), nonces[1] as string);
    await client.close();
    const closed = (outcome: string) => expect.objectContaining({ code: 'CLOSED', outcome });
    expect(await batch).toEqual([closed('unknown'), closed('unknown'), closed('not-sent'), closed('not-sent')]);
    expect(await runsOf(server(), nonces[2] as string)).toEqual([]);
    // The signal of a batch that is over must not keep what a next one needs.
    await client.connect();
    expect(await batchOf(client, [echo('again'), echo('and again')])).toEqual(['again', 'and again']);
  });

  it('G11 that holds nothing, or is asked of a client that is not connected, settles all the same', async () => {
    const client = await connect();
    await server().clearRequests();
    expect(await client.batch([])).toEqual([]);
    await client.close();
    const closed = expect.objectContaining({ code: 'CLOSED', outcome: 'not-sent' });
    expect(await batchOf(client, [echo('a'), { method: 'tools/list' }, echo('b', { signal: AbortSignal.timeout(5) })])).toEqual([closed, closed, closed]);
    expect(await countOf(server(), CALL)).toBe(0);
  });

  it('keeps to what it was given, whatever becomes of the list meanwhile', async () => {
    const client = await connect();
    const requests = ['a', 'b', 'c', 'd'].map((text) => echo(text));
    const batch = batchOf(client, requests, { concurrency: 1 });
    requests.length = 0;
    expect(await batch).toEqual(['a', 'b', 'c', 'd']);
  });

  it('goes to a server that is away for a moment once it is back', async () => {
    const client = await connect({ retry: { minTimeout: 5, maxTimeout: 20 } });
    await server().kill();
    const batch = batchOf(client, ['a', 'b', 'c'].map((text) => echo(text)));
    await new Promise((resolve) => client.events.once('retry', resolve));
    await server().restart();
    expect(await batch).toEqual(['a', 'b', 'c']);
    expect(await countOf(server(), 'initialize')).toBe(1);
  });
});

describe('an array', () => {
  const server = sharedServer({ protocolVersion: '2025-03-26' });
  const connect = (more: ConnectOptions = {}) => connected(server().url, { listen: false, ...more });

  it('is the first and only request of a program that takes a session up', async () => {
    const store = memoryStore();
    await (await connect({ store })).close();
    await server().clearRequests();
    expect(await batchOf(await connect({ store }), ['a', 'b', 'c'].map((text) => echo(text)))).toEqual(['a', 'b', 'c']);
    expect((await server().requests()).map(({ rpc }) => rpc.length)).toEqual([3]);
  });

  it('that the server refuses is answered one by one, and no further one is tried', async () => {
    const client = await connect();
    await server().behave({ post: { status: 400, times: 1, onlyMethod: CALL } });
    for (let i = 0; i < 2; i++) expect(await batchOf(client, ['a', 'b', 'c'].map((text) => echo(text)))).toEqual(['a', 'b', 'c']);
    expect(await posts(server())).toEqual([3, ...Array(6).fill('single')]);
  });

  it('is no larger than the batch\'s own limit of concurrency', async () => {
    const client = await connect();
    const texts = numbered(25, 'text');
    expect(await batchOf(client, texts.map((text) => echo(text)), { concurrency: 10 })).toEqual(texts);
    expect(await posts(server())).toEqual([10, 10, 5]);
    expect(await batchOf(client, ['a', 'b'].map((text) => echo(text)), { concurrency: 1 })).toEqual(['a', 'b']);
    expect((await posts(server())).slice(3)).toEqual(['single', 'single']);
  });

  it('has one turn, of the rate too, and where that comes too late each of its calls says so', async () => {
    const client = await connect({ rateLimit: { perSecond: 0.1, burst: 1 } });
    const texts = numbered(6, 'text');
    const limited = expect.objectContaining({ code: 'RATE_LIMITED', outcome: 'not-sent', retryAfter: expect.any(Number) });
    expect(await batchOf(client, texts.map((text) => echo(text)), { concurrency: 2, timeout: 1000 })).toEqual(['text 0', 'text 1', limited, limited, limited, limited]);
    expect(client.metrics()).toMatchObject({ inFlight: 0, queueLength: 0 });
    expect(await posts(server())).toEqual([2]);
  });

  it('that waits for a turn of the client\'s ends with the batch\'s time, and with its signal', async () => {
    const client = await connect({ concurrency: 1 });
    const nonce = 'has the turn';
    const holder = new AbortController();
    const held = client.callTool({ name: 'work', arguments: { nonce, ms: FOREVER } }, undefined, { signal: holder.signal });
    held.catch(() => {});
    await started(server(), nonce);
    const late = expect.objectContaining({ code: 'DEADLINE', outcome: 'not-sent', message: expect.stringContaining('It was not sent: it waited for its turn.') });
    expect(await batchOf(client, [echo('a'), echo('b')], { timeout: 100 })).toEqual([late, late]);
    const abort = new AbortController();
    const batch = batchOf(client, [echo('a'), echo('b')], { signal: abort.signal });
    await waitFor(() => client.metrics().queueLength === 1);
    const reason = new Error('enough');
    abort.abort(reason);
    expect(await batch).toEqual([reason, reason]);
    const last = batchOf(client, [echo('a'), echo('b')]);
    holder.abort();
    expect(await last).toEqual(['a', 'b']);
    expect(await posts(server())).toEqual(['single', 2]);
  });

  it('is not waited for by those that the circuit breaker stops', async () => {
    const client = await connect({ circuitBreaker: { failures: 1 }, retry: false });
    await server().kill();
    await failure(client.ping());
    const open = expect.objectContaining({ code: 'CIRCUIT_OPEN', outcome: 'not-sent' });
    expect(await batchOf(client, [echo('a'), echo('b')], { timeout: 5000 })).toEqual([open, open]);
    await server().restart();
  });

  it('is resumed as a whole where the server keeps events, and each of its calls runs once', async () => {
    await using keeping = await startServer({ protocolVersion: '2025-03-26', eventStore: true });
    const client = await connected(keeping.url, { listen: false });
    const nonces = numbered(3, 'resumed');
    const batch = batchOf(client, [echo('quick'), ...nonces.map((nonce) => work(nonce, 500))]);
    for (const nonce of nonces) await started(keeping, nonce);
    await keeping.cut();
    expect(await batch).toEqual(['quick', ...nonces.map((nonce) => `done:${nonce}`)]);
    for (const nonce of nonces) expect(await runsOf(keeping, nonce)).toHaveLength(1);
    expect(await posts(keeping)).toEqual([4]);
  });
});

test('a batch over a pipe is answered side by side, whatever wire is asked for', async () => {
  const client = await connected(fixtureStdio);
  for (const wire of ['array', 'single', undefined] as const) {
    expect(await batchOf(client, ['a', 'b', 'c'].map((text) => echo(text)), wire ? { wire } : {})).toEqual(['a', 'b', 'c']);
  }
});

describe('a batch that holds or is given nonsense', () => {
  const server = sharedServer();

  it.each([
    ['no array', () => ({ method: 'ping' }), {}, /takes an array/],
    ['a request without a method', () => [echo('x'), {}], {}, /request 1 .* has no method/],
    ['no request', () => [undefined], {}, /request 0 .* has no method/],
    ['the handshake', () => [{ method: 'initialize', params: {}, schema: z.object({}) }], {}, /initialize/],
    ['what is none of the SDK\'s, without a schema', () => [{ method: 'x/y' }], {}, /schema/],
    ['what only looks like one of the SDK\'s', () => [{ method: 'constructor' }], {}, /schema/],
    ['a misspelt option', () => [echo('x')], { tiemout: 1 }, /tiemout/],
    ['a time that is none', () => [echo('x')], { timeout: 0 }, /timeout/],
    ['no concurrency', () => [echo('x')], { concurrency: 0 }, /concurrency/],
    ['a signal that is none', () => [echo('x')], { signal: {} }, /signal/],
    ['a wire that is none', () => [echo('x')], { wire: 'pigeon' }, /wire/],
  ])('is refused at once, with nothing sent: %s', async (_what, requests, more, text) => {
    const client = await connected(server().url, { listen: false });
    await server().clearRequests();
    const error = await failure(client.batch(requests() as unknown as BatchRequest[], more as BatchOptions));
    expect(error instanceof TypeError || error instanceof RangeError).toBe(true);
    expect(error.message).toMatch(text);
    expect(await server().requests()).toEqual([]);
  });
});
