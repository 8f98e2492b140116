import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { callTool, type ConnectOptions, ConnectionPool, encryptedStore, memoryStore, ResilientClient, SessionTransport } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import type { Kinds, Kind } from './calls.ts';
import type { Work } from './client.process.ts';

/** Clients that come and go, of every kind. */
export function kindsOfCycles({ url, directory, fetch: byFetch }: Work): Kinds {
  const { signal } = new AbortController();
  const base: ConnectOptions = { signal, ...(byFetch ? { fetch: globalThis.fetch } : {}) };
  const memory = memoryStore();
  const encrypted = encryptedStore(memoryStore(), { passphrase: 'long and secret', iterations: 100_000 });
  const files = fileStore(join(directory, 'shared'));
  const clients = new Set<WeakRef<ResilientClient>>();
  const collection = new FinalizationRegistry<WeakRef<ResilientClient>>((gone) => clients.delete(gone));
  const create = (options: ConnectOptions): ResilientClient => {
    const client = new ResilientClient(url, { ...base, ...options });
    const reference = new WeakRef(client);
    clients.add(reference);
    collection.register(client, reference);
    return client;
  };
  const cycle = async (options: ConnectOptions, leave: 'close' | 'end' = 'close'): Promise<void> => {
    const client = create(options);
    client.events.on('state', () => {});
    await client.connect();
    await client.callTool({ name: 'json' }, undefined, { signal });
    await client[leave]();
  };
  let hurries = 0;
  /** Closed so many turns after connect(), wherever that is then. */
  const hasty = async (options: ConnectOptions): Promise<void> => {
    const client = create(options);
    const connecting = client.connect().catch(() => {});
    for (let turns = hurries++ % 16; turns > 0; turns--) await turn();
    await client.close();
    await connecting;
  };
  let places = 0;
  const kinds: Record<string, { times: number; run(): Promise<unknown> }> = {
    'memory, resumed': { times: 7, run: () => cycle({ store: memory, session: `${places++ % 4}` }) },
    'without a store': { times: 5, run: () => cycle({}) },
    'ended for good': { times: 1, run: () => cycle({ store: memory, session: `end ${places++ % 4}` }, 'end') },
    'files, resumed': { times: 1, run: () => cycle({ store: files, session: `${places++ % 4}` }) },
    'encrypted, resumed': { times: 1, run: () => cycle({ store: encrypted, session: `${places++ % 4}` }) },
    'in the middle of a call': {
      times: 1,
      run: async () => {
        const client = create({});
        await client.connect();
        const call = client.callTool({ name: 'hang' }, undefined, { signal }).catch(() => {});
        await client.close();
        await call;
      },
    },
    'while it connects, with files': { times: 1, run: () => hasty({ store: files, session: `${hurries % 4}` }) },
    'while it connects, without a store': { times: 1, run: () => hasty({}) },
    'one-off': { times: 1, run: () => callTool(url, 'stream', {}, { ...base, store: memory, session: 'one-off' }) },
    'connected again': {
      times: 1,
      run: async () => {
        const client = create({ listen: false });
        await client.connect();
        await client.close();
        await client.connect();
        await client.close();
      },
    },
    'nobody there': {
      times: 1,
      run: async () => {
        const client = new ResilientClient('http://127.0.0.1:9/mcp', { ...base, retry: false });
        await client.connect().then(() => Promise.reject(new Error('somebody is there')), () => {});
        await client.close();
      },
    },
    'the SDK over our transport': {
      times: 1,
      run: async () => {
        const client = new Client({ name: 'leaks', version: '1' });
        await client.connect(new SessionTransport(url, { store: memory, session: 'bare' }) as Transport);
        await client.callTool({ name: 'json' });
        await client.close();
      },
    },
    'a pool': {
      times: 1,
      run: async () => {
        const pool = new ConnectionPool({ max: 2, listen: false });
        for (const session of ['a', 'b', 'c']) await pool.use(url, { session }, (leased) => leased.callTool({ name: 'json' }));
        await pool.close();
      },
    },
  };
  const table: Kind[] = Object.entries(kinds).flatMap(([name, { times, run }]) => Array.from({ length: times }, () => ({ name, run: async () => void (await run()) })));
  return {
    signal,
    standing: false,
    // Spread: 8 and the length have no factor in common.
    schedule: (n) => table[(n * 8) % table.length] as Kind,
    async end() {
      // What is stored stays at the server, too.
      for (const [store, sessions] of [[memory, ['0', '1', '2', '3', 'one-off', 'bare']], [files, ['0', '1', '2', '3']], [encrypted, ['0', '1', '2', '3']]] as const) {
        for (const session of sessions) {
          const client = new ResilientClient(url, { ...base, store, session });
          await client.connect();
          await client.end();
        }
        await store.close();
      }
    },
    collected: () => (clients.size > 0 ? [`${clients.size} clients`] : []),
  };
}
