import type { Store } from '../../src/index.ts';

/** What a store has noted of durable calls, by their ids. */
export async function entriesOf(store: Store): Promise<Record<string, Record<string, unknown>>> {
  const entries: Record<string, Record<string, unknown>> = {};
  for await (const key of store.keys('call/')) {
    const stored = await store.get(key);
    if (stored) entries[decodeURIComponent(key.split('/').at(-1) ?? '')] = JSON.parse(stored.value) as Record<string, unknown>;
  }
  return entries;
}

export async function entryOf(store: Store, callId: string): Promise<Record<string, unknown> | undefined> {
  return (await entriesOf(store))[callId];
}

/** Changes what is noted of a call. */
export async function rewrite(store: Store, callId: string, change: (text: string) => string): Promise<void> {
  for await (const key of store.keys('call/')) {
    const stored = key.endsWith(`/${encodeURIComponent(callId)}`) ? await store.get(key) : undefined;
    if (stored) await store.set(key, change(stored.value));
  }
}
