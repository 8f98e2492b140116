import { Client as ClientV2, StreamableHTTPClientTransport as TransportV2 } from '@modelcontextprotocol/client';
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { connect, memoryStore, OutcomeUnknownError, type SessionOptions, SessionTransport, UnreachableError } from '../../src/index.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { failure, heardFrom, runsOf, started, streamOpen, temporaryDirectory, wireOf } from './clients.ts';

/** A `SessionTransport` under clients that know nothing of it: the SDK's own, of both major versions. */

interface BareClient {
  connect(transport: SessionTransport): Promise<void>;
  callTool(params: { name: string; arguments: Record<string, unknown> }, ...rest: never[]): Promise<unknown>;
  listTools(): Promise<{ tools: { name: string }[] }>;
  getServerCapabilities(): unknown;
  getServerVersion(): unknown;
  getInstructions(): string | undefined;
  close(): Promise<void>;
  onclose?: (() => void) | undefined;
  onerror?: ((error: Error) => void) | undefined;
}

/** What the two versions take after the parameters of a call. */
const clients: { version: string; create: () => BareClient; rest: (options: object) => unknown[] }[] = [
  { version: 'v1', create: () => new ClientV1({ name: 'bare', version: '1.0.0' }), rest: (options) => [undefined, options] },
  { version: 'v2', create: () => new ClientV2({ name: 'bare', version: '2.0.0' }), rest: (options) => [options] },
];

const said = (text: string) => expect.objectContaining({ content: [{ type: 'text', text }] });

describe.each(clients)('under the SDK\'s client $version', ({ create, rest }) => {
  let server: FixtureProcess;
  beforeAll(async () => void (server = await startServer({ eventStore: true })));
  afterAll(() => server.stop());
  beforeEach(() => server.clearRequests());

  async function attach(options: SessionOptions = {}): Promise<{ client: BareClient; transport: SessionTransport }> {
    const transport = new SessionTransport(server.url, options);
    const client = create();
    onTestFinished(() => client.close());
    await client.connect(transport);
    return { client, transport };
  }

  test('a second client takes up the stored session: its first request on the wire is its caller\'s own', async () => {
    const store = memoryStore();
    const one = await attach({ store });
    expect(await one.client.callTool({ name: 'echo', arguments: { text: 'one' } })).toEqual(said('one'));
    const known = [one.client.getServerCapabilities(), one.client.getServerVersion(), one.client.getInstructions()];
    await one.client.close();
    await server.clearRequests();

    const two = await attach({ store });
    expect([two.client.getServerCapabilities(), two.client.getServerVersion(), two.client.getInstructions()]).toEqual(known);
    expect(known[0]).toBeDefined();
    expect(await server.requests()).toEqual([]);
    expect(await two.client.callTool({ name: 'echo', arguments: { text: 'two' } })).toEqual(said('two'));
    await streamOpen(server);
    const [first, ...others] = await server.requests();
    expect(first).toMatchObject({ http: 'POST', protocolVersion: '2025-11-25', rpc: [{ toolName: 'echo' }], sessionId: two.transport.session.id });
    expect(others.map(({ http }) => http)).toEqual(['GET']);
    expect((await two.client.listTools()).tools.map(({ name }) => name)).toContain('sum');
  });

  test('G6 ten calls survive that the server forgets, with one handshake', async () => {
    const { client, transport } = await attach();
    const heard = heardFrom(transport);
    await server.forget();
    await server.clearRequests();
    const texts = Array.from({ length: 10 }, (_, i) => `call ${i}`);
    expect(await Promise.all(texts.map((text) => client.callTool({ name: 'echo', arguments: { text } })))).toEqual(texts.map(said));
    expect(await wireOf(server, 'initialize')).toHaveLength(1);
    expect(heard.reset).toHaveLength(1);
  });

  test('G2 a call that is cut is resumed, and the tool ran once', async () => {
    const { client } = await attach();
    const nonce = `resumed ${Math.random()}`;
    expect(await client.callTool({ name: 'cutme', arguments: { nonce, ms: 100 } })).toEqual(said(`done:${nonce}`));
    expect(await runsOf(server, nonce)).toHaveLength(1);
  });

  test('progress reaches the caller to its last step, fresh, resumed, and after a cut', async () => {
    const store = memoryStore();
    for (const round of ['fresh', 'resumed']) {
      const { client } = await attach({ store });
      for (const [name, expected] of [['work', [1, 2, 3, 4]], ['cutme', [0, 1]]] as const) {
        const steps: number[] = [];
        const onprogress = ({ progress }: { progress: number }): void => void steps.push(progress);
        const args = { nonce: `${name} ${round} ${Math.random()}`, ms: 40, steps: 4 };
        await client.callTool({ name, arguments: args }, ...(rest({ onprogress }) as never[]));
        expect(steps).toEqual(expected);
      }
      await client.close();
    }
  });

  test('a call that times out or is aborted is cancelled on the server', async () => {
    const { client } = await attach();
    const [late, unwanted] = [`late ${Math.random()}`, `unwanted ${Math.random()}`];
    const controller = new AbortController();
    const calls = [
      failure(client.callTool({ name: 'work', arguments: { nonce: late, ms: 600_000 } }, ...(rest({ timeout: 300 }) as never[]))),
      failure(client.callTool({ name: 'work', arguments: { nonce: unwanted, ms: 600_000 } }, ...(rest({ signal: controller.signal }) as never[]))),
    ];
    await Promise.all([late, unwanted].map((nonce) => started(server, nonce)));
    controller.abort();
    await Promise.all(calls);
    for (const nonce of [late, unwanted]) await waitFor(async () => (await runsOf(server, nonce))[0]?.aborted);
    await waitFor(async () => (await wireOf(server, 'tools/call')).every(({ endedBy }) => endedBy === 'client'));
  });

  test('what fails comes as our own typed error', async () => {
    await using own = await startServer();
    const transport = new SessionTransport(own.url);
    const client = create();
    onTestFinished(() => client.close());
    await client.connect(transport);
    const cut = failure(client.callTool({ name: 'work', arguments: { nonce: 'cut', ms: 60_000 } }));
    await started(own, 'cut');
    await own.cut();
    expect(await cut).toBeInstanceOf(OutcomeUnknownError);
    await own.kill();
    const down = await failure(client.callTool({ name: 'work', arguments: { nonce: 'down' } }));
    expect(down).toBeInstanceOf(UnreachableError);
    expect(down).toMatchObject({ outcome: 'not-sent' });
    await own.restart();
    expect(await client.callTool({ name: 'echo', arguments: { text: 'back' } })).toEqual(said('back'));
  });

  test('the same client connects again over the same transport, and hears each message once', async () => {
    const { client, transport } = await attach({ store: memoryStore() });
    await client.callTool({ name: 'echo', arguments: { text: 'one' } });
    await client.close();
    const errors: Error[] = [];
    client.onerror = (error) => void errors.push(error);
    await client.connect(transport);
    expect(await client.callTool({ name: 'echo', arguments: { text: 'two' } })).toEqual(said('two'));
    expect(errors).toEqual([]);
  });

  test('it may do so from its onclose', async () => {
    const { client, transport } = await attach({ store: memoryStore() });
    const again = new Promise<void>((resolve, reject) => {
      client.onclose = () => {
        delete client.onclose;
        client.connect(transport).then(resolve, reject);
      };
    });
    await client.close();
    await again;
    expect(await client.callTool({ name: 'echo', arguments: { text: 'again' } })).toEqual(said('again'));
  });
});

