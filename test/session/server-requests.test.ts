import { connect, createServer } from 'node:net';
import { pipeline } from 'node:stream';
import { Client as ClientV2 } from '@modelcontextprotocol/client';
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js';
import { CreateMessageRequestSchema, ElicitRequestSchema, type JSONRPCMessage, ListRootsRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { type ConnectOptions, DeadlineError, memoryStore, type ResilientClient, SessionTransport } from '../../src/index.ts';
import type { ServerOptions } from '../support/contract.ts';
import { listen } from '../support/ports.ts';
import { startProxy } from '../support/proxy.ts';
import { startRecordingProxy } from '../support/recording-proxy.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { clientOf, connected, failure, heardFrom, runsOf, say, started, streamOpen, wellBehaved, wireOf } from './clients.ts';

/** Item 7 of what must hold: what goes between the two sides of a call. The server's questions, progress, and giving up. */

// ── What the server asks of its client ──────────────────────────────────────────────────────────────────────────────

const capabilities = { sampling: {}, elicitation: {}, roots: {} };

/** A client that answers whatever a server may ask, and notes what it was asked. */
function answering(url: URL, options: ConnectOptions = {}): { client: ResilientClient; asked: string[] } {
  const client = clientOf(url, { capabilities, ...options });
  const asked: string[] = [];
  client.setRequestHandler(CreateMessageRequestSchema, ({ params }) => {
    const content = params.messages[0]?.content as { text: string };
    asked.push(`sample ${content.text}`);
    if (content.text === 'unanswerable') throw new Error('No model at hand');
    return { model: 'none', role: 'assistant', content: { type: 'text', text: `sampled ${content.text}` } };
  });
  client.setRequestHandler(ElicitRequestSchema, ({ params }) => {
    asked.push(`elicit ${params.message}`);
    return { action: 'accept', content: { name: 'Ada' } };
  });
  client.setRequestHandler(ListRootsRequestSchema, () => {
    asked.push('roots');
    return { roots: [{ uri: 'file:///here' }] };
  });
  return { client, asked };
}

async function expectAnswers(client: ResilientClient, late: boolean): Promise<void> {
  expect(await say(client, 'sample', { prompt: 'why', late })).toBe('sampled why');
  expect(JSON.parse(await say(client, 'elicit', { message: 'who', late }))).toEqual({ action: 'accept', content: { name: 'Ada' } });
  expect(JSON.parse(await say(client, 'roots', { late }))).toEqual(['file:///here']);
}

const everything = ['sample why', 'elicit who', 'roots'];

/** Answers in JSON leave no room for a question within a call. */
const ways: { server: ServerOptions; late: boolean; options: ConnectOptions; way: string }[] = [
  { server: { mode: 'sse' }, late: false, options: { listen: false }, way: 'within a call' },
  { server: { mode: 'sse', eventStore: true }, late: false, options: { listen: false }, way: 'within a call, with an event store' },
  { server: { mode: 'sse' }, late: true, options: {}, way: 'over the GET stream' },
  { server: { mode: 'sse', eventStore: true }, late: true, options: {}, way: 'over the GET stream, with an event store' },
  { server: { mode: 'json' }, late: true, options: {}, way: 'over the GET stream, where answers are JSON' },
];

describe.each(ways)('sampling, elicitation and roots $way', ({ server: serverOptions, late, options }) => {
  let server: FixtureProcess;
  beforeAll(async () => void (server = await startServer(serverOptions)));
  afterAll(() => server.stop());
  beforeEach(() => server.clearRequests());

  test('work before and after a resume, and each question goes to the client that is there', async () => {
    const store = memoryStore();
    const first = answering(server.url, { store, ...options });
    await first.client.connect();
    if (late) await streamOpen(server);
    await expectAnswers(first.client, late);
    const { id } = first.client.session;
    await first.client.close();
    await server.clearRequests();

    const second = answering(server.url, { store, ...options });
    await second.client.connect();
    if (late) {
      // The first answer proves the session; then its stream is opened.
      await say(second.client, 'echo', { text: 'here again' });
      await streamOpen(server);
    }
    await expectAnswers(second.client, late);
    expect(second.client.session).toMatchObject({ id, resumed: true });
    expect(await wireOf(server, 'initialize')).toEqual([]);
    expect([first.asked, second.asked]).toEqual([everything, everything]);
  });

  test('work on the session that replaces a lost one', async () => {
    const { client, asked } = answering(server.url, options);
    await client.connect();
    const heard = heardFrom(client);
    await server.forget();
    await server.clearRequests();
    await say(client, 'echo', { text: 'anew' });
    if (late) await streamOpen(server);
    await expectAnswers(client, late);
    expect(heard.reset).toHaveLength(1);
    expect(asked).toEqual(everything);
  });

  test('that are asked at the same time each get their own answer', async () => {
    const { client } = answering(server.url, options);
    await client.connect();
    if (late) await streamOpen(server);
    const prompts = Array.from({ length: 10 }, (_, i) => `question ${i}`);
    expect(await Promise.all(prompts.map((prompt) => say(client, 'sample', { prompt, late })))).toEqual(prompts.map((prompt) => `sampled ${prompt}`));
  });

  test('tell the server when the handler fails, and the call and the session go on', async () => {
    const { client } = answering(server.url, options);
    await client.connect();
    if (late) await streamOpen(server);
    expect(await client.callTool({ name: 'sample', arguments: { prompt: 'unanswerable', late } })).toMatchObject({
      isError: true,
      content: [{ text: expect.stringContaining('No model at hand') }],
    });
    expect(await say(client, 'sample', { prompt: 'why', late })).toBe('sampled why');
  });
});

test('a question on a stream that was cut comes with the resumed one, is put once, and its call is answered', async () => {
  await using server = await startServer({ eventStore: true });
  await using proxy = await startRecordingProxy(server.url);
  const { client, asked } = answering(proxy.url, { listen: false });
  await client.connect();
  const cut = proxy.cutCall('sample');
  expect(await say(client, 'sample', { prompt: 'still there?' })).toBe('sampled still there?');
  await cut;
  expect(asked).toEqual(['sample still there?']);
  expect((await wireOf(server, 'GET')).filter(({ lastEventId }) => lastEventId !== undefined)).not.toEqual([]);
});

// ── Progress ────────────────────────────────────────────────────────────────────────────────────────────────────────

describe('progress', () => {
  let server: FixtureProcess;
  beforeAll(async () => void (server = await startServer({ eventStore: true })));
  afterAll(() => server.stop());
  beforeEach(() => server.clearRequests());

  /** Works, and tells what was heard of it before the answer. */
  async function progressOf(client: ResilientClient, tool: string, args: Record<string, unknown>): Promise<number[]> {
    const heard: number[] = [];
    expect(await say(client, tool, args, { onprogress: ({ progress }) => heard.push(progress) })).toBe(`done:${String(args['nonce'])}`);
    return heard;
  }

  test('reaches its caller before and after a resume', async () => {
    const store = memoryStore();
    const first = await connected(server.url, { store });
    expect(await progressOf(first, 'work', { nonce: 'first', ms: 30, steps: 3 })).toEqual([1, 2, 3]);
    const { id } = first.session;
    await first.close();
    const second = await connected(server.url, { store });
    expect(await progressOf(second, 'work', { nonce: 'second', ms: 30, steps: 3 })).toEqual([1, 2, 3]);
    expect(second.session).toMatchObject({ id, resumed: true });
  });

  test('reaches its own caller only, among calls at the same time on one session of two clients', async () => {
    const store = memoryStore();
    const one = await connected(server.url, { store });
    const two = await connected(server.url, { store });
    const jobs = Array.from({ length: 10 }, (_, i) => ({ client: i % 2 ? one : two, args: { nonce: `job ${i}`, ms: 30, steps: i + 1 } }));
    const heard = await Promise.all(jobs.map(({ client, args }) => progressOf(client, 'work', args)));
    expect(heard.map((steps) => steps.length)).toEqual(jobs.map(({ args }) => args.steps));
  });

  test('reaches its caller after a cut that was resumed', async () => {
    const client = await connected(server.url);
    expect(await progressOf(client, 'cutme', { nonce: 'cut', ms: 100 })).toEqual([0, 1]);
    expect((await wireOf(server, 'GET')).filter(({ lastEventId }) => lastEventId !== undefined)).not.toEqual([]);
    expect(await runsOf(server, 'cut')).toHaveLength(1);
  });

  test('that was missed during a cut comes with the resumed stream, in order and once', async () => {
    await using proxy = await startProxy(server.url);
    const client = await connected(proxy.url, { listen: false });
    const heard: number[] = [];
    const call = say(client, 'work', { nonce: 'missed', ms: 2000, steps: 20 }, { onprogress: ({ progress }) => heard.push(progress) });
    await waitFor(() => heard.length >= 3);
    proxy.cut();
    await waitFor(() => heard.length >= 10);
    proxy.cut();
    expect(await call).toBe('done:missed');
    expect(heard).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
  });

  test('extends timeout.call, and only of its own call', async () => {
    const client = await connected(server.url, { timeout: { call: 1500 } });
    const silent = failure(say(client, 'work', { nonce: 'silent', ms: 60_000 }));
    expect(await progressOf(client, 'work', { nonce: 'telling', ms: 3000, steps: 30 })).toHaveLength(30);
    const error = await silent;
    expect(error).toBeInstanceOf(DeadlineError);
    expect(error).toMatchObject({ timeout: 1500, message: expect.stringContaining('timeout.call') });
  });

  test('does not extend timeout.call where the caller says so', async () => {
    const client = await connected(server.url, { timeout: { call: 1000 } });
    const call = say(client, 'work', { nonce: 'strict', ms: 60_000, steps: 1200 }, { onprogress: () => {}, resetTimeoutOnProgress: false });
    expect(await failure(call)).toMatchObject({ code: 'DEADLINE', timeout: 1000 });
  });

  test('never extends timeout.total, and the call is cancelled on the server', async () => {
    const client = await connected(server.url, { timeout: { call: 1000, total: 1500 } });
    const heard: number[] = [];
    const error = await failure(say(client, 'work', { nonce: 'endless', ms: 60_000, steps: 1200 }, { onprogress: ({ progress }) => heard.push(progress) }));
    expect(error).toBeInstanceOf(DeadlineError);
    expect(error).toMatchObject({ outcome: 'unknown', timeout: 1500, message: expect.stringContaining('timeout.total') });
    await waitFor(async () => (await runsOf(server, 'endless'))[0]?.aborted);
    const before = heard.length;
    expect(before).toBeGreaterThan(0);
    await say(client, 'echo', { text: 'and after it' });
    expect(heard).toHaveLength(before);
  });
});

// ── Giving up ───────────────────────────────────────────────────────────────────────────────────────────────────────

interface Sent {
  method?: string;
  id?: number;
  params?: { name?: string; requestId?: number; arguments?: { nonce?: string } };
}

/** What is written to a server, as it is on the wire. */
interface Tap {
  readonly url: URL;
  sent(method: string): Sent[];
}

async function startTap(target: URL): Promise<Tap> {
  const connections: Buffer[][] = [];
  const listener = createServer((client) => {
    const written: Buffer[] = [];
    connections.push(written);
    client.on('data', (chunk: Buffer) => written.push(chunk));
    pipeline(client, connect(Number(target.port), target.hostname), client, () => {});
  });
  const port = await listen(listener);
  onTestFinished(() => void listener.close());
  return {
    url: Object.assign(new URL(target), { port: String(port) }),
    sent: (method) =>
      connections
        .flatMap((written) => Buffer.concat(written).toString().match(/\{.*\}/g) ?? [])
        .map((body) => JSON.parse(body) as Sent)
        .filter((message) => message.method === method),
  };
}

interface CallerOptions {
  timeout?: number;
  signal?: AbortSignal;
}

interface Caller {
  call(name: string, args: Record<string, unknown>, options?: CallerOptions): Promise<unknown>;
}

const callers: { who: string; attach: (url: URL) => Promise<Caller> }[] = [
  {
    who: 'a ResilientClient',
    attach: async (url) => {
      const client = await connected(url);
      return { call: (name, args, options) => client.callTool({ name, arguments: args }, undefined, options) };
    },
  },
  {
    who: 'the SDK\'s client v1 over a SessionTransport',
    attach: async (url) => {
      const client = new ClientV1({ name: 'bare', version: '1.0.0' });
      onTestFinished(() => client.close());
      await client.connect(new SessionTransport(url));
      return { call: (name, args, options) => client.callTool({ name, arguments: args }, undefined, options) };
    },
  },
  {
    who: 'the SDK\'s client v2 over a SessionTransport',
    attach: async (url) => {
      const client = new ClientV2({ name: 'bare', version: '2.0.0' });
      onTestFinished(() => client.close());
      await client.connect(new SessionTransport(url));
      return { call: (name, args, options) => client.callTool({ name, arguments: args }, options) };
    },
  },
];

const done = (nonce: string) => expect.objectContaining({ content: [{ type: 'text', text: `done:${nonce}` }] });
const echoed = (text: string) => expect.objectContaining({ content: [{ type: 'text', text }] });

/** The call went out once, was cancelled once by the id under which it went out, stopped, and its connection was closed by us. */
async function expectCancelled(server: FixtureProcess, tap: Tap, nonce: string): Promise<void> {
  await waitFor(async () => (await runsOf(server, nonce))[0]?.aborted, { what: `the end of ${nonce}` });
  const calls = tap.sent('tools/call').filter(({ params }) => params?.arguments?.nonce === nonce);
  expect(calls).toHaveLength(1);
  const id = calls[0]?.id;
  expect(id).toBeGreaterThan(0);
  expect(tap.sent('notifications/cancelled').filter(({ params }) => params?.requestId === id)).toHaveLength(1);
  const post = await waitFor(async () => (await server.requests()).find(({ rpc, endedBy }) => rpc[0]?.id === id && endedBy), { what: 'the end of the POST' });
  expect(post.endedBy).toBe('client');
}

describe.each([{ mode: 'sse' }, { mode: 'sse', eventStore: true }, { mode: 'json' }] as const)('a call that is given up (%o)', (serverOptions) => {
  let server: FixtureProcess;
  let tap: Tap;
  beforeAll(async () => void (server = await startServer(serverOptions)));
  afterAll(() => server.stop());
  beforeEach(async () => {
    await server.clearRequests();
    tap = await startTap(server.url);
  });

  describe.each(callers)('by $who', ({ who, attach }) => {
    const unique = (name: string) => `${name} of ${who}`;

    test('because its time is over, is cancelled on the server, its connection is closed, and the next call works', async () => {
      const caller = await attach(tap.url);
      const nonce = unique('timed out');
      await failure(caller.call('work', { nonce, ms: 60_000 }, { timeout: 700 }));
      await expectCancelled(server, tap, nonce);
      expect(tap.sent('notifications/cancelled')).toHaveLength(1);
      expect(await caller.call('echo', { text: 'next' })).toEqual(echoed('next'));
    });

    test('by its caller\'s signal, is cancelled on the server, its connection is closed, and the next call works', async () => {
      const caller = await attach(tap.url);
      const nonce = unique('aborted');
      const giveUp = new AbortController();
      const call = failure(caller.call('work', { nonce, ms: 60_000 }, { signal: giveUp.signal }));
      await started(server, nonce);
      giveUp.abort(new Error('No longer needed'));
      expect((await call).message).toContain('No longer needed');
      await expectCancelled(server, tap, nonce);
      expect(tap.sent('notifications/cancelled')).toHaveLength(1);
      expect(await caller.call('echo', { text: 'next' })).toEqual(echoed('next'));
    });

    test('leaves its neighbours alone; one signal for two calls gives both up', async () => {
      const caller = await attach(tap.url);
      const giveUp = new AbortController();
      const doomed = [unique('doomed'), unique('doomed too')];
      const others = Array.from({ length: 5 }, (_, i) => unique(`neighbour ${i}`));
      const failures = doomed.map((nonce) => failure(caller.call('work', { nonce, ms: 60_000 }, { signal: giveUp.signal })));
      const calls = Promise.all(others.map((nonce) => caller.call('work', { nonce, ms: 1000 }, { signal: new AbortController().signal })));
      await Promise.all([...doomed, ...others].map((nonce) => started(server, nonce)));
      giveUp.abort();
      await Promise.all(failures);
      expect(await calls).toEqual(others.map(done));
      for (const nonce of doomed) await expectCancelled(server, tap, nonce);
      for (const nonce of others) expect(await runsOf(server, nonce)).toMatchObject([{ finished: true }]);
      expect(tap.sent('notifications/cancelled')).toHaveLength(2);
    });
  });

  test('fails with the reason of its signal as it is, and of a deadline with what is known', async () => {
    const client = await connected(tap.url);
    const giveUp = new AbortController();
    const reason = new Error('No longer needed');
    const aborted = failure(say(client, 'work', { nonce: 'reason', ms: 60_000 }, { signal: giveUp.signal }));
    await started(server, 'reason');
    giveUp.abort(reason);
    expect(await aborted).toBe(reason);
    const late = await failure(say(client, 'work', { nonce: 'deadline', ms: 60_000 }, { timeout: 700 }));
    expect(late).toBeInstanceOf(DeadlineError);
    expect(late).toMatchObject({ outcome: 'unknown', timeout: 700 });
  });

  test('twenty times over leaves nothing open', async () => {
    const client = await connected(tap.url, { listen: false });
    const nonces = Array.from({ length: 20 }, (_, i) => `late ${i}`);
    await Promise.all(nonces.map((nonce) => failure(say(client, 'work', { nonce, ms: 60_000 }, { timeout: 1000 }))));
    for (const nonce of nonces) await expectCancelled(server, tap, nonce);
    await waitFor(async () => (await server.requests()).every(({ endedBy }) => endedBy));
    expect(await say(client, 'echo', { text: 'next' })).toBe('next');
  });

  test('by a client that counts from 0 is cancelled too', async () => {
    const transport = new SessionTransport(tap.url, { listen: false });
    onTestFinished(() => transport.close());
    const heard: JSONRPCMessage[] = [];
    transport.onmessage = (message) => heard.push(message);
    await transport.start();
    const params = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'from zero', version: '1.0.0' } };
    await transport.send({ jsonrpc: '2.0', id: 'hello', method: 'initialize', params });
    await transport.send({ jsonrpc: '2.0', method: 'notifications/initialized' });
    const zero = transport.send({ jsonrpc: '2.0', id: 0, method: 'tools/call', params: { name: 'work', arguments: { nonce: 'zero', ms: 60_000 } } });
    await started(server, 'zero');
    await transport.send({ jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: 0 } });
    await zero;
    await expectCancelled(server, tap, 'zero');
    expect(heard).toEqual([expect.objectContaining({ id: 'hello' })]);
  });
});

