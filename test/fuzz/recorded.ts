import { memoryStore, ResilientClient, type Store } from '../../src/index.ts';
import { startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';

/** One answer of a real server, with places for the ids and the text of another call. */
export interface Reply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** What a real server answered, by JSON-RPC method (or GET, DELETE), in events and in JSON. */
export type Replies = ReadonlyMap<string, readonly Reply[]>;

export interface Recording {
  readonly url: string;
  readonly replies: Replies;
  /** Records that the real client has left in a store, and the key of all of them. */
  readonly records: readonly string[];
  readonly principal: string;
}

/** What stands in a recorded answer for what belongs to one call. */
export const PLACES = { id: '1234567890123456', text: 'the-text-of-the-call', session: 'the-session' };

const KEPT = ['content-type', 'mcp-session-id', 'cache-control', 'allow'];
const principal = 'somebody';

/** Has a real client talk to a real server, once in events and once in JSON, and keeps what both leave. */
export async function record(): Promise<Recording> {
  const replies = new Map<string, Reply[]>();
  const records: string[] = [];
  let url = '';
  for (const mode of ['sse', 'json'] as const) {
    await using server = await startServer({ mode, eventStore: mode === 'sse' });
    // One address for both, so that the records of both are in one place.
    url ||= server.url.href;
    const store = memoryStore();
    const client = new ResilientClient(server.url, { store, principal, metadata: { of: 'the user' }, fetch: recording(replies), listen: mode === 'sse' });
    await client.connect();
    await client.ping();
    await client.listTools();
    await client.callTool({ name: 'echo', arguments: { text: PLACES.text } }, undefined, { onprogress: () => {} });
    await client.readResource({ uri: 'test://no-such-resource' }).catch(() => undefined);
    await client.subscribeResource({ uri: 'test://one' });
    await client.setLoggingLevel('debug');
    await client.update(() => ({ data: { step: 3, list: [1, 'two', null] } }));
    if (mode === 'sse') {
      await waitFor(() => client.metrics().openStreams > 0);
      await server.notify('something');
      await waitFor(async () => (await theRecord(store)).includes('"cursor"'));
    }
    await client.close();
    records.push((await theRecord(store)).replaceAll(server.url.href, url));
  }
  return { url, replies, records, principal };
}

async function theRecord(store: Store): Promise<string> {
  for await (const key of store.keys('session/')) return (await store.get(key))?.value ?? '';
  return '';
}

function recording(replies: Map<string, Reply[]>) {
  return async (url: string | URL, init?: RequestInit): Promise<Response> => {
    const response = await fetch(url, init);
    if (init?.method === 'GET') return response;
    const { id, method = init?.method ?? '' } = JSON.parse(String(init?.body ?? '{}')) as { id?: number; method?: string };
    const text = await response.clone().text();
    const session = response.headers.get('mcp-session-id');
    let body = id === undefined ? text : text.replaceAll(String(id), PLACES.id);
    if (session !== null) body = body.replaceAll(session, PLACES.session);
    const headers = Object.fromEntries([...response.headers].filter(([name]) => KEPT.includes(name)).map(([name, value]) => [name, name === 'mcp-session-id' ? PLACES.session : value]));
    replies.set(method, [...(replies.get(method) ?? []), { status: response.status, headers, body }]);
    return response;
  };
}
