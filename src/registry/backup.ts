import { reasonOf } from '../errors.ts';
import { contend } from '../session/contend.ts';
import { keyOf, type SessionPlace } from '../session/key.ts';
import { checkRecord, isExpired, type SessionRecord, serializeRecord } from '../session/record.ts';
import { checkedData } from '../session/user-state.ts';
import { DEFAULTS } from '../options.ts';
import type { Store } from '../storage/store.ts';
import { type Entry, readEntry } from './stored-session.ts';

/**
 * Sessions outside of their store, as plain JSON. It holds the session ids: whoever has it can act as these clients. Keep it as you keep
 * passwords, and import only what you trust.
 */
export interface SessionsBackup {
  readonly v: 1;
  /** Unix time in ms. */
  readonly exportedAt: number;
  /** What is in them is for `import` to know. */
  readonly sessions: readonly unknown[];
  /** How many are missing, because they could not be read. */
  readonly unreadable: number;
}

/** What became of one session of a backup. */
export interface ImportResult {
  /**
   * - `imported`: it is in the store.
   * - `exists`: a session is there already, and `overwrite` was not given.
   * - `expired`: its time is over.
   * - `invalid`: it makes no sense; `reason` says why.
   * - `failed`: the store failed; `reason` says why.
   */
  readonly result: 'imported' | 'exists' | 'expired' | 'invalid' | 'failed';
  /** Its key in the store; absent where it is `invalid`. */
  readonly key?: string;
  readonly reason?: string;
}

/** A record that can do without its key. */
export function packed({ record, place }: Entry): SessionRecord {
  return { ...record, ...place };
}

/** @throws TypeError for what is no backup that this version can read */
export function sessionsIn(data: unknown): readonly unknown[] {
  const { v, sessions } = (data ?? {}) as Partial<SessionsBackup>;
  if (v !== 1 || !Array.isArray(sessions)) throw new TypeError('this is no backup of sessions, or one of another version: { v: 1, sessions: […] }');
  return sessions;
}

/** Puts one session of a backup into a store. */
export async function importSession(store: Store, session: unknown, overwrite: boolean): Promise<ImportResult> {
  let record: SessionRecord;
  let key: string;
  try {
    record = checkRecord(session);
    // Never taken from the backup: the id goes to this server, for this principal.
    key = keyOf(placeIn(record));
    if (record.data) checkedData(record.data);
  } catch (error) {
    return { result: 'invalid', reason: (error as Error).message };
  }
  if (isExpired(record, Date.now())) return { result: 'expired', key };
  const attempt = async (): Promise<ImportResult> => {
    const there = await store.get(key);
    const entry = there && readEntry(key, there);
    // What expired is as good as gone; what cannot be read may be of a later version.
    if (there && !overwrite && !(entry && isExpired(entry.record, Date.now()))) return { result: 'exists', key };
    await store.set(key, serializeRecord(record), there?.revision ?? null);
    return { result: 'imported', key };
  };
  return contend(attempt).catch((error: unknown) => ({ result: 'failed', key, reason: error instanceof Error ? reasonOf(error) : String(error) }));
}

function placeIn({ url, query, principal, name = DEFAULTS.session }: SessionRecord): SessionPlace {
  const { origin, pathname, protocol } = new URL(url);
  if (url !== origin + pathname || !/^https?:$/.test(protocol)) throw new TypeError('its field "url" is not origin and path of a server');
  if (query !== undefined && !/^[0-9a-f]{24}$/.test(query)) throw new TypeError('its field "query" makes no sense');
  if (principal === '' || name === '') throw new TypeError('its principal or name is empty');
  return { url, name, ...(query === undefined ? {} : { query }), ...(principal === undefined ? {} : { principal }) };
}
