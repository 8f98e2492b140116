import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { connect, memoryStore, ResilientClient, type Store } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import type { WireEntry } from '../support/contract.ts';
import { runScript, type ClientProcess } from '../support/client-process.ts';
import { startEverything } from '../support/everything.ts';
import { startRecordingProxy } from '../support/recording-proxy.ts';
import { startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import type { Command, Report } from './program.process.ts';

/** Item 1 of what must hold: a second process goes on where the first one was, and its first request is its user's own. */

let directory: string;
beforeEach(async () => void (directory = await mkdtemp(join(tmpdir(), 'reprise-'))));
afterEach(() => rm(directory, { recursive: true, force: true }));

type Program = ClientProcess<Report, Command>;

async function start(url: URL): Promise<Program> {
  const program: Program = runScript(new URL('./program.process.ts', import.meta.url), [url.href, directory]);
  await program.next('connected');
  return program;
}

async function call(program: Program, tool: string, args: Record<string, unknown>) {
  program.send({ type: 'call', tool, args });
  return program.next('answer');
}

const methods = (entries: readonly WireEntry[]) => entries.map(({ http, rpc }) => (http === 'POST' ? (rpc[0]?.method ?? 'answer') : http));

describe.each([
  { mode: 'sse', eventStore: false },
  { mode: 'sse', eventStore: true },
  { mode: 'json', eventStore: false },
] as const)('a second process on the SDK server ($mode, event store: $eventStore)', ({ mode, eventStore }) => {
  it('sends the caller\'s own request first, knows all that the handshake told, and hears notifications', async () => {
    await using server = await startServer({ mode, eventStore });
    await using first = await start(server.url);
    first.send({ type: 'listTools' });
    await first.next('tools');
    first.send({ type: 'describe' });
    const before = await first.next('description');
    const [sessionId] = await server.sessions();
    await first.kill('SIGKILL');
    await server.clearRequests();

    await using second = await start(server.url);
    second.send({ type: 'describe' });
    const after = await second.next('description');
    expect(after).toEqual({ ...before, resumed: true, state: 'resuming' });
    expect(after.instructions).toBe('Use the fixture well.');
    expect(await server.requests()).toEqual([]);

    expect((await call(second, 'sum', { a: 2, b: 3 })).structured).toEqual({ total: 5 });
    await waitFor(async () => methods(await server.requests()).includes('GET'));
    const requests = await server.requests();
    expect(requests[0]).toMatchObject({ http: 'POST', sessionId, protocolVersion: '2025-11-25', rpc: [{ method: 'tools/call', toolName: 'sum' }] });
    expect(methods(requests)).not.toContain('initialize');
    expect(methods(requests)).not.toContain('notifications/initialized');

    await waitFor(async () => (await server.requests()).find(({ http, status }) => http === 'GET' && status === 200));
    await server.notify('hello');
    expect(await second.next('heard')).toMatchObject({ method: 'notifications/message' });

    await call(second, 'grow', { name: 'sprout' });
    expect((await second.next('tools')).names).toContain('sprout');
  });
});

it('validates structured output from its first call on, by the tools that the first process listed', async () => {
  await using server = await startServer();
  await using first = await start(server.url);
  first.send({ type: 'listTools' });
  await first.next('tools');
  first.send({ type: 'close' });
  await first.exit;

  await using second = await start(server.url);
  await server.behave({
    reply: {
      onlyMethod: 'tools/call',
      times: 1,
      contentType: 'application/json',
      body: '{"jsonrpc":"2.0","id":{{id}},"result":{"content":[],"structuredContent":{"total":"five"}}}',
    },
  });
  const answer = await call(second, 'sum', { a: 2, b: 3 });
  expect(answer.error).toMatch(/does not match the tool's output schema/);
});

it('lets go of a list of tools that has changed', async () => {
  await using server = await startServer();
  const store = memoryStore();
  await using client = await connect(server.url, { store });
  await client.listTools();
  await waitFor(async () => (await record(store)).cache?.['tools']);
  await waitFor(async () => (await server.requests()).find(({ http, status }) => http === 'GET' && status === 200));
  await client.callTool({ name: 'grow', arguments: { name: 'sprout' } });
  await waitFor(async () => (await record(store)).cache?.['tools'] === undefined);
});

async function record(store: Store): Promise<{ cache?: Record<string, unknown> }> {
  for await (const key of store.keys('')) return JSON.parse((await store.get(key))?.value ?? '{}');
  return {};
}

it('is told that the stored session proved to be alive', async () => {
  await using server = await startServer();
  await using first = await start(server.url);
  first.send({ type: 'close' });
  await first.exit;
  await using second = await start(server.url);
  await call(second, 'echo', { text: 'again' });
  expect((await second.next('event')).name).toBe('resumed');
  second.send({ type: 'describe' });
  expect((await second.next('description')).state).toBe('ready');
});

it('goes on with a session of server-everything, and hears its notifications', async () => {
  await using everything = await startEverything();
  await using proxy = await startRecordingProxy(everything.url);
  await using first = await start(proxy.url);
  expect((await call(first, 'echo', { message: 'one' })).text).toBe('Echo: one');
  const sessionId = proxy.requests().at(-1)?.sessionId;
  await waitFor(() => proxy.requests().find(({ http, status }) => http === 'GET' && status === 200));
  await first.kill('SIGKILL');
  await waitFor(() => proxy.requests().find(({ http, endedBy }) => http === 'GET' && endedBy));
  proxy.clearRequests();

  await using second = await start(proxy.url);
  second.send({ type: 'describe' });
  expect(await second.next('description')).toMatchObject({ resumed: true, serverInfo: { name: 'mcp-servers/everything' } });
  expect(proxy.requests()).toEqual([]);
  expect((await call(second, 'echo', { message: 'two' })).text).toBe('Echo: two');
  expect(proxy.requests()[0]).toMatchObject({ http: 'POST', sessionId, rpc: [{ method: 'tools/call' }], protocolVersion: '2025-11-25' });
  await waitFor(() => proxy.requests().find(({ http, status }) => http === 'GET' && status === 200));
  await call(second, 'toggle-simulated-logging', {});
  expect(await second.next('heard')).toMatchObject({ method: 'notifications/message' });
  expect(methods(proxy.requests())).not.toContain('initialize');
});

it('starts a new session where the client has become another one, and says so', async () => {
  await using server = await startServer();
  const first = await connect(server.url, { store: fileStore(directory) });
  const { id } = first.session;
  await first.close();
  const warnings: string[] = [];
  await using second = new ResilientClient(server.url, { store: fileStore(directory), capabilities: { roots: {} } });
  second.events.on('warning', ({ message }) => warnings.push(message));
  await second.connect();
  expect(second.session.resumed).toBe(false);
  expect(id).toBeDefined();
  expect(second.session.id).not.toBe(id);
  expect(warnings).toEqual([expect.stringContaining('other capabilities')]);
});
