import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { connect, memoryStore, OutcomeUnknownError, RefusedError, type ResilientClient, type SessionEvents, SessionLostError } from '../../src/index.ts';
import { lostDialects } from '../support/dialects.ts';
import { startEverything } from '../support/everything.ts';
import { startRecordingProxy } from '../support/recording-proxy.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';

/** Item 2 of what must hold (G6): a server that forgets costs one handshake, whatever the number of calls in flight. */

const echo = (client: ResilientClient, text: string) => client.callTool({ name: 'echo', arguments: { text } });
const said = (text: string) => ({ content: [{ type: 'text', text }] });

function hearResets(client: ResilientClient): Parameters<SessionEvents['reset']>[0][] {
  const resets: Parameters<SessionEvents['reset']>[0][] = [];
  client.events.on('reset', (info) => resets.push(info));
  return resets;
}

const initializes = async (server: FixtureProcess) => (await server.requests()).filter(({ rpc }) => rpc[0]?.method === 'initialize').length;

describe.each([{ mode: 'sse' }, { mode: 'json' }] as const)('G6 on the SDK server ($mode)', ({ mode }) => {
  it('ten concurrent calls survive a restart with one initialize and one reset, subscriptions and log level restored', async () => {
    await using server = await startServer({ mode });
    await using client = await connect(server.url, { store: memoryStore() });
    const resets = hearResets(client);
    await client.subscribeResource({ uri: 'test://one' });
    await client.subscribeResource({ uri: 'test://two' });
    await client.subscribeResource({ uri: 'test://gone' });
    await client.unsubscribeResource({ uri: 'test://gone' });
    await client.setLoggingLevel('warning');
    const lost = client.session.id;
    await server.restart();

    const answers = await Promise.all(Array.from({ length: 10 }, (_, i) => echo(client, `call ${i}`)));
    expect(answers).toEqual(Array.from({ length: 10 }, (_, i) => said(`call ${i}`)));
    expect(await initializes(server)).toBe(1);
    expect(resets).toEqual([{ reason: expect.stringContaining('404'), adopted: false }]);
    expect(client.session.id).not.toBe(lost);
    expect(await server.subscriptions()).toEqual([{ sessionId: client.session.id, uris: ['test://one', 'test://two'], level: 'warning' }]);
    const initialize = (await server.requests()).find(({ rpc }) => rpc[0]?.method === 'initialize');
    expect(initialize?.sessionId).toBeUndefined();
  });
});

