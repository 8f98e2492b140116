import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connect, OutcomeUnknownError } from '../../src/index.ts';
import { startEverything } from '../support/everything.ts';
import { startProxy, type TcpProxy } from '../support/proxy.ts';
import { startRecordingProxy } from '../support/recording-proxy.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';

/** Item 3 of what must hold (G1, G2): a cut connection is resumed where that is possible, and otherwise the truth is told. */

const ran = async (server: FixtureProcess, nonce: string) => (await server.executions()).filter((execution) => execution.nonce === nonce);
const done = (nonce: string) => ({ content: [{ type: 'text', text: `done:${nonce}` }] });

describe('on a server that keeps its events', () => {
  let server: FixtureProcess;
  let proxy: TcpProxy;
  beforeAll(async () => {
    server = await startServer({ eventStore: true });
    proxy = await startProxy(server.url);
  });
  afterAll(async () => {
    await proxy.stop();
    await server.stop();
  });

  it.each([
    { when: 'before the work', after: false },
    { when: 'after the work', after: true },
  ])('G2 a call that is cut $when is resumed by its event id, and the tool ran once', async ({ after }) => {
    await using client = await connect(server.url);
    const nonce = `cut-${String(after)}`;
    await server.clearRequests();
    expect(await client.callTool({ name: 'cutme', arguments: { nonce, ms: 100, after } })).toEqual(done(nonce));
    expect(await ran(server, nonce)).toMatchObject([{ finished: true }]);
    const resumes = (await server.requests()).filter(({ lastEventId }) => lastEventId !== undefined);
    expect(resumes.length).toBeGreaterThan(0);
    expect((await server.requests()).filter(({ rpc }) => rpc[0]?.method === 'tools/call')).toHaveLength(1);
  });

  it('G2 twenty calls that are cut together are all resumed, and each ran once', async () => {
    await using client = await connect(proxy.url);
    const nonces = Array.from({ length: 20 }, (_, i) => `together-${i}`);
    const heard = new Set<string>();
    const calls = Promise.all(
      nonces.map((nonce) => client.callTool({ name: 'work', arguments: { nonce, ms: 800, steps: 8 } }, undefined, { onprogress: () => heard.add(nonce) })),
    );
    // Once something has come, so has an event id.
    await waitFor(() => heard.size === 20);
    proxy.cut();
    expect(await calls).toEqual(nonces.map(done));
    for (const nonce of nonces) expect(await ran(server, nonce)).toMatchObject([{ finished: true }]);
  });

  it('G2 a call is resumed again and again for as long as its connection is cut', async () => {
    await using client = await connect(proxy.url);
    let steps = 0;
    const call = client.callTool({ name: 'work', arguments: { nonce: 'again', ms: 2000, steps: 20 } }, undefined, { onprogress: () => steps++ });
    for (let cuts = 0; cuts < 3; cuts++) {
      const before = steps;
      await waitFor(() => steps > before);
      proxy.cut();
    }
    expect(await call).toEqual(done('again'));
    expect(await ran(server, 'again')).toHaveLength(1);
  });

  it('fails with OutcomeUnknownError where the events are gone with the server', async () => {
    await using own = await startServer({ eventStore: true });
    await using client = await connect(own.url);
    let begun = false;
    const onprogress = () => (begun = true);
    const call = client.callTool({ name: 'work', arguments: { nonce: 'gone', ms: 600_000, steps: 6000 } }, undefined, { onprogress }).catch((error: unknown) => error);
    await waitFor(() => begun);
    await own.restart();
    const failure = await call;
    expect(failure).toBeInstanceOf(OutcomeUnknownError);
    expect((failure as Error).message).toMatch(/resume/);
    expect(await ran(own, 'gone')).toHaveLength(1);
  });
});

