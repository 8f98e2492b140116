import { CfWorkerJsonSchemaValidator } from '@modelcontextprotocol/sdk/validation/cfworker';
import { type ListToolsResult, ToolListChangedNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { type ConnectOptions, connect, memoryStore, type ResilientClient } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { connected, failure, heardFrom, say, streamOpen, temporaryDirectory, wireOf } from '../session/clients.ts';
import { waitFor } from '../support/wait.ts';
import { arrived, countOf, sharedServer } from './servers.ts';

/** Item 5: the list of tools is kept with the session for as long as it holds. Counted at the server. */

const LIST = 'tools/list';
const server = sharedServer();
const names = ({ tools }: ListToolsResult): string[] => tools.map(({ name }) => name);
const has = async (client: ResilientClient, name: string): Promise<boolean> => names(await client.listTools()).includes(name);

/** What only one process has: a store of its own over a directory that all share. */
const ofProcess = (directory: string): ConnectOptions => ({ store: fileStore(directory), listen: false });

/** A directory with a session whose tools were listed. */
async function listed(): Promise<string> {
  const directory = await temporaryDirectory();
  await using first = await connect(server().url, ofProcess(directory));
  await first.listTools();
  return directory;
}

describe('a client that takes up the session of another', () => {
  it('lists the tools and calls one by a single request', async () => {
    const directory = await listed();
    await server().clearRequests();
    await using next = await connect(server().url, ofProcess(directory));
    const { tools } = await next.listTools();
    expect(tools.map(({ name }) => name)).toContain('echo');
    expect(tools.find(({ name }) => name === 'sum')?.outputSchema).toMatchObject({ type: 'object' });
    expect(await say(next, 'echo', { text: 'once' })).toBe('once');
    expect((await server().requests()).map(({ http, rpc }) => [http, rpc[0]?.method])).toEqual([['POST', 'tools/call']]);
    expect(next.metrics().calls).toMatchObject({ answered: 2, cached: 1 });
    expect(next.history()).toMatchObject([{ method: LIST, attempts: 0, outcome: 'answered' }, { method: 'tools/call', attempts: 1 }]);
  });

  it('validates answers by the schemas of the list in force, before it has listed anything', async () => {
    const directory = await listed();
    await using next = await connect(server().url, ofProcess(directory));
    expect(await next.callTool({ name: 'sum', arguments: { a: 1, b: 2 } })).toMatchObject({ structuredContent: { total: 3 } });
    const body = '{"jsonrpc":"2.0","id":{{id}},"result":{"content":[],"structuredContent":{"total":"three"}}}';
    await server().behave({ reply: { onlyMethod: 'tools/call', times: 1, contentType: 'application/json', body } });
    expect((await failure(next.callTool({ name: 'sum', arguments: { a: 1, b: 2 } }))).message).toMatch(/schema/);
    expect(await countOf(server(), LIST)).toBe(1);
  });

  it('knows which tools may be repeated, where their word is trusted', async () => {
    const directory = await listed();
    await using next = await connect(server().url, { ...ofProcess(directory), trustAnnotations: true, retry: { minTimeout: 1, maxTimeout: 1 } });
    await server().behave({ post: { onlyMethod: 'tools/call', times: 1, status: 503 } });
    expect(await say(next, 'look', { nonce: 'trusted' })).toBe('done:trusted');
  });

  it('validates by its own list as soon as it has one', async () => {
    const directory = await listed();
    await using next = await connect(server().url, ofProcess(directory));
    const tools = [{ name: 'sum', inputSchema: { type: 'object' }, outputSchema: { type: 'object', properties: { total: { type: 'string' } }, required: ['total'] } }];
    await server().behave({ reply: { onlyMethod: LIST, times: 1, contentType: 'application/json', body: `{"jsonrpc":"2.0","id":{{id}},"result":${JSON.stringify({ tools })}}` } });
    await next.listTools(undefined, { cache: false });
    expect((await failure(next.callTool({ name: 'sum', arguments: { a: 1, b: 2 } }))).message).toMatch(/schema/);
  });

  it.each([
    ['the usual validator', {}, { a: { $ref: '#/nowhere' } }],
    ['another one', { client: { jsonSchemaValidator: new CfWorkerJsonSchemaValidator() } }, { ['\ud800']: {} }],
  ])('hands a list over with a schema that %s cannot compile, tells of it, and validates the other tools', async (_, options, unusable) => {
    const directory = await temporaryDirectory();
    const sum = { name: 'sum', inputSchema: { type: 'object' }, outputSchema: { type: 'object', properties: { total: { type: 'string' } }, required: ['total'] } };
    const echo = { name: 'echo', inputSchema: { type: 'object' }, outputSchema: { type: 'object', properties: unusable } };
    const warnings: string[] = [];
    const told = { on: { warning: ({ message }: Error) => warnings.push(message) } };
    await server().behave({ reply: { onlyMethod: LIST, times: 1, contentType: 'application/json', body: `{"jsonrpc":"2.0","id":{{id}},"result":${JSON.stringify({ tools: [echo, sum] })}}` } });
    for (const lists of [true, false]) {
      await using client = await connect(server().url, { ...ofProcess(directory), ...options, ...told });
      if (lists) expect(names(await client.listTools())).toEqual(['echo', 'sum']);
      expect(warnings.splice(0)).toEqual([expect.stringMatching(/the output schema of the tool "echo" cannot be used.*not validated: ./)]);
      await server().behave({ reply: { onlyMethod: 'tools/call', times: 1, contentType: 'application/json', body: '{"jsonrpc":"2.0","id":{{id}},"result":{"content":[],"structuredContent":{"any":1}}}' } });
      expect(await client.callTool({ name: 'echo', arguments: { text: 'x' } })).toMatchObject({ structuredContent: { any: 1 } });
      expect((await failure(client.callTool({ name: 'sum', arguments: { a: 1, b: 2 } }))).message).toMatch(/schema/);
    }
  });

  it('asks for itself what another principal has listed', async () => {
    const store = memoryStore();
    for (const principal of ['ada', 'alan']) {
      await using client = await connect(server().url, { store, principal, listen: false });
      await client.listTools();
    }
    expect(await countOf(server(), LIST)).toBe(2);
  });
});

describe('the list of tools', () => {
  it('is asked for once in the life of a client too, with or without a store', async () => {
    for (const options of [{}, { store: memoryStore() }]) {
      await server().clearRequests();
      const client = await connected(server().url, { listen: false, ...options });
      const first = await client.listTools();
      expect(await client.listTools()).toEqual(first);
      expect(await client.listTools({})).toEqual(first);
      expect(await countOf(server(), LIST)).toBe(1);
    }
  });

  it('is each caller\'s own: what one does to it no other sees, and nobody later', async () => {
    const client = await connected(server().url, { listen: false });
    const fromServer = await client.listTools();
    const expected = names(fromServer);
    fromServer.tools.length = 0;
    for (let i = 0; i < 3; i++) {
      const result = await client.listTools();
      expect(names(result)).toEqual(expected);
      expect(result.tools.find(({ name }) => name === 'sum')?.outputSchema?.properties).toHaveProperty('total');
      for (const { outputSchema } of result.tools) if (outputSchema) outputSchema.properties = {};
      result.tools.length = 0;
    }
    const fresh = await connected(server().url, { listen: false });
    const [mine] = await Promise.all([fresh.listTools(), fresh.listTools()]);
    mine.tools.length = 0;
    expect(names(await fresh.listTools())).toEqual(expected);
    expect(await countOf(server(), LIST)).toBe(2);
  });

  it('is asked for, whatever is known, with cache: false; and then that is known', async () => {
    const client = await connected(server().url, { listen: false });
    const options = { cache: false };
    await client.listTools();
    // Without the stream it does not hear of the change.
    await say(client, 'grow', { name: 'asked-for' });
    expect(await has(client, 'asked-for')).toBe(false);
    expect(names(await client.listTools(undefined, options))).toContain('asked-for');
    expect(await has(client, 'asked-for')).toBe(true);
    expect(await countOf(server(), LIST)).toBe(2);
  });

  it('is asked for each time with toolListTtl: false', async () => {
    const client = await connected(server().url, { listen: false, toolListTtl: false });
    await client.listTools();
    await client.listTools();
    expect(await countOf(server(), LIST)).toBe(2);
  });

  it('is not asked for when the caller has given up already, or the client is closed', async () => {
    const client = await connected(server().url, { listen: false });
    await client.listTools();
    const reason = new Error('before');
    expect(await failure(client.listTools(undefined, { signal: AbortSignal.abort(reason) }))).toBe(reason);
    await client.close();
    expect(await failure(client.listTools())).toMatchObject({ code: 'CLOSED' });
  });

  it('in pages is not kept: each page is asked for', async () => {
    const client = await connected(server().url, { listen: false });
    const serve = (page: object): Promise<void> =>
      server().behave({ reply: { onlyMethod: LIST, times: 1, contentType: 'application/json', body: `{"jsonrpc":"2.0","id":{{id}},"result":${JSON.stringify({ tools: [], ...page })}}` } });
    await client.listTools();
    for (let i = 0; i < 2; i++) {
      await serve({ nextCursor: 'next' });
      expect((await client.listTools(undefined, { cache: false })).nextCursor).toBe('next');
      await serve({});
      expect(await client.listTools({ cursor: 'next' })).toEqual({ tools: [] });
    }
    expect(await countOf(server(), LIST)).toBe(5);
    expect(names(await client.listTools())).toContain('echo');
    expect(await countOf(server(), LIST)).toBe(6);
  });
});

describe('how long the list holds', () => {
  afterEach(() => void vi.useRealTimers());

  it.each([
    { option: {}, ttl: 300_000 },
    { option: { toolListTtl: 1000 }, ttl: 1000 },
  ])('says toolListTtl: $ttl ms ($option)', async ({ option, ttl }) => {
    const client = await connected(server().url, { listen: false, ...option });
    vi.useFakeTimers({ toFake: ['Date'] });
    await client.listTools();
    vi.setSystemTime(Date.now() + ttl - 1);
    await client.listTools();
    expect(await countOf(server(), LIST)).toBe(1);
    vi.setSystemTime(Date.now() + 1);
    await client.listTools();
    await client.listTools();
    expect(await countOf(server(), LIST)).toBe(2);
  });

  it('counts from when the server gave it, not from when it was taken up', async () => {
    const directory = await listed();
    vi.useFakeTimers({ toFake: ['Date'] });
    for (const [minutes, expected] of [[4, 1], [2, 2]] as const) {
      vi.setSystemTime(Date.now() + minutes * 60_000);
      await using next = await connect(server().url, ofProcess(directory));
      await next.listTools();
      expect(await countOf(server(), LIST)).toBe(expected);
    }
  });

  it('knows nothing where the clock was set back', async () => {
    const client = await connected(server().url, { listen: false });
    await client.listTools();
    vi.useFakeTimers({ toFake: ['Date'] });
    vi.setSystemTime(Date.now() - 3_600_000);
    await client.listTools();
    expect(await countOf(server(), LIST)).toBe(2);
  });
});

describe('the list is dropped', () => {
  /** A client that listens, and hears when the server says that its tools have changed. */
  async function listening(options: ConnectOptions = {}): Promise<{ client: ResilientClient; changes: () => number }> {
    const client = await connected(server().url, options);
    let changes = 0;
    client.setNotificationHandler(ToolListChangedNotificationSchema, () => void changes++);
    await client.listTools();
    await waitFor(async () => (await wireOf(server(), 'GET')).some(({ sessionId, status }) => sessionId === client.session.id && status === 200));
    return { client, changes: () => changes };
  }

  it('when the server says that it changed', async () => {
    const { client, changes } = await listening();
    expect(await has(client, 'told-of')).toBe(false);
    await say(client, 'grow', { name: 'told-of' });
    await waitFor(() => changes() === 1);
    expect(await has(client, 'told-of')).toBe(true);
    expect(await has(client, 'told-of')).toBe(true);
    expect(await countOf(server(), LIST)).toBe(2);
  });

  it('for the next process too', async () => {
    const directory = await temporaryDirectory();
    const { client, changes } = await listening({ store: fileStore(directory) });
    await say(client, 'grow', { name: 'for-the-next' });
    await waitFor(() => changes() === 1);
    await client.close();
    await using next = await connect(server().url, ofProcess(directory));
    expect(await has(next, 'for-the-next')).toBe(true);
  });

  it('when it changed while it was on its way: that one is not kept', async () => {
    let release = (): void => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    let isHeld = false;
    const client = await connected(server().url, {
      fetch: async (input, init) => {
        const response = await fetch(input, init);
        if (String(init?.body).includes('"tools/list"')) {
          isHeld = true;
          await held;
        }
        return response;
      },
    });
    await streamOpen(server());
    const changed = new Promise<void>((resolve) => void client.setNotificationHandler(ToolListChangedNotificationSchema, () => resolve()));
    const old = client.listTools();
    await waitFor(() => isHeld);
    await say(client, 'grow', { name: 'overtaken' }, { safe: true });
    await changed;
    release();
    expect(names(await old)).not.toContain('overtaken');
    expect(await has(client, 'overtaken')).toBe(true);
  });

  it('with its session: the next one may be with another version of the server', async () => {
    const client = await connected(server().url, { listen: false });
    const heard = heardFrom(client);
    await client.listTools();
    await server().forget();
    await client.ping();
    expect(heard.reset).toHaveLength(1);
    await client.listTools();
    expect(await countOf(server(), LIST)).toBe(2);
  });

  it('where the session that was stored is no more', async () => {
    const directory = await listed();
    await server().forget();
    await using next = await connect(server().url, ofProcess(directory));
    // Nothing has shown that yet.
    await next.listTools();
    expect(await countOf(server(), LIST)).toBe(1);
    await next.ping();
    await next.listTools();
    expect(await countOf(server(), LIST)).toBe(2);
  });

  it('when notifications may have been missed', async () => {
    const { client } = await listening();
    const heard = heardFrom(client);
    await server().clearRequests();
    await server().closeStreams();
    await waitFor(() => heard.cursorLost.length === 1);
    await client.listTools();
    await client.listTools();
    expect(await countOf(server(), LIST)).toBe(1);
  });

  it('and what comes next is the list of the new session, validated as that says', async () => {
    const client = await connected(server().url, { listen: false });
    await client.listTools();
    await server().forget();
    expect(await client.callTool({ name: 'sum', arguments: { a: 1, b: 2 } })).toMatchObject({ structuredContent: { total: 3 } });
    await arrived(server(), 'initialize', 2);
    await client.listTools();
    expect(await client.callTool({ name: 'sum', arguments: { a: 2, b: 2 } })).toMatchObject({ structuredContent: { total: 4 } });
  });
});