describe('what still comes for a call that was given up', () => {
  test.each([
    { how: 'on the stream of another call', contentType: 'text/event-stream', frame: (messages: string[]) => messages.map((message) => `data: ${message}\n\n`).join('') },
    { how: 'in the JSON of another call', contentType: 'application/json', frame: (messages: string[]) => `[${messages.join(',')}]` },
  ])('$how is dropped and counted, and nobody is troubled with it', async ({ contentType, frame }) => {
    await using server = await startServer();
    const transport = new SessionTransport(server.url, { listen: false });
    const client = new ClientV1({ name: 'bare', version: '1.0.0' });
    onTestFinished(() => client.close());
    await client.connect(transport);
    const errors: Error[] = [];
    client.onerror = (error) => errors.push(error);
    const progress: unknown[] = [];
    await failure(client.callTool({ name: 'work', arguments: { nonce: 'late', ms: 60_000 } }, undefined, { timeout: 700, onprogress: (step) => progress.push(step) }));
    const id = (await wireOf(server, 'tools/call'))[0]?.rpc[0]?.id;
    expect(transport.droppedMessages).toBe(0);

    const late = `{"jsonrpc":"2.0","id":${String(id)},"result":{"content":[{"type":"text","text":"too late"}]}}`;
    const step = `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":${String(id)},"progress":1}}`;
    const answer = '{"jsonrpc":"2.0","id":{{id}},"result":{"content":[{"type":"text","text":"in time"}]}}';
    await server.behave({ reply: { onlyMethod: 'tools/call', times: 1, contentType, body: frame([step, late, late, answer]) } });
    expect(await client.callTool({ name: 'echo', arguments: { text: 'x' } })).toEqual(echoed('in time'));
    expect(transport.droppedMessages).toBe(3);
    expect(progress).toEqual([]);
    expect(errors).toEqual([]);
    expect(await client.callTool({ name: 'echo', arguments: { text: 'next' } })).toEqual(echoed('next'));
  });
});