describe.each([
  { mode: 'sse', what: 'an SSE answer without event ids' },
  { mode: 'json', what: 'a JSON answer' },
] as const)('where $what is cut', ({ mode }) => {
  let server: FixtureProcess;
  beforeAll(async () => void (server = await startServer({ mode })));
  afterAll(() => server.stop());

  it('G2 a call that is not safe fails within 100 ms of the cut, with the outcome unknown, and is not sent again', async () => {
    await using client = await connect(server.url, { listen: false });
    const nonce = `unsafe-${mode}`;
    const call = client.callTool({ name: 'work', arguments: { nonce, ms: 60_000 } }).catch((error: unknown) => error);
    await waitFor(async () => (await ran(server, nonce)).length === 1);
    const cutAt = performance.now();
    await server.cut();
    const failure = await call;
    expect(performance.now() - cutAt).toBeLessThan(100);
    expect(failure).toBeInstanceOf(OutcomeUnknownError);
    expect(failure).toMatchObject({ code: 'OUTCOME_UNKNOWN', outcome: 'unknown' });
    await client.ping();
    expect(await ran(server, nonce)).toHaveLength(1);
  });

  it('G1 a call that is marked safe is sent again', async () => {
    await using client = await connect(server.url, { listen: false });
    const retries: string[] = [];
    client.events.on('retry', ({ reason }) => retries.push(reason));
    const nonce = `safe-${mode}`;
    const call = client.callTool({ name: 'work', arguments: { nonce, ms: 300 } }, undefined, { safe: true });
    await waitFor(async () => (await ran(server, nonce)).length === 1);
    await server.cut();
    expect(await call).toEqual(done(nonce));
    expect(await ran(server, nonce)).toHaveLength(2);
    expect(retries).toHaveLength(1);
    const ids = (await server.requests()).flatMap(({ rpc }) => rpc).filter(({ toolName }) => toolName === 'work').map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
  });

  it('G1 a tool that says it only reads is sent again where its word is trusted, and not where it is not', async () => {
    for (const trustAnnotations of [true, false]) {
      await using client = await connect(server.url, { listen: false, trustAnnotations });
      await client.listTools();
      const nonce = `hint-${mode}-${String(trustAnnotations)}`;
      const call = client.callTool({ name: 'look', arguments: { nonce, ms: 300 } }).catch((error: unknown) => error);
      await waitFor(async () => (await ran(server, nonce)).length === 1);
      await server.cut();
      if (trustAnnotations) expect(await call).toEqual(done(nonce));
      else expect(await call).toBeInstanceOf(OutcomeUnknownError);
      expect(await ran(server, nonce)).toHaveLength(trustAnnotations ? 2 : 1);
    }
  });
});

describe('a stream that ends without the answer', () => {
  let server: FixtureProcess;
  beforeAll(async () => void (server = await startServer()));
  afterAll(() => server.stop());

  it.each([
    { what: 'an event stream that ends empty', fault: { endEmpty: { onlyMethod: 'tools/call', times: 1 } } },
    { what: 'a 202 to a request', fault: { post: { onlyMethod: 'tools/call', times: 1, status: 202 } } },
    { what: 'a 200 with another id', fault: { reply: { onlyMethod: 'tools/call', times: 1, contentType: 'application/json', body: '{"jsonrpc":"2.0","id":1,"result":{}}' } } },
    { what: 'a 200 that is not JSON', fault: { reply: { onlyMethod: 'tools/call', times: 1, contentType: 'application/json', body: 'oops' } } },
    { what: 'a 200 of another content type', fault: { reply: { onlyMethod: 'tools/call', times: 1, contentType: 'text/html', body: '<html>' } } },
    { what: 'a 502 of a proxy', fault: { post: { onlyMethod: 'tools/call', times: 1, status: 502 } } },
  ])('fails at once with the outcome unknown: $what', async ({ fault }) => {
    await using client = await connect(server.url, { listen: false });
    await server.behave(fault);
    await expect(client.callTool({ name: 'echo', arguments: { text: 'x' } })).rejects.toThrow(OutcomeUnknownError);
    expect(await client.callTool({ name: 'echo', arguments: { text: 'on' } })).toEqual({ content: [{ type: 'text', text: 'on' }] });
  });

  it('hands over a JSON-RPC error for the very request, whatever its HTTP status', async () => {
    await using client = await connect(server.url, { listen: false });
    const body = '{"jsonrpc":"2.0","id":{{id}},"error":{"code":-32603,"message":"broken"}}';
    await server.behave({ reply: { onlyMethod: 'tools/call', times: 1, status: 500, contentType: 'application/json', body } });
    await expect(client.callTool({ name: 'echo', arguments: { text: 'x' } })).rejects.toMatchObject({ code: -32603, message: expect.stringContaining('broken') });
  });
});

it('resumes a call on server-everything, whose event store forgets that its stream is being listened to', async () => {
  await using everything = await startEverything();
  await using proxy = await startRecordingProxy(everything.url);
  await using client = await connect(proxy.url);
  const cut = proxy.cutCall('trigger-long-running-operation');
  const call = client.callTool({ name: 'trigger-long-running-operation', arguments: { duration: 1, steps: 2 } });
  await cut;
  expect(await call).toMatchObject({ content: [{ text: expect.stringContaining('completed') }] });
  expect(proxy.requests().filter(({ rpc }) => rpc[0]?.toolName === 'trigger-long-running-operation')).toHaveLength(1);
});
