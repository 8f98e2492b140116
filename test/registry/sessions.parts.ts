import { inject, onTestFinished } from 'vitest';
import { encryptedStore, memoryStore, type Store } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { keyOf } from '../../src/session/key.ts';
import { type SessionRecord, serializeRecord } from '../../src/session/record.ts';
import { redisStore } from '../../src/redis.ts';
import { temporaryDirectory } from '../session/clients.ts';
import { clients } from '../storage/redis-clients.ts';

/** What the tests of the registry do again and again. */

export const HOUR = 3_600_000;

export interface StoreKind {
  readonly kind: string;
  make(): Promise<Store>;
}

const redisUrl = inject('redisUrl');

export const kinds: readonly StoreKind[] = [
  { kind: 'memory', make: async () => memoryStore() },
  { kind: 'files', make: async () => fileStore(await temporaryDirectory()) },
  {
    kind: 'encrypted files',
    make: async () => {
      const key = await crypto.subtle.generateKey({ name: 'AES-GCM', length: 256 }, false, ['encrypt', 'decrypt']);
      return encryptedStore(fileStore(await temporaryDirectory()), key, { hideKeys: true });
    },
  },
  ...(redisUrl === '' ? [] : [{ kind: 'Redis', make: redis }]),
];

async function redis(): Promise<Store> {
  const { client, end } = clients.ioredis(redisUrl);
  onTestFinished(() => void end());
  return redisStore(client, { prefix: `sessions ${Math.random()} ` });
}

export async function storeOf({ make }: StoreKind): Promise<Store> {
  const store = await make();
  onTestFinished(() => store.close());
  return store;
}

/** A session that no server knows. */
export function recordOf(changes: Partial<SessionRecord> = {}): SessionRecord {
  const now = Date.now();
  return {
    v: 1,
    id: `id-${Math.random()}`,
    url: 'http://127.0.0.1:9/mcp',
    capabilities: {},
    initialized: { protocolVersion: '2025-11-25', capabilities: {}, serverInfo: { name: 'made up', version: '0' } },
    createdAt: now,
    lastUsedAt: now,
    expiresAt: now + HOUR,
    subscriptions: [],
    ...changes,
  };
}

/** Stores it where its client would. Returns the key. */
export async function put(store: Store, changes: Partial<SessionRecord> = {}): Promise<string> {
  const record = recordOf(changes);
  const { url, query, principal, name = 'default' } = record;
  const key = keyOf({ url, name, ...(query === undefined ? {} : { query }), ...(principal === undefined ? {} : { principal }) });
  await store.set(key, serializeRecord(record));
  return key;
}

/** When a session was used last, that expired a minute ago. */
export function expired(): Pick<SessionRecord, 'createdAt' | 'lastUsedAt' | 'expiresAt'> {
  const now = Date.now();
  return { createdAt: now - 2 * HOUR, lastUsedAt: now - HOUR - 60_000, expiresAt: now - 60_000 };
}

export async function keysIn(store: Store, prefix = ''): Promise<string[]> {
  const keys: string[] = [];
  for await (const key of store.keys(prefix)) keys.push(key);
  return keys.sort();
}