test('a session can be handed from the SDK\'s v1 to its v2 and back', async () => {
  await using server = await startServer();
  const directory = await temporaryDirectory();
  const { fileStore } = await import('../../src/node.ts');
  const ids = new Set<string | undefined>();
  for (const create of [...clients, ...clients].map((each) => each.create)) {
    await using transport = new SessionTransport(server.url, { store: fileStore(directory) });
    const client = create();
    await client.connect(transport);
    expect(await client.callTool({ name: 'echo', arguments: { text: 'x' } })).toEqual(said('x'));
    ids.add(transport.session.id);
    await client.close();
  }
  expect(ids.size).toBe(1);
});

test('no handler of a failed request is left in the SDK\'s client', async () => {
  await using server = await startServer();
  const client = new ClientV1({ name: 'bare', version: '1.0.0' });
  await client.connect(new SessionTransport(server.url, { listen: false }));
  await server.kill();
  for (let i = 0; i < 20; i++) await failure(client.ping());
  const { _responseHandlers: handlers, _timeoutInfo: timers } = client as unknown as Record<string, Map<unknown, unknown>>;
  await waitFor(() => handlers?.size === 0);
  expect(timers?.size).toBe(0);
  await client.close();
});

test.each([
  { what: 'the SDK\'s v1 transport', create: (url: URL) => new StreamableHTTPClientTransport(url) as Transport },
  { what: 'the SDK\'s v2 transport', create: (url: URL) => new TransportV2(url) as Transport },
])('a ResilientClient works over $what', async ({ create }) => {
  await using server = await startServer();
  await using client = await connect(() => create(server.url));
  expect(await client.callTool({ name: 'echo', arguments: { text: 'x' } })).toEqual(said('x'));
});
