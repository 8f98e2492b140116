import { createServer } from 'node:http';
import { json } from 'node:stream/consumers';
import type { RequestOptions } from '@modelcontextprotocol/sdk/shared/protocol.js';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished, test } from 'vitest';
import { OutcomeUnknownError, SessionTransport, UnreachableError } from '../../src/index.ts';
import type { WireEntry } from '../support/contract.ts';
import { listen } from '../support/ports.ts';
import { fixtureStdio, type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { type Bare, bare } from './bare.ts';
import { failure, heardFrom, runsOf, started, wellBehaved, wireOf } from './clients.ts';

/** Several requests in one POST, as protocol version 2025-03-26 has it (and no other). */

const protocolVersion = '2025-03-26';

interface Call {
  readonly name: string;
  readonly args: Record<string, unknown>;
  readonly options?: RequestOptions;
}

/** Makes calls that go out together. */
function together({ transport, call }: Bare, calls: readonly Call[], anyVersion?: boolean): Promise<string>[] {
  const parcel = transport.parcel(calls.length, anyVersion);
  const answers = calls.map(({ name, args, options }) => parcel.gather(() => call(name, args, options)));
  for (const answer of answers) answer.catch(() => {});
  return answers;
}

const echo = (text: string): Call => ({ name: 'echo', args: { text } });
const work = (nonce: string, ms: number, options?: RequestOptions): Call => ({ name: 'work', args: { nonce, ms }, ...(options ? { options } : {}) });
const echoes = (count: number, prefix = 'echo') => Array.from({ length: count }, (_, i) => `${prefix} ${i}`);

/** How the calls of tools came: how many in each POST. */
const posts = async (server: { requests(): Promise<WireEntry[]> }) => (await wireOf(server, 'tools/call')).map(({ rpc }) => rpc.length);
const ids = async (server: { requests(): Promise<WireEntry[]> }) => (await wireOf(server, 'tools/call')).flatMap(({ rpc }) => rpc.map(({ id }) => id));

describe.each([
  { mode: 'sse', eventStore: false },
  { mode: 'sse', eventStore: true },
  { mode: 'json', eventStore: false },
  { mode: 'json', eventStore: true },
] as const)('on the SDK server ($mode, event store: $eventStore)', ({ mode, eventStore }) => {
  let server: FixtureProcess;
  beforeAll(async () => void (server = await startServer({ mode, eventStore, protocolVersion })));
  afterAll(() => server.stop());
  beforeEach(async () => {
    await server.behave(wellBehaved);
    await server.clearRequests();
  });

  it('a hundred requests are one POST, and each gets its own answer', async () => {
    const one = await bare(server.url);
    expect(one.transport.takesArrays()).toBe(true);
    const texts = echoes(100);
    expect(await Promise.all(together(one, texts.map(echo)))).toEqual(texts);
    expect(await posts(server)).toEqual([100]);
    expect(new Set(await ids(server)).size).toBe(100);
    expect(await wireOf(server, 'initialize')).toMatchObject([{ rpc: [{}] }]);
  });

  it('more than a hundred are as many POSTs as servers take', async () => {
    const texts = echoes(150);
    expect(await Promise.all(together(await bare(server.url), texts.map(echo)))).toEqual(texts);
    expect(await posts(server)).toEqual([100, 50]);
  });

  it('one that is alone is no array, one that did not come is not waited for, and what nobody wants is not sent', async () => {
    const { transport, call } = await bare(server.url);
    const gone = transport.parcel(2);
    gone.gather(() => 'nothing sent');
    gone.skip();
    const parcel = transport.parcel(4);
    parcel.skip();
    parcel.gather(() => {});
    expect(() => parcel.gather(() => { throw new Error('mine'); })).toThrow('mine');
    const [first, second] = parcel.gather(() => [call('echo', { text: 'first' }), call('echo', { text: 'second' })]);
    expect(await Promise.all([first, second])).toEqual(['first', 'second']);
    const calls = await wireOf(server, 'tools/call');
    expect(calls.map(({ rpc, array }) => [rpc.length, array])).toEqual([[1, undefined], [1, undefined]]);
    const late = parcel.gather(() => call('echo', { text: 'late' }));
    expect(await late).toBe('late');
  });

  it('one that fails, one that cannot be sent and one that was aborted before leave the others alone', async () => {
    const one = await bare(server.url);
    const aborted = AbortSignal.abort(new Error('before'));
    const [good, bad, unwritable, never, last] = together(one, [
      echo('good'),
      { name: 'sum', args: { a: 'no number' } },
      { name: 'echo', args: { text: 1n } },
      { ...echo('never'), options: { signal: aborted } },
      echo('last'),
    ]);
    expect(await Promise.all([good, last])).toEqual(['good', 'last']);
    expect(await bad).toMatch(/invalid/i);
    await expect(unwritable).rejects.toThrow(TypeError);
    await expect(never).rejects.toThrow(/before/);
  });

  it('one that is cancelled while the others are gathered does not go out', async () => {
    const { transport, call } = await bare(server.url);
    const abort = new AbortController();
    const parcel = transport.parcel(3);
    const [first, second] = [parcel.gather(() => call('echo', { text: 'first' })), parcel.gather(() => call('work', { nonce: 'not gone' }, { signal: abort.signal }))];
    second.catch(() => {});
    expect(transport.cancelling(() => abort.abort())).toBe('not-sent');
    const third = parcel.gather(() => call('echo', { text: 'third' }));
    expect(await Promise.all([first, third])).toEqual(['first', 'third']);
    expect(await posts(server)).toEqual([2]);
    expect(await runsOf(server, 'not gone')).toEqual([]);
    expect(await wireOf(server, 'notifications/cancelled')).toEqual([]);
  });

  it('one that is cancelled in mid-flight leaves the others alone, and is cancelled at the server', async () => {
    const one = await bare(server.url);
    const abort = new AbortController();
    const nonce = `mid-flight ${mode} ${String(eventStore)}`;
    const [slow, doomed] = together(one, [work(`${nonce} slow`, 500), work(nonce, mode === 'json' ? 250 : 60_000, { signal: abort.signal })]);
    await started(server, nonce);
    expect(one.transport.cancelling(() => abort.abort())).toBe('sent');
    await expect(doomed).rejects.toThrow();
    expect(await slow).toBe(`done:${nonce} slow`);
    await waitFor(async () => (await wireOf(server, 'notifications/cancelled')).length === 1);
    // In JSON mode the SDK's server holds the whole array back for ever when one of its requests is cancelled: it is told afterwards.
    await waitFor(async () => (await runsOf(server, nonce))[0]?.[mode === 'json' ? 'finished' : 'aborted']);
    // Nothing of the parcel stays open, whatever the server would do with its stream.
    await waitFor(async () => (await wireOf(server, 'tools/call')).every(({ endedBy }) => endedBy));
  });

  it('when all are cancelled, all are cancelled at the server, and the connection is closed', async () => {
    const one = await bare(server.url);
    const abort = new AbortController();
    const nonces = ['a', 'b', 'c'].map((each) => `all ${each} ${mode} ${String(eventStore)}`);
    const calls = together(one, nonces.map((nonce) => work(nonce, 60_000, { signal: abort.signal })));
    for (const nonce of nonces) await started(server, nonce);
    abort.abort();
    await Promise.allSettled(calls);
    for (const nonce of nonces) await waitFor(async () => (await runsOf(server, nonce))[0]?.aborted);
    await waitFor(async () => (await wireOf(server, 'tools/call')).every(({ endedBy }) => endedBy === 'client'));
  });

  it('G6 where the session is forgotten, one handshake is made and all are answered', async () => {
    const one = await bare(server.url, { listen: false });
    const heard = heardFrom(one.transport);
    await server.forget();
    await server.clearRequests();
    const texts = echoes(20);
    expect(await Promise.all(together(one, texts.map(echo)))).toEqual(texts);
    expect(await wireOf(server, 'initialize')).toHaveLength(1);
    expect(heard.reset).toHaveLength(1);
    expect(await posts(server)).toEqual([20, ...texts.map(() => 1)]);
    expect(new Set(await ids(server)).size).toBe(40);
  });

  it('those for a session that was replaced meanwhile go out separately', async () => {
    const { client, transport, call } = await bare(server.url, { listen: false });
    const parcel = transport.parcel(3);
    const first = parcel.gather(() => call('echo', { text: 'first' }));
    // Its place is on the old session.
    await Promise.resolve();
    await server.forget();
    await client.ping();
    await server.clearRequests();
    const rest = [parcel.gather(() => call('echo', { text: 'second' })), parcel.gather(() => call('echo', { text: 'third' }))];
    expect(await Promise.all([first, ...rest])).toEqual(['first', 'second', 'third']);
    expect((await posts(server)).sort()).toEqual([1, 1, 2]);
    expect(await wireOf(server, 'initialize')).toHaveLength(0);
  });

  it.each([
    { what: '400 with -32600', fault: { post: { status: 400, times: 1, onlyMethod: 'tools/call', contentType: 'application/json', body: '{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no batches"}}' } } },
    { what: '422', fault: { post: { status: 422, times: 1, onlyMethod: 'tools/call' } } },
    { what: '200 with -32600', fault: { reply: { times: 1, onlyMethod: 'tools/call', contentType: 'application/json', body: '{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no batches"}}' } } },
    { what: '200 and an event of -32600', fault: { reply: { times: 1, onlyMethod: 'tools/call', contentType: 'text/event-stream', body: 'id: 1\ndata: {"jsonrpc":"2.0","error":{"code":-32600,"message":"no batches"}}\n\n' } } },
    { what: '400 with an error for one of them', fault: { reply: { times: 1, onlyMethod: 'tools/call', status: 400, contentType: 'application/json', body: '{"jsonrpc":"2.0","id":{{id}},"error":{"code":-32602,"message":"this one"}}' } } },
  ])('a server that refuses arrays ($what) gets each alone, and none again', async ({ fault }) => {
    const one = await bare(server.url);
    await server.behave(fault);
    const texts = echoes(5);
    expect(await Promise.all(together(one, texts.map(echo)))).toEqual(texts);
    expect(await posts(server)).toEqual([5, 1, 1, 1, 1, 1]);
    expect(one.transport.takesArrays()).toBe(false);
    expect(await Promise.all(together(one, texts.map(echo)))).toEqual(texts);
    expect((await posts(server)).slice(6)).toEqual([1, 1, 1, 1, 1]);
    expect((await bare(server.url)).transport.takesArrays()).toBe(true);
  });

  it.each([
    { times: 1, expected: [8, 4, 4] },
    { times: 2, expected: [8, 4, 4, 2, 2] },
  ])('a server to which an array is too large ($times times 413) gets halves', async ({ times, expected }) => {
    const one = await bare(server.url);
    await server.behave({ post: { status: 413, times, onlyMethod: 'tools/call' } });
    const texts = echoes(8);
    expect(await Promise.all(together(one, texts.map(echo)))).toEqual(texts);
    expect((await posts(server)).sort().reverse()).toEqual(expected);
    expect(one.transport.takesArrays()).toBe(true);
  });

  it.each([
    { status: 401, error: { code: 'REFUSED', status: 401 } },
    { status: 403, error: { code: 'REFUSED', status: 403 } },
    { status: 429, error: { code: 'RATE_LIMITED', outcome: 'refused' } },
    { status: 500, error: { code: 'OUTCOME_UNKNOWN' } },
    { status: 202, error: { code: 'OUTCOME_UNKNOWN' } },
  ])('$status is for each what it is for one', async ({ status, error }) => {
    const one = await bare(server.url);
    await server.behave({ post: { status, times: 1, onlyMethod: 'tools/call' } });
    for (const call of together(one, echoes(3).map(echo))) expect(await failure(call)).toMatchObject(error);
    expect(await posts(server)).toEqual([3]);
    expect(one.transport.takesArrays()).toBe(true);
  });

  it('a client that is closed fails what is gathered as not sent, and what was sent as unknown', async () => {
    const { client, transport, call } = await bare(server.url);
    const nonce = `closing ${mode} ${String(eventStore)}`;
    const sent = together({ client, transport, call }, [work(nonce, 60_000), work(`${nonce} too`, 60_000)]);
    await started(server, nonce);
    const waiting = transport.parcel(2).gather(() => call('echo', { text: 'waiting' }));
    waiting.catch(() => {});
    await client.close();
    expect(await failure(waiting)).toMatchObject({ code: 'CLOSED', outcome: 'not-sent' });
    for (const each of sent) expect(await failure(each)).toMatchObject({ code: 'CLOSED', outcome: 'unknown' });
  });

  it('G2 where the connection is cut, it is resumed if there is an event id, and otherwise the truth is told at once', async () => {
    const one = await bare(server.url, { listen: false });
    const nonces = ['a', 'b', 'c'].map((each) => `cut ${each} ${mode} ${String(eventStore)}`);
    const [quick, ...slow] = together(one, [echo('quick'), ...nonces.map((nonce) => work(nonce, 800))]);
    for (const nonce of nonces) await started(server, nonce);
    if (mode === 'sse') expect(await quick).toBe('quick');
    const cutAt = performance.now();
    await server.cut();
    if (mode === 'sse' && eventStore) {
      expect(await Promise.all(slow)).toEqual(nonces.map((nonce) => `done:${nonce}`));
      expect((await server.requests()).some(({ lastEventId }) => lastEventId !== undefined)).toBe(true);
    } else {
      for (const each of mode === 'sse' ? slow : [quick, ...slow]) expect(await failure(each as Promise<string>)).toBeInstanceOf(OutcomeUnknownError);
      expect(performance.now() - cutAt).toBeLessThan(100);
    }
    for (const nonce of nonces) expect(await runsOf(server, nonce)).toHaveLength(1);
    expect(await posts(server)).toEqual([4]);
  });
});

describe('an array', () => {
  it('is resumed again and again, for as long as one of its calls is waited for, and gives progress and tokens to each', async () => {
    await using server = await startServer({ eventStore: true, protocolVersion });
    const one = await bare(server.url, { listen: false });
    const steps: Record<string, number> = {};
    const tokens: Record<string, string[]> = { short: [], long: [] };
    const job = (nonce: string, ms: number): Call => ({
      name: 'work',
      args: { nonce, ms, steps: 10 },
      options: { onprogress: ({ progress }) => void (steps[nonce] = progress), onresumptiontoken: (token) => void tokens[nonce]?.push(token) },
    });
    const calls = together(one, [job('short', 500), job('long', 2000)]);
    for (const after of [1, 3]) {
      await waitFor(() => (steps['long'] ?? 0) >= after);
      await server.cut();
    }
    expect(await Promise.all(calls)).toEqual(['done:short', 'done:long']);
    expect(steps).toEqual({ short: 10, long: 10 });
    for (const nonce of ['short', 'long']) {
      expect(await runsOf(server, nonce)).toHaveLength(1);
      // Each token is its own call's, and leads to its answer.
      const resumptionToken = tokens[nonce]?.at(-1);
      expect(await one.call('work', { nonce }, { resumptionToken })).toBe(`done:${nonce}`);
    }
    expect(await posts(server)).toEqual([2]);
  });

  it('that never reached the server is not sent, for each', async () => {
    const server = await startServer({ protocolVersion });
    const one = await bare(server.url, { listen: false });
    await server.stop();
    for (const call of together(one, echoes(3).map(echo))) expect(await failure(call)).toBeInstanceOf(UnreachableError);
  });

  it('in which a call is cancelled on its way out takes that along, and says so; when all are cancelled it does not go out', async () => {
    await using server = await startServer({ protocolVersion });
    let asked = 0;
    let letGo = (): void => {};
    let gate = Promise.resolve();
    const headers = async () => {
      asked++;
      await gate;
      return {};
    };
    const one = await bare(server.url, { listen: false, headers });
    const hold = async (): Promise<void> => {
      const before = asked;
      gate = new Promise((open) => (letGo = open));
      await waitFor(() => asked > before);
    };
    const abort = new AbortController();
    const [doomed, other] = together(one, [work('in the bag', 60_000, { signal: abort.signal }), echo('other')]);
    await hold();
    expect(one.transport.cancelling(() => abort.abort())).toBe('sent');
    letGo();
    await expect(doomed).rejects.toThrow();
    expect(await other).toBe('other');
    await waitFor(async () => (await runsOf(server, 'in the bag'))[0]?.aborted);

    await server.clearRequests();
    const all = new AbortController();
    const calls = together(one, [work('never', 60_000, { signal: all.signal }), work('neither', 60_000, { signal: all.signal })]);
    await hold();
    all.abort();
    letGo();
    await Promise.allSettled(calls);
    expect(await one.call('echo', { text: 'on' })).toBe('on');
    expect((await server.requests()).flatMap(({ rpc }) => rpc.map(({ toolName, method }) => toolName ?? method))).toEqual(['echo']);
  });

  it('is answered in pieces, by items that are no messages too', async () => {
    const http = createServer(async (req, res) => {
      if (req.method !== 'POST') return void res.writeHead(405).end();
      const body = (await json(req)) as { id?: number; method: string } | { id: number }[];
      const type = { 'content-type': 'application/json', 'mcp-session-id': 'abc' };
      if (Array.isArray(body)) {
        const [first, second, third] = body.map(({ id }) => ({ jsonrpc: '2.0', id, result: { content: [{ type: 'text', text: 'ok' }] } }));
        const broken = { jsonrpc: '2.0', id: null, error: { code: -32600, message: 'Invalid Request' } };
        return void res.writeHead(200, type).end(JSON.stringify([first, 'what?', { ...second, result: 7 }, broken, third]));
      }
      if (body.id === undefined) return void res.writeHead(202).end();
      const result = { protocolVersion, capabilities: { tools: {} }, serverInfo: { name: 'raw', version: '1' } };
      res.writeHead(200, type).end(JSON.stringify({ jsonrpc: '2.0', id: body.id, result }));
    });
    const port = await listen(http);
    onTestFinished(() => void http.close().closeAllConnections());
    const one = await bare(`http://127.0.0.1:${port}/mcp`, { listen: false });
    const [first, second, third] = together(one, echoes(3).map(echo));
    expect(await Promise.all([first, third])).toEqual(['ok', 'ok']);
    expect(await failure(second as Promise<string>)).toBeInstanceOf(OutcomeUnknownError);
    expect(one.transport.takesArrays()).toBe(true);
  });
});

describe('arrays are not for', () => {
  test.each(['2025-06-18', '2025-11-25'])('protocol version %s', async (version) => {
    await using server = await startServer({ protocolVersion: version });
    const one = await bare(server.url);
    expect(one.transport.takesArrays()).toBe(false);
    expect(await Promise.all(together(one, ['a', 'b'].map(echo)))).toEqual(['a', 'b']);
    expect(await posts(server)).toEqual([1, 1]);
    // Unless the caller knows better.
    expect(await Promise.all(together(one, ['c', 'd'].map(echo), true))).toEqual(['c', 'd']);
    expect(await posts(server)).toEqual([1, 1, 2]);
    await server.behave({ post: { status: 400, times: 1, onlyMethod: 'tools/call' } });
    for (let i = 0; i < 2; i++) expect(await Promise.all(together(one, ['e', 'f'].map(echo), true))).toEqual(['e', 'f']);
    expect((await posts(server)).slice(3)).toEqual([2, 1, 1, 1, 1]);
  });

  test('pipes, nor a transport that is not connected', async () => {
    const one = await bare(fixtureStdio);
    expect(one.transport.takesArrays()).toBe(false);
    expect(await Promise.all(together(one, ['a', 'b'].map(echo), true))).toEqual(['a', 'b']);
    expect(new SessionTransport('http://127.0.0.1:1/mcp').takesArrays()).toBe(false);
  });
});
