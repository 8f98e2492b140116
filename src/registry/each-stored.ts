import type { Store, StoredValue } from '../storage/store.ts';
import { inParallel } from './in-parallel.ts';

export interface Visit {
  readonly prefix: string;
  /** How many are looked at at a time. */
  readonly limit: number;
  /** Leaves out what need not be read. */
  hasKey?(key: string): boolean;
  /** Is shown what is there; `undefined` where the store cannot read it: it may be encrypted with another key. */
  look(key: string, stored: StoredValue | undefined): void | Promise<void>;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Looks at what is stored under the keys that begin with a prefix. What the store cannot read does not keep the rest; where it can read
 * nothing at all, its first error is thrown.
 */
export async function eachStored(store: Store, { prefix, limit, hasKey = () => true, look, signal }: Visit): Promise<void> {
  let failure: { readonly error: unknown } | undefined;
  let isReadable = false;
  const visit = async (key: string): Promise<void> => {
    if (!hasKey(key)) return;
    let stored: StoredValue | undefined;
    try {
      stored = await store.get(key);
    } catch (error) {
      failure ??= { error };
      await look(key, undefined);
      return;
    }
    isReadable = true;
    // It may have been removed since it was listed.
    if (stored) await look(key, stored);
  };
  await inParallel(store.keys(prefix), limit, visit, signal);
  if (failure && !isReadable) throw failure.error;
}
