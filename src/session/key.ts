import { digest } from '../canonical.ts';

/** What tells one stored session from another. */
export interface SessionPlace {
  /** Origin and path of the server. */
  readonly url: string;
  /** A digest of the URL's query, where there is one: the query itself may hold a secret. */
  readonly query?: string;
  readonly principal?: string;
  readonly name: string;
}

/** What the keys of all sessions begin with. */
export const SESSIONS = 'session/';

const QUERY_DIGEST = /^[0-9a-f]{24}$/;

/** The store key of a session: server, principal and name, each escaped so that no two can meet. */
export async function sessionKey(address: { url: string; query: string }, principal: string | undefined, name: string): Promise<string> {
  const query = await queryDigest(address.query);
  return keyOf({ url: address.url, name, ...(query === undefined ? {} : { query }), ...(principal === undefined ? {} : { principal }) });
}

export async function queryDigest(query: string): Promise<string | undefined> {
  return query === '' ? undefined : digest(query, 12);
}

/** @throws URIError for text that is not well-formed */
export function keyOf({ url, query, principal = '', name }: SessionPlace): string {
  return SESSIONS + [query === undefined ? url : `${url}?${query}`, principal, name].map(encodeURIComponent).join('/');
}

/** What a key says; `undefined` where it is not that of a session. */
export function placeOf(key: string): SessionPlace | undefined {
  try {
    // Whatever is missing here, or is too much, makes another key than the one that was given.
    const [server, principal, name] = key.slice(SESSIONS.length).split('/').map(decodeURIComponent) as [string, string, string];
    // The path of a URL has no bare question mark.
    const [url, query] = server.split('?') as [string, string?];
    if (query !== undefined && !QUERY_DIGEST.test(query)) return undefined;
    const place = { url, name, ...(query === undefined ? {} : { query }), ...(principal === '' ? {} : { principal }) };
    return keyOf(place) === key ? place : undefined;
  } catch {
    return undefined;
  }
}
