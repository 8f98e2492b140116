import { LoggingMessageNotificationSchema, ListRootsRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { memoryStore, ResilientClient, type CallOptions } from '../../src/index.ts';
import type { Work } from './client.process.ts';

/** Something that is done again and again. */
export interface Kind {
  readonly name: string;
  run(): Promise<void>;
}

export interface Kinds {
  /** What is done as number `n`. */
  schedule(n: number): Kind;
  /** Lives as long as the process, and is given to many. */
  readonly signal: AbortSignal;
  /** Whether a client is there all the time. */
  readonly standing: boolean;
  end(): Promise<void>;
  /** What should have been collected and is not. */
  collected(): string[];
}

/** The session is lost after so many calls. */
const LOSE = 1_009;

/** One client, and calls of every kind on it. */
export async function kindsOfCalls({ url, fetch: byFetch }: Work): Promise<Kinds> {
  const { signal } = new AbortController();
  const store = memoryStore();
  const client = new ResilientClient(url, {
    store,
    capabilities: { roots: {} },
    history: { size: 100, payloads: true },
    retry: { minTimeout: 1, maxTimeout: 5, budget: false },
    ...(byFetch ? { fetch: globalThis.fetch } : {}),
  });
  client.setRequestHandler(ListRootsRequestSchema, () => ({ roots: [] }));
  let noted = 0;
  client.setNotificationHandler(LoggingMessageNotificationSchema, () => void noted++);
  await client.connect();

  let nonces = 0;
  const nonce = (): string => `${++nonces}`;
  const call = async (name: string, options?: CallOptions): Promise<unknown> => client.callTool({ name, arguments: { nonce: nonce() } }, undefined, options);
  const fails = async (task: Promise<unknown>, pattern: RegExp): Promise<void> => {
    const error = await task.then(() => new Error('it should have failed'), (reason: unknown) => reason);
    if (!pattern.test(String(error))) throw error;
  };
  const kinds: Record<string, { times: number; run(): Promise<unknown> }> = {
    safe: { times: 18, run: () => call('json', { safe: true }) },
    'with the long-lived signal': { times: 20, run: () => call('json', { signal }) },
    streamed: { times: 10, run: () => call('stream') },
    'with progress and the signal': { times: 5, run: () => call('progress', { signal, onprogress: () => {}, resetTimeoutOnProgress: true }) },
    'answered by an error': { times: 5, run: () => fails(call('error'), /it went wrong/) },
    'answered by isError': { times: 3, run: () => call('is-error') },
    refused: { times: 3, run: () => fails(call('refuse'), /RefusedError/) },
    'sent again after a 503': { times: 2, run: () => call('busy', { safe: true, signal }) },
    'sent again after a 429': { times: 2, run: () => call('limited') },
    'out of time': { times: 2, run: () => fails(call('hang', { timeout: 5, signal }), /DeadlineError/) },
    aborted: {
      times: 2,
      run: () => {
        const own = new AbortController();
        setImmediate(() => own.abort(new Error('no more')));
        return fails(call('hang', { signal: own.signal }), /no more/);
      },
    },
    'cut and resumed': { times: 2, run: () => call('cut', { safe: true }) },
    'asked twice at a time': {
      times: 3,
      run: () => {
        const params = { name: 'json', arguments: { nonce: nonce() } };
        return Promise.all([client.callTool(params, undefined, { safe: true }), client.callTool(params, undefined, { safe: true, signal })]);
      },
    },
    'a list that is known': { times: 2, run: () => client.listTools() },
    'a list that is asked for': { times: 1, run: () => client.listTools(undefined, { cache: false }) },
    ping: { times: 2, run: () => client.ping() },
    'a batch of ten': {
      times: 2,
      run: () => client.batch(Array.from({ length: 10 }, () => ({ method: 'tools/call' as const, params: { name: 'json', arguments: { nonce: nonce() } } })), { wire: 'array', signal }),
    },
    durable: {
      times: 1,
      run: async () => {
        await call('json', { callId: nonce() });
        // Its answer is kept for an hour, which is no leak.
        for await (const key of store.keys('')) if (!key.startsWith('session/')) await store.delete(key);
      },
    },
    'a subscription': {
      times: 1,
      run: async () => {
        await client.subscribeResource({ uri: 'test://one' });
        await client.unsubscribeResource({ uri: 'test://one' });
      },
    },
    'a change of data': { times: 1, run: () => client.update(() => ({ data: { n: nonces } })) },
    'a notification': { times: 1, run: () => call('note') },
    'a question of the server': { times: 1, run: () => call('ask') },
    'listeners, history and metrics': {
      times: 11,
      run: async () => {
        let heard = 0;
        const listener = (): void => void heard++;
        client.events.on('call', listener);
        client.events.on('warning', listener);
        await call('json', { signal });
        client.events.off('call', listener);
        client.events.off('warning', listener);
        if (heard === 0 || client.history().length === 0 || client.metrics().calls.answered === 0) throw new Error('nothing was told');
      },
    },
  };
  const table = Object.entries(kinds).flatMap(([name, { times, run }]) => Array.from({ length: times }, () => ({ name, run: async () => void (await run()) })));
  const lost = { name: 'lost sessions', run: async () => void (await call('forget')) };
  return {
    signal,
    standing: true,
    // Spread: 37 and the length have no factor in common.
    schedule: (n) => (n % LOSE === LOSE - 1 ? lost : (table[(n * 37) % table.length] as Kind)),
    async end() {
      await client.end();
      if (noted === 0) throw new Error('no notification came');
      await store.close();
    },
    collected: () => [],
  };
}
