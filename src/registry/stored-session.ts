import { placeOf, queryDigest, type SessionPlace, SESSIONS } from '../session/key.ts';
import { isExpired, readable, type SessionRecord } from '../session/record.ts';
import { type UserState, userState } from '../session/user-state.ts';
import type { StoredValue } from '../storage/store.ts';

/** What is known of a stored session: everything but its id, which is a secret. Times are Unix times in ms. */
export interface StoredSession extends UserState {
  /** Its key in the store. */
  readonly key: string;
  /** Origin and path of its server. */
  readonly url: string;
  /** On whose behalf it is. */
  readonly principal?: string;
  /** Its name: the option `session`. */
  readonly name: string;
  /** An expired one is not taken up any more. */
  readonly state: 'active' | 'expired';
  readonly createdAt: number;
  /** Written by its clients at most once a minute, and when they leave. */
  readonly lastUsedAt: number;
  /** `null`: never. */
  readonly expiresAt: number | null;
  /** How long it is kept since its last use, in ms; `null`: for ever. */
  readonly ttl: number | null;
  readonly protocolVersion: string;
  readonly server: { readonly name: string; readonly version: string };
  /** How many resources it is subscribed to. */
  readonly subscriptions: number;
  /** How often each tool has answered, by name: at most 200 names. */
  readonly calls: Readonly<Record<string, number>>;
}

/** Which sessions are meant. What is left out does not matter. */
export interface SessionFilter {
  /** Those of this server. With a query, of this query only. */
  readonly url?: string | URL;
  readonly principal?: string;
  readonly name?: string;
  /** `true`: expired ones, `false`: active ones. */
  readonly expired?: boolean;
}

/** A session at its place in the store. */
export interface Entry {
  readonly key: string;
  readonly place: SessionPlace;
  readonly record: SessionRecord;
  readonly revision: string;
}

/** What is stored under a key; `undefined` where that is no session, or belongs to another key. */
export function readEntry(key: string, { value, revision }: StoredValue): Entry | undefined {
  const place = placeOf(key);
  const record = readable(value);
  const fits = place && record && record.url === place.url && record.principal === place.principal;
  return fits ? { key, place, record, revision } : undefined;
}

export function describeSession({ key, place, record }: Entry, now = Date.now()): StoredSession {
  const { createdAt, lastUsedAt, expiresAt, initialized, subscriptions, calls = {}, ttl } = record;
  const { name, version } = initialized.serverInfo;
  const { principal } = place;
  return {
    key,
    url: place.url,
    ...(principal === undefined ? {} : { principal }),
    name: place.name,
    state: isExpired(record, now) ? 'expired' : 'active',
    createdAt,
    lastUsedAt,
    expiresAt,
    ttl: ttl ?? (expiresAt === null ? null : expiresAt - lastUsedAt),
    protocolVersion: initialized.protocolVersion,
    server: { name, version },
    subscriptions: subscriptions.length,
    calls,
    ...userState(record),
  };
}

/** What a filter asks for: of the keys, and of what is stored there. */
export interface Selection {
  readonly prefix: string;
  hasKey(key: string): boolean;
  has(session: StoredSession): boolean;
}

export async function selectionOf({ url, principal, name, expired }: SessionFilter): Promise<Selection> {
  const wanted = url === undefined ? undefined : new URL(url);
  const server = wanted && wanted.origin + wanted.pathname;
  const query = wanted && (await queryDigest(wanted.search));
  const isWanted = (place: SessionPlace | undefined): boolean =>
    (server === undefined || place?.url === server) &&
    (query === undefined || place?.query === query) &&
    (principal === undefined || place?.principal === principal) &&
    (name === undefined || place?.name === name);
  return {
    prefix: SESSIONS + encodeURIComponent(server ?? ''),
    hasKey: (key) => isWanted(placeOf(key)),
    has: ({ state }) => expired === undefined || expired === (state === 'expired'),
  };
}
