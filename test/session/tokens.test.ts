import * as fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, it, test } from 'vitest';
import { memoryStore, OutcomeUnknownError } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import type { ActiveSession } from '../../src/session/state.ts';
import { readToken, writeToken } from '../../src/session/token.ts';
import { runScript } from '../support/client-process.ts';
import { fixtureStdio, type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { type Bare, bare } from './bare.ts';
import { failure, heardFrom, runsOf, started, temporaryDirectory, wireOf } from './clients.ts';
import type { Report } from './tokens.process.ts';

/** A call that goes on without its client: whoever has its resumption token can wait for the answer. */

const resumes = async (server: FixtureProcess) => (await server.requests()).filter(({ lastEventId }) => lastEventId !== undefined);
const callsOf = async (server: FixtureProcess) => (await wireOf(server, 'tools/call')).length;

/** A long call that is under way, and the tokens that it has given. */
interface Begun {
  readonly tokens: string[];
  readonly answer: Promise<string>;
}

async function begin(server: FixtureProcess, { call }: Bare, nonce: string, { ms = 600, steps = 6, signal }: { ms?: number; steps?: number; signal?: AbortSignal } = {}): Promise<Begun> {
  const tokens: string[] = [];
  const answer = call('work', { nonce, ms, steps }, { onresumptiontoken: (token) => void tokens.push(token), onprogress: () => {}, ...(signal ? { signal } : {}) });
  answer.catch(() => {});
  await started(server, nonce);
  await waitFor(() => tokens.length > 0, { what: 'a token' });
  return { tokens, answer };
}

describe('on a server that keeps its events', () => {
  let server: FixtureProcess;
  beforeAll(async () => void (server = await startServer({ eventStore: true })));
  afterAll(() => server.stop());
  beforeEach(() => server.clearRequests());

  it('a call whose client was closed is joined by the next one: the right answer, and the tool ran once', async () => {
    const store = memoryStore();
    const first = await bare(server.url, { store });
    const { tokens, answer } = await begin(server, first, 'closed');
    await first.client.close();
    expect(await failure(answer)).toMatchObject({ code: 'CLOSED', outcome: 'unknown' });

    const second = await bare(server.url, { store });
    const heard = heardFrom(second.transport);
    const progress: number[] = [];
    const more: string[] = [];
    const options = { resumptionToken: tokens[0], onresumptiontoken: (token: string) => void more.push(token), onprogress: (each: { progress: number }) => void progress.push(each.progress) };
    expect(await second.call('work', { nonce: 'closed' }, options)).toBe('done:closed');
    expect(await runsOf(server, 'closed')).toMatchObject([{ finished: true }]);
    expect(await callsOf(server)).toBe(1);
    // The resumed stream proved the session; and no event of it was missed, whenever the first client left.
    expect(heard.resumed).toHaveLength(1);
    expect(second.transport.session).toMatchObject({ resumed: true, state: 'ready' });
    expect(progress).toEqual([1, 2, 3, 4, 5, 6]);
    // One for each event but the last: that was the answer.
    expect(new Set(more).size).toBe(6);
    expect(more).not.toContain(tokens[0]);
  });

  it('a call whose process was killed is joined by another process', async () => {
    const directory = await temporaryDirectory();
    await using program = runScript<Report>(new URL('./tokens.process.ts', import.meta.url), [server.url.href, directory, 'killed']);
    const { token } = await program.next('token');
    await program.kill('SIGKILL');

    const { call } = await bare(server.url, { store: fileStore(directory) });
    expect(await call('work', { nonce: 'killed' }, { resumptionToken: token })).toBe('done:killed');
    expect(await runsOf(server, 'killed')).toMatchObject([{ finished: true }]);
    expect(await wireOf(server, 'initialize')).toHaveLength(1);
  });

  it('a call is joined while the first client still waits for it: both get the answer', async () => {
    const store = memoryStore();
    const { tokens, answer } = await begin(server, await bare(server.url, { store }), 'both');
    const second = await bare(server.url, { store });
    const joined = second.call('work', { nonce: 'both' }, { resumptionToken: tokens[0] });
    expect(await Promise.all([answer, joined])).toEqual(['done:both', 'done:both']);
    expect((await resumes(server)).map(({ status }) => status)).toEqual(expect.arrayContaining([409, 200]));
    expect(await runsOf(server, 'both')).toHaveLength(1);
  });

  it('a token moves with each event, never past the answer, and names no session', async () => {
    const store = memoryStore();
    const first = await bare(server.url, { store });
    const { tokens, answer } = await begin(server, first, 'moves', { ms: 100, steps: 4 });
    expect(await answer).toBe('done:moves');
    // The first event of a stream, and four times progress.
    expect(new Set(tokens).size).toBe(5);
    expect(tokens).toHaveLength(5);
    for (const token of tokens) expect(token).not.toContain(first.transport.session.id);
    const second = await bare(server.url, { store });
    for (const resumptionToken of tokens) expect(await second.call('work', { nonce: 'moves' }, { resumptionToken })).toBe('done:moves');
    expect(await runsOf(server, 'moves')).toHaveLength(1);
  });

  it('a call that is detached goes on at the server, and is joined by the same client', async () => {
    const one = await bare(server.url);
    const abort = new AbortController();
    const { tokens, answer } = await begin(server, one, 'detached', { signal: abort.signal });
    expect(one.transport.cancelling(() => abort.abort(), 'detach')).toBe('sent');
    await expect(answer).rejects.toThrow();
    expect(await one.call('work', { nonce: 'detached' }, { resumptionToken: tokens.at(-1) })).toBe('done:detached');
    expect(await runsOf(server, 'detached')).toMatchObject([{ finished: true }]);
    expect(await wireOf(server, 'notifications/cancelled')).toHaveLength(0);
  });

  it('cancelling a joined call cancels it at the server', async () => {
    const store = memoryStore();
    const first = await bare(server.url, { store });
    const { tokens } = await begin(server, first, 'cancelled', { ms: 60_000, steps: 600 });
    await first.client.close();
    const second = await bare(server.url, { store });
    const abort = new AbortController();
    let heard = 0;
    const joined = second.call('work', { nonce: 'cancelled' }, { resumptionToken: tokens[0], signal: abort.signal, onprogress: () => heard++ });
    joined.catch(() => {});
    await waitFor(() => heard > 0);
    expect(second.transport.cancelling(() => abort.abort())).toBe('sent');
    await expect(joined).rejects.toThrow();
    await waitFor(async () => (await runsOf(server, 'cancelled'))[0]?.aborted);
    expect(await runsOf(server, 'cancelled')).toHaveLength(1);
  });

  it('the token of another session is refused, and nothing is asked of the server', async () => {
    const first = await bare(server.url);
    const { tokens } = await begin(server, first, 'other');
    // Two sessions of one millisecond would be one to a token.
    await waitFor(() => Date.now() > Number(first.transport.session.createdAt));
    const { call } = await bare(server.url);
    const error = await failure(call('work', { nonce: 'other' }, { resumptionToken: tokens[0] }));
    expect(error).toBeInstanceOf(OutcomeUnknownError);
    expect(error.message).toMatch(/session that it was sent on is not the present one.*may or may not have run/);
    expect(await resumes(server)).toEqual([]);
    expect(await callsOf(server)).toBe(1);
  });

  it.each(['', 'x', 'mcp-reprise:1:12:x:y', 'mcp-reprise:2:1:1:e', '123::4'])('what is no token of ours (%j) is a TypeError', async (resumptionToken) => {
    const { call } = await bare(server.url);
    expect(await failure(call('echo', { text: 'x' }, { resumptionToken }))).toBeInstanceOf(TypeError);
    expect(await callsOf(server)).toBe(0);
  });

  it('a call that this client waits for already is not joined, and keeps its answer', async () => {
    const one = await bare(server.url);
    const { tokens, answer } = await begin(server, one, 'twice');
    const error = await failure(one.call('work', { nonce: 'twice' }, { resumptionToken: tokens[0] }));
    expect(error).toBeInstanceOf(OutcomeUnknownError);
    expect(error.message).toMatch(/waits for its answer already/);
    expect(await answer).toBe('done:twice');
  });

  it('a session that is lost when it is to be joined is replaced for the next call, and nothing is replayed', async () => {
    const store = memoryStore();
    const first = await bare(server.url, { store });
    const { tokens } = await begin(server, first, 'lost');
    await first.client.close();
    const second = await bare(server.url, { store });
    await server.forget();
    const error = await failure(second.call('work', { nonce: 'lost' }, { resumptionToken: tokens[0] }));
    expect(error).toBeInstanceOf(OutcomeUnknownError);
    expect(error.message).toMatch(/refused to resume its stream with 404.*may or may not have run/);
    expect(second.transport.session.state).toBe('lost');
    expect(await second.call('echo', { text: 'on' })).toBe('on');
    expect(await wireOf(server, 'initialize')).toHaveLength(2);
    expect(await runsOf(server, 'lost')).toHaveLength(1);
  });

  it('a server that refuses to resume makes the outcome unknown, and keeps its session', async () => {
    const store = memoryStore();
    const first = await bare(server.url, { store });
    const { tokens } = await begin(server, first, 'refused');
    await first.client.close();
    const { call, transport } = await bare(server.url, { store, listen: false });
    await server.behave({ get: 405 });
    try {
      const error = await failure(call('work', { nonce: 'refused' }, { resumptionToken: tokens[0] }));
      expect(error).toBeInstanceOf(OutcomeUnknownError);
      expect(error.message).toMatch(/405/);
    } finally {
      await server.behave({ get: 'ok' });
    }
    expect(await call('echo', { text: 'on' })).toBe('on');
    expect(transport.session.resumed).toBe(true);
  });

  it('a listener that throws is reported, and breaks nothing', async () => {
    const { client, call } = await bare(server.url);
    const errors: string[] = [];
    client.onerror = ({ message }) => void errors.push(message);
    const onresumptiontoken = (token: string): unknown => {
      if (errors.length === 0) throw new Error(`at once ${token.length}`);
      return Promise.reject(new Error('later'));
    };
    const answer = await call('work', { nonce: 'throws', ms: 40, steps: 2 }, { onresumptiontoken, onprogress: () => {} });
    expect(answer).toBe('done:throws');
    await waitFor(() => errors.length === 3);
    expect(errors).toEqual([expect.stringMatching(/^at once/), 'later', 'later']);
  });
});

describe('a server that keeps no events', () => {
  test.each([
    { mode: 'sse', eventStore: false },
    { mode: 'json', eventStore: true },
  ] as const)('gives no tokens ($mode, event store: $eventStore)', async ({ mode, eventStore }) => {
    await using server = await startServer({ mode, eventStore });
    const { call } = await bare(server.url);
    const tokens: string[] = [];
    expect(await call('work', { nonce: 'none', ms: 20, steps: 2 }, { onresumptiontoken: (token) => void tokens.push(token), onprogress: () => {} })).toBe('done:none');
    expect(tokens).toEqual([]);
  });
});

it('over a connection that has no streams nothing is joined', async () => {
  const { call, transport } = await bare(fixtureStdio);
  const error = await failure(call('echo', { text: 'x' }, { resumptionToken: `mcp-reprise:1:${transport.session.createdAt}:5:event` }));
  expect(error).toBeInstanceOf(OutcomeUnknownError);
  expect(error.message).toMatch(/cannot be resumed over this connection/);
});

it('a token keeps any event id, and gives no session id away that a server has put into it', () => {
  const piece = fc.oneof(fc.constantFrom('%s', '%', '25', 's', 'secret-id', ':', 'é'), fc.string({ minLength: 1, maxLength: 5 }));
  fc.assert(
    fc.property(fc.array(piece, { minLength: 1, maxLength: 8 }), fc.maxSafeNat(), (pieces, wireId) => {
      const session = { id: 'secret-id', createdAt: 1_700_000_000_000 } as ActiveSession;
      const token = writeToken(session, wireId, pieces.join(''));
      expect(token).not.toContain('secret-id');
      const read = readToken(token);
      expect([read.createdAt, read.wireId, read.cursorOn(session)]).toEqual([session.createdAt, wireId, pieces.join('')]);
    }),
  );
});
