import { isExpiredEntry } from '../calls/journal.ts';
import { isConflict } from '../storage/conflict.ts';
import { SESSIONS } from '../session/key.ts';
import { isExpired } from '../session/record.ts';
import type { Store, StoredValue } from '../storage/store.ts';
import { eachStored } from './each-stored.ts';
import { type Entry, readEntry } from './stored-session.ts';

export interface CleanupOptions {
  /** Whether expired sessions are ended on their servers too (DELETE, at most 2 s each), as well as that can be done. Default true. */
  readonly end?: boolean;
  /**
   * Whether what cannot be read is removed too, expired or not. It may be of a later version of this library, and that of a durable call
   * may be what keeps it from running twice. Default false.
   */
  readonly unreadable?: boolean;
}

export interface Cleaning extends Required<CleanupOptions> {
  readonly store: Store;
  /** Gets ready to end a session on its server. What it resolves to does that, and resolves to whether the server answered. */
  farewellOf(entry: Entry): Promise<() => Promise<boolean>>;
  /** Stops it: what is under way comes to its end. */
  readonly signal?: AbortSignal | undefined;
}

/** So many are looked at, or ended, at a time. */
const AT_A_TIME = 16;
/** What durable calls keep begins with this. */
const CALLS = 'call/';

/**
 * Removes what is expired. Returns how much that was. What goes wrong with one does not keep the others, and is thrown when they are
 * done.
 */
export async function removeExpired({ store, end, unreadable, farewellOf, signal }: Cleaning): Promise<number> {
  const failures: unknown[] = [];
  /** Servers that did not answer: of many expired sessions only the first ones wait for such a server. */
  const silent = new Set<string>();
  let removed = 0;
  let broken: { readonly error: unknown } | undefined;

  const remove = async (key: string, stored: StoredValue | undefined): Promise<boolean> => {
    // What was changed meanwhile was used, or is somebody else's to remove.
    const gone = await store.delete(key, stored?.revision).catch((error: unknown) => {
      if (isConflict(error)) return false;
      throw error;
    });
    if (gone) removed++;
    return gone;
  };

  const lookAtSession = async (key: string, stored: StoredValue | undefined): Promise<void> => {
    const entry = stored && readEntry(key, stored);
    if (entry ? !isExpired(entry.record, Date.now()) : !unreadable) return;
    // Nothing is removed that could not be ended afterwards: it would be left on its server for ever.
    const farewell = entry && end ? await farewellOf(entry) : undefined;
    // First from the store: whoever removes it ends it, and one that was just used is neither removed nor ended.
    if (!(await remove(key, stored)) || !entry || !farewell) return;
    const { origin } = new URL(entry.record.url);
    if (!silent.has(origin) && !(await farewell())) silent.add(origin);
  };

  const lookAtCall = async (key: string, stored: StoredValue | undefined): Promise<void> => {
    if ((stored && isExpiredEntry(stored.value)) ?? unreadable) await remove(key, stored);
  };

  for (const [prefix, lookAt] of [[SESSIONS, lookAtSession], [CALLS, lookAtCall]] as const) {
    const look = (key: string, stored: StoredValue | undefined): Promise<void> => lookAt(key, stored).catch((error: unknown) => void failures.push(error));
    // What keeps one kind from being looked at does not keep the other.
    await eachStored(store, { prefix, limit: AT_A_TIME, look, signal }).catch((error: unknown) => (broken ??= { error }));
  }
  // Where what cannot be read was to be removed, and was, there is nothing wrong any more.
  if (broken && !(unreadable && removed > 0)) failures.push(broken.error);
  if (failures.length > 1) throw new AggregateError(failures, `${failures.length} expired entries could not be removed or ended; the first: ${(failures[0] as Error).message}`);
  if (failures.length === 1) throw failures[0];
  return removed;
}
