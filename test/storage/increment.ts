import { ConflictError } from '../../src/errors.ts';
import type { Store } from '../../src/storage/store.ts';

/** Adds one to the number under a key, trying again until nobody was in between. */
export async function increment(store: Store, key: string): Promise<void> {
  for (;;) {
    const current = await store.get(key);
    try {
      await store.set(key, `${Number(current?.value ?? 0) + 1}`, current?.revision ?? null);
      return;
    } catch (error) {
      if (!(error instanceof ConflictError)) throw error;
    }
  }
}