describe('G6', () => {
  let server: FixtureProcess;
  beforeAll(async () => void (server = await startServer()));
  afterAll(() => server.stop());
  beforeEach(() => server.behave({ lost: '404-json', post: null, reply: null, get: 'ok' }));

  it.each(lostDialects.filter((dialect) => dialect !== 'adopts'))('recognizes a lost session said as %s', async (dialect) => {
    await server.behave({ lost: dialect });
    await using client = await connect(server.url, { listen: false });
    const resets = hearResets(client);
    await server.forget();
    expect(await echo(client, 'again')).toEqual(said('again'));
    expect(resets).toHaveLength(1);
  });

  it('ten calls that are refused together make one initialize without a store too, where no turn keeps them apart', async () => {
    let refusals = 0;
    let go = (): void => {};
    let handshake = Promise.resolve();
    // Nobody has a new session before all ten ask for one.
    const holding: typeof fetch = async (url, init) => {
      if (String(init?.body).includes('"method":"initialize"')) await handshake;
      const response = await fetch(url, init);
      if (response.status === 404 && ++refusals === 10) go();
      return response;
    };
    await using client = await connect(server.url, { listen: false, fetch: holding as never });
    handshake = new Promise((resolve) => (go = resolve));
    const resets = hearResets(client);
    await server.forget();
    await server.clearRequests();
    expect(await Promise.all(Array.from({ length: 10 }, (_, i) => echo(client, `call ${i}`)))).toEqual(Array.from({ length: 10 }, (_, i) => said(`call ${i}`)));
    expect([await initializes(server), resets.length]).toEqual([1, 1]);
  });

  it('goes on without a reset on a server that adopts an id it does not know', async () => {
    await server.behave({ lost: 'adopts' });
    await using client = await connect(server.url, { listen: false });
    const resets = hearResets(client);
    await server.forget();
    expect(await echo(client, 'again')).toEqual(said('again'));
    expect(resets).toEqual([]);
  });

  it('does not take a 404 for a lost session where the request carried no session id', async () => {
    await using stateless = await startServer({ sessions: false });
    await using client = await connect(stateless.url, { listen: false });
    const resets = hearResets(client);
    await stateless.behave({ post: { status: 404, times: 1, onlyMethod: 'tools/call', body: 'Session not found', contentType: 'text/plain' } });
    await expect(echo(client, 'lost?')).rejects.toThrow(RefusedError);
    expect(resets).toEqual([]);
    expect(await echo(client, 'still here')).toEqual(said('still here'));
  });

  it.each([400, 403, 405, 413])('does not take an ordinary %i for a lost session', async (status) => {
    await using client = await connect(server.url, { listen: false });
    await server.behave({ post: { status, times: 1, onlyMethod: 'tools/call', body: 'No.', contentType: 'text/plain' } });
    await expect(echo(client, 'x')).rejects.toMatchObject({ name: 'RefusedError', status, outcome: 'refused' });
    expect(await echo(client, 'still here')).toEqual(said('still here'));
  });

  it('fails the refused calls with SessionLostError where the user asked for it, and starts anew with the next call', async () => {
    await using client = await connect(server.url, { onSessionLost: 'fail', listen: false });
    const resets = hearResets(client);
    await server.forget();
    await server.clearRequests();
    const calls = await Promise.allSettled(Array.from({ length: 10 }, () => echo(client, 'x')));
    for (const call of calls) {
      expect(call).toMatchObject({ status: 'rejected', reason: { code: 'SESSION_LOST', outcome: 'refused' } });
      expect((call as PromiseRejectedResult).reason).toBeInstanceOf(SessionLostError);
    }
    expect(await initializes(server)).toBe(0);
    expect(await echo(client, 'anew')).toEqual(said('anew'));
    expect(resets).toHaveLength(1);
  });

  it('replays a refused call once: a server that refuses each new session too ends in an error that names the load balancer', async () => {
    await using client = await connect(server.url, { listen: false });
    await server.behave({ post: { status: 404, times: 100, onlyMethod: 'tools/call' } });
    await server.clearRequests();
    const failure = await echo(client, 'x').catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(SessionLostError);
    expect((failure as Error).message).toMatch(/sticky/);
    const calls = (await server.requests()).filter(({ rpc }) => rpc[0]?.method === 'tools/call');
    expect(calls).toHaveLength(2);
  });

  it('takes up the session that another client has made already, and ends none', async () => {
    const store = memoryStore();
    await using one = await connect(server.url, { store, listen: false });
    await using two = await connect(server.url, { store, listen: false });
    await echo(two, 'proof');
    expect(two.session.id).toBe(one.session.id);
    const resets = hearResets(two);
    await server.forget();
    await server.clearRequests();
    await echo(one, 'first');
    expect(await echo(two, 'second')).toEqual(said('second'));
    expect(two.session.id).toBe(one.session.id);
    expect(resets).toEqual([{ reason: expect.any(String), adopted: true }]);
    expect(await initializes(server)).toBe(1);
  });

  it('tells that the lists may have changed, since the new session may be with a new version of the server', async () => {
    const heard: (string[] | undefined)[] = [];
    await using client = await connect(server.url, {
      listen: false,
      client: { listChanged: { tools: { debounceMs: 0, onChanged: (_error, tools) => heard.push(tools?.map(({ name }) => name)) } } },
    });
    await server.forget();
    await echo(client, 'x');
    expect(await waitFor(() => heard[0])).toContain('echo');
  });

  it('leaves a call that the lost session was running as what it is: unknown', async () => {
    await using client = await connect(server.url, { listen: false });
    const running = client.callTool({ name: 'work', arguments: { nonce: 'running', ms: 60_000 } });
    const settled = running.catch((error: unknown) => error);
    await waitFor(async () => (await server.executions()).some(({ nonce }) => nonce === 'running'));
    await server.forget();
    expect(await settled).toBeInstanceOf(OutcomeUnknownError);
    expect(await echo(client, 'anew')).toEqual(said('anew'));
    expect((await server.executions()).filter(({ nonce }) => nonce === 'running')).toHaveLength(1);
  });
});

it('G6 on server-everything: ten calls survive its restart with one initialize', async () => {
  await using everything = await startEverything();
  await using proxy = await startRecordingProxy(everything.url);
  await using client = await connect(proxy.url);
  const resets = hearResets(client);
  await everything.restart();
  proxy.clearRequests();
  const answers = await Promise.all(Array.from({ length: 10 }, (_, i) => client.callTool({ name: 'echo', arguments: { message: `call ${i}` } })));
  expect(answers).toEqual(Array.from({ length: 10 }, (_, i) => said(`Echo: call ${i}`)));
  expect(proxy.requests().filter(({ rpc }) => rpc[0]?.method === 'initialize')).toHaveLength(1);
  expect(resets).toHaveLength(1);
});