describe('a cancellation', () => {
  let server: FixtureProcess;
  let tap: Tap;
  beforeEach(async () => {
    server = await startServer({ eventStore: true });
    onTestFinished(() => server.stop());
    tap = await startTap(server.url);
  });

  test('reaches a call whose stream was cut and resumed, and closes the resumed stream', async () => {
    const client = await connected(tap.url, { listen: false });
    const giveUp = new AbortController();
    const call = failure(say(client, 'cutme', { nonce: 'cut', ms: 60_000 }, { signal: giveUp.signal }));
    await waitFor(async () => (await wireOf(server, 'GET')).some(({ status, lastEventId }) => status === 200 && lastEventId !== undefined), { what: 'a resumed stream' });
    giveUp.abort();
    await call;
    await waitFor(async () => (await runsOf(server, 'cut'))[0]?.aborted);
    expect(tap.sent('notifications/cancelled').map(({ params }) => params?.requestId)).toEqual(tap.sent('tools/call').map(({ id }) => id));
    await waitFor(async () => (await wireOf(server, 'GET')).every(({ endedBy }) => endedBy === 'client'));
    expect(await say(client, 'echo', { text: 'next' })).toBe('next');
  });

  test('of a call that was sent again names the id under which it went out last', async () => {
    const client = await connected(tap.url, { listen: false });
    await server.behave({ endEmpty: { onlyMethod: 'tools/call', times: 1 } });
    const giveUp = new AbortController();
    const call = failure(say(client, 'look', { nonce: 'again', ms: 60_000 }, { safe: true, signal: giveUp.signal }));
    await started(server, 'again');
    giveUp.abort();
    await call;
    await waitFor(async () => (await runsOf(server, 'again'))[0]?.aborted);
    const ids = tap.sent('tools/call').map(({ id }) => id);
    expect(ids).toHaveLength(2);
    expect(tap.sent('notifications/cancelled').map(({ params }) => params?.requestId)).toEqual([ids[1]]);
  });

  test('of a call that was replayed on a new session goes to that session, under its new id', async () => {
    const client = await connected(tap.url, { listen: false });
    await server.forget();
    const giveUp = new AbortController();
    const call = failure(say(client, 'work', { nonce: 'replayed', ms: 60_000 }, { signal: giveUp.signal }));
    await started(server, 'replayed');
    giveUp.abort();
    await call;
    await waitFor(async () => (await runsOf(server, 'replayed'))[0]?.aborted);
    const ids = tap.sent('tools/call').map(({ id }) => id);
    expect(new Set(ids).size).toBe(2);
    expect(tap.sent('notifications/cancelled').map(({ params }) => params?.requestId)).toEqual([ids[1]]);
    expect((await wireOf(server, 'notifications/cancelled')).map(({ sessionId, status }) => [sessionId, status])).toEqual([[client.session.id, 202]]);
  });

  test('works by a client that has taken the session up', async () => {
    const store = memoryStore();
    const first = await connected(tap.url, { store });
    await first.close();
    const second = await connected(tap.url, { store });
    await failure(say(second, 'work', { nonce: 'resumed', ms: 60_000 }, { timeout: 700 }));
    await expectCancelled(server, tap, 'resumed');
    expect(second.session.resumed).toBe(true);
  });

  test('is not sent for a call that was aborted before it was made', async () => {
    const client = await connected(tap.url);
    const reason = new Error('Never mind');
    expect(await failure(say(client, 'work', { nonce: 'never' }, { signal: AbortSignal.abort(reason) }))).toBe(reason);
    expect(await say(client, 'echo', { text: 'next' })).toBe('next');
    expect(tap.sent('tools/call')).toHaveLength(1);
    expect(tap.sent('notifications/cancelled')).toEqual([]);
  });

  test('is not sent for a call that waits for the server to come back', async () => {
    const client = await connected(server.url);
    await streamOpen(server);
    await server.kill();
    await waitFor(() => client.session.state === 'degraded');
    const giveUp = new AbortController();
    const waiting = new Promise((resolve) => void client.events.once('retry', resolve));
    const call = failure(say(client, 'work', { nonce: 'waiting' }, { signal: giveUp.signal }));
    await waiting;
    giveUp.abort();
    await call;
    await server.restart();
    expect(await say(client, 'echo', { text: 'back' })).toBe('back');
    expect(await server.executions()).toEqual([]);
    expect(await wireOf(server, 'notifications/cancelled')).toEqual([]);
  });

  test('is not sent for calls that wait for a new session, whether the lost one had refused them or never saw them', async () => {
    const client = await connected(tap.url, { listen: false, timeout: { connect: 2000 } });
    await server.forget();
    await server.behave({ hang: { onlyMethod: 'initialize', times: 1 } });
    const before = tap.sent('initialize').length;
    const giveUp = new AbortController();
    const refused = failure(say(client, 'work', { nonce: 'refused' }, { signal: giveUp.signal }));
    await waitFor(() => tap.sent('initialize').length > before);
    const unseen = failure(say(client, 'work', { nonce: 'unseen' }, { signal: giveUp.signal }));
    const patient = say(client, 'work', { nonce: 'patient' });
    giveUp.abort();
    await Promise.all([refused, unseen]);
    expect(await patient).toBe('done:patient');
    expect((await server.executions()).map(({ nonce }) => nonce)).toEqual(['patient']);
    expect(tap.sent('notifications/cancelled')).toEqual([]);
  });

  test('is not sent for initialize, which the spec forbids to cancel', async () => {
    await server.behave({ ...wellBehaved, hang: { onlyMethod: 'initialize', times: 1 } });
    const client = clientOf(tap.url, { timeout: { connect: 500 } });
    expect(await failure(client.connect())).toBeInstanceOf(DeadlineError);
    await client.connect();
    expect(await say(client, 'echo', { text: 'connected' })).toBe('connected');
    expect(tap.sent('initialize')).toHaveLength(2);
    expect(tap.sent('notifications/cancelled')).toEqual([]);
  });
});
