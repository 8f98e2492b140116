import { ElicitRequestSchema, LoggingMessageNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { expect, test } from 'vitest';
import { memoryStore, type Store } from '../../src/index.ts';
import { startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { altered, clientOf, connected, failure, heardFrom, runsOf, say, streamOpen, wireOf } from './clients.ts';

/** What happens when two things happen at once. */

test('a late answer to a question of a lost session never meets a question of the next one', async () => {
  await using server = await startServer();
  const client = await connected(server.url, { capabilities: { elicitation: {} } });
  const asked = new Map<string, (action: 'accept' | 'decline') => void>();
  client.setRequestHandler(ElicitRequestSchema, ({ params }) => new Promise((resolve) => asked.set(params.message, (action) => resolve({ action, content: {} }))));
  const first = failure(say(client, 'elicit', { message: 'delete production?' }));
  const sayYes = await waitFor(() => asked.get('delete production?'));
  await server.forget();
  await first;
  const second = say(client, 'elicit', { message: 'send greeting?' });
  const sayNo = await waitFor(() => asked.get('send greeting?'));
  sayYes('accept');
  // Its answer is on its way, or dropped, before the next one is given.
  await say(client, 'echo', { text: 'meanwhile' });
  sayNo('decline');
  expect(JSON.parse(await second)).toMatchObject({ action: 'decline' });
});

test('G9 close() in the middle of a renewal ends it: no session, no write and no stream come after it', async () => {
  await using server = await startServer();
  const store = memoryStore();
  let release: (() => void) | undefined;
  let held = false;
  let writes = 0;
  const slow: Store = altered(store, {
    get: async (key: string) => {
      if (held) await new Promise<void>((resolve) => (release = resolve));
      return store.get(key);
    },
    set: (...args: Parameters<Store['set']>) => {
      writes++;
      return store.set(...args);
    },
  });
  const client = await connected(server.url, { store: slow, listen: false });
  await server.forget();
  await server.clearRequests();
  held = true;
  const call = failure(say(client, 'echo', { text: 'x' }));
  await waitFor(() => client.session.state === 'negotiating');
  await waitFor(() => release);
  const closing = client.close();
  held = false;
  const before = writes;
  release?.();
  await closing;
  expect(await call).toMatchObject({ code: 'CLOSED' });
  await client.connect();
  expect(await say(client, 'echo', { text: 'again' })).toBe('again');
  // One handshake: that of the second connection.
  expect(await wireOf(server, 'initialize')).toHaveLength(1);
  expect(await server.sessions()).toEqual([client.session.id]);
  expect(writes - before).toBeLessThanOrEqual(2);
});

test('G6 a session that is forgotten again while it is being restored is replaced once more', async () => {
  await using server = await startServer();
  const client = await connected(server.url, { listen: false });
  await client.subscribeResource({ uri: 'test://one' });
  const { reset } = heardFrom(client);
  await server.forget();
  await server.behave({ post: { status: 404, times: 1, onlyMethod: 'resources/subscribe' } });
  expect(await Promise.all(['a', 'b', 'c'].map((text) => say(client, 'echo', { text })))).toEqual(['a', 'b', 'c']);
  expect(reset).toHaveLength(1);
  expect(await server.subscriptions()).toEqual(expect.arrayContaining([{ sessionId: client.session.id, uris: ['test://one'] }]));
});

test('G6 a session that a call finds lost before it is stored is replaced once', async () => {
  await using server = await startServer();
  const slow = slowAtFirst();
  const client = clientOf(server.url, { store: slow.store, listen: false });
  const { reset, state } = heardFrom(client);
  const connecting = client.connect();
  const store = await waitFor(() => slow.goOn);
  await server.forget();
  const call = say(client, 'echo', { text: 'early' });
  await waitFor(() => state.some(({ from }) => from === 'lost'));
  // Whether the handshake comes about is not known yet.
  expect(await failure(client.update(() => ({ data: { early: true } })))).toMatchObject({ code: 'CLOSED' });
  store();
  await connecting;
  expect(await call).toBe('early');
  expect(await say(client, 'echo', { text: 'late' })).toBe('late');
  expect(reset).toHaveLength(1);
  expect(await wireOf(server, 'initialize')).toHaveLength(2);
  expect(await server.sessions()).toEqual([client.session.id]);
});

test('an update before the session is stored is refused: where another process is quicker it would be gone', async () => {
  await using server = await startServer();
  const slow = slowAtFirst();
  const client = clientOf(server.url, { store: slow.store, listen: false });
  const connecting = client.connect();
  const store = await waitFor(() => slow.goOn);
  const early = failure(client.update(() => ({ data: { early: true } })));
  store();
  expect(await early).toMatchObject({ code: 'CLOSED', outcome: 'not-sent' });
  await connecting;
  await client.update(() => ({ data: { late: true } }));
  expect(JSON.parse(slow.written.at(-1) ?? '')).toMatchObject({ data: { late: true } });
});

/** A store whose first write waits until it may go on. */
function slowAtFirst(): { readonly store: Store; readonly written: string[]; goOn?: () => void } {
  const memory = memoryStore();
  const set: Store['set'] = async (key, value, expected) => {
    if (!slow.goOn) await new Promise<void>((resolve) => (slow.goOn = resolve));
    slow.written.push(value);
    return memory.set(key, value, expected);
  };
  const slow: ReturnType<typeof slowAtFirst> = { store: altered(memory, { set }), written: [] };
  return slow;
}

test('a hundred waiting calls make one handshake after the other, not a hundred at a time', async () => {
  await using server = await startServer();
  const client = await connected(server.url, { listen: false, retry: { minTimeout: 1, maxTimeout: 20 } });
  await server.forget();
  await server.clearRequests();
  await server.behave({ post: { status: 503, times: 4, onlyMethod: 'initialize' } });
  const texts = Array.from({ length: 100 }, (_, i) => `call ${i}`);
  expect(await Promise.all(texts.map((text) => say(client, 'echo', { text })))).toEqual(texts);
  expect(await wireOf(server, 'initialize')).toHaveLength(5);
});

test('G4 a notification that the server never takes fails when its time is over', async () => {
  await using server = await startServer();
  const client = await connected(server.url, { listen: false, capabilities: { roots: { listChanged: true } }, timeout: { call: 300 } });
  await server.behave({ hang: { onlyMethod: 'notifications/roots/list_changed', times: 1 } });
  await client.sendRootsListChanged().catch(() => {});
  expect(await say(client, 'echo', { text: 'x' })).toBe('x');
});

test('a client that took a session up and only listens hears what it is told, without a call', async () => {
  await using server = await startServer();
  const store = memoryStore();
  await (await connected(server.url, { store })).close();
  const client = await connected(server.url, { store });
  const logs: unknown[] = [];
  client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => void logs.push(params.data));
  await waitFor(() => client.session.state === 'ready');
  await waitFor(async () => (await wireOf(server, 'GET')).filter(({ endedBy }) => !endedBy).length > 0);
  await streamOpen(server);
  await server.notify('hello');
  await waitFor(() => logs.includes('hello'));
});

test.each([
  ['503 that speaks of some session', { status: 503, contentType: 'text/plain', body: 'Backend session closed while the request was running' }],
  ['502', { status: 502, contentType: 'text/plain', body: 'Bad Gateway' }],
])('G2 a call is not sent again after a %s', async (_what, answer) => {
  await using server = await startServer();
  const client = await connected(server.url, { listen: false });
  const { reset } = heardFrom(client);
  await server.behave({ reply: { onlyMethod: 'tools/call', times: 1, ...answer } });
  expect(await failure(say(client, 'work', { nonce: 'once' }))).toMatchObject({ code: 'OUTCOME_UNKNOWN' });
  expect(await runsOf(server, 'once')).toEqual([]);
  expect((await server.requests()).filter(({ rpc }) => rpc[0]?.method === 'tools/call')).toHaveLength(1);
  expect(reset).toEqual([]);
});

test.each([
  { status: 400, code: -32602, message: 'missing required argument session_id' },
  { status: 404, code: -32601, message: 'Tool not found' },
])('an error for this very request is its answer, also with $status: $message', async ({ status, code, message }) => {
  await using server = await startServer();
  const client = await connected(server.url, { listen: false });
  const { reset } = heardFrom(client);
  const body = `{"jsonrpc":"2.0","id":{{id}},"error":{"code":${code},"message":"${message}"}}`;
  await server.behave({ reply: { onlyMethod: 'tools/call', times: 1, status, contentType: 'application/json', body } });
  expect(await failure(say(client, 'echo', { text: 'x' }))).toMatchObject({ code, message: expect.stringContaining(message) });
  expect(reset).toEqual([]);
});

test('a 429 is not an answer, even with the id of the request: it is sent again after Retry-After', async () => {
  await using server = await startServer();
  const client = await connected(server.url, { listen: false });
  const { retry } = heardFrom(client);
  await server.behave({ post: { status: 429, times: 1, onlyMethod: 'tools/call', headers: { 'retry-after': '0' } } });
  expect(await say(client, 'work', { nonce: 'busy' })).toBe('done:busy');
  expect(retry).toHaveLength(1);
  expect(await runsOf(server, 'busy')).toHaveLength(1);
});
