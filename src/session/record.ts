import type { InitializeRequest, InitializeResult } from '@modelcontextprotocol/sdk/types.js';
import { DEEPEST, nestsTooDeep } from '../depth.ts';
import { isMeta } from '../links/messages.ts';

/** A session as it is stored: everything that another process needs to go on with it. */
export interface SessionRecord {
  readonly v: 1;
  /** The `Mcp-Session-Id`: whoever has it can act as this client. */
  readonly id: string;
  /** Origin and path of the server that minted the id; it is sent nowhere else. */
  readonly url: string;
  /** A digest of the URL's query, and the session's name. Absent in what older versions wrote; the key says both. */
  readonly query?: string;
  readonly name?: string;
  readonly principal?: string;
  /** What the client said of itself: a client that says something else must not take this session up. */
  readonly capabilities: InitializeRequest['params']['capabilities'];
  /** The server's answer to `initialize`. */
  readonly initialized: InitializeResult;
  /** Unix times in ms. */
  readonly createdAt: number;
  readonly lastUsedAt: number;
  /** Unix time in ms after which the session is not taken up; `null`: never. */
  readonly expiresAt: number | null;
  /** The session's own TTL in ms; `null`: it never expires. Absent: as long as the client says that uses it. */
  readonly ttl?: number | null;
  /** Resource URIs, restored on a new session. */
  readonly subscriptions: readonly string[];
  readonly logLevel?: string;
  /** The newest event id of the server-to-client stream. */
  readonly cursor?: string;
  /** What belongs to the user, see `UserState`. */
  readonly metadata?: Readonly<Record<string, unknown>>;
  readonly data?: Readonly<Record<string, unknown>>;
  /** How often each tool has answered, by name. */
  readonly calls?: Readonly<Record<string, number>>;
  /** What the layers above know of this session's server and want the next process to know. It ends with the session. */
  readonly cache?: Readonly<Record<string, unknown>>;
}

/** No clock is so much ahead of another, in ms. */
const MOST_SKEW = 24 * 3_600_000;

/**
 * Whether a session is not to be taken up any more. A last use in the future is another machine's clock, or our own that was set back:
 * the session then lives longer by that much, up to a day, and its next use puts the time right. What lies further ahead is no time of
 * a use, and such a session counts as expired.
 */
export function isExpired({ expiresAt, lastUsedAt }: Pick<SessionRecord, 'expiresAt' | 'lastUsedAt'>, now: number): boolean {
  return expiresAt !== null && (expiresAt <= now || lastUsedAt - now > MOST_SKEW);
}

/** When a session expires, by its last use. `usual`: the TTL of one that has none of its own, in ms. */
export function expiryOf({ lastUsedAt, ttl }: Pick<SessionRecord, 'lastUsedAt' | 'ttl'>, usual: number): number | null {
  const lasts = ttl === undefined ? usual : ttl;
  return lasts === null || lasts === Number.POSITIVE_INFINITY ? null : lastUsedAt + lasts;
}

/** Printable ASCII, as the spec asks (2025-11-25, Transports, Session Management), and of a length that a header can carry. */
export function isSessionId(value: unknown): value is string {
  return typeof value === 'string' && /^[\x21-\x7e]{1,1024}$/.test(value);
}

/** What a later process relies on. The SDK's own schema has the last word when the client connects. */
export function isInitializeResult(value: unknown): value is InitializeResult {
  return (
    isObject(value) &&
    isMeta(value['_meta']) &&
    isProtocolVersion(value['protocolVersion']) &&
    isObject(value['capabilities']) &&
    Object.values(value['capabilities']).every(isObject) &&
    isObject(value['serverInfo']) &&
    typeof value['serverInfo']['name'] === 'string' &&
    typeof value['serverInfo']['version'] === 'string' &&
    (value['instructions'] === undefined || typeof value['instructions'] === 'string')
  );
}

function isProtocolVersion(value: unknown): value is string {
  return typeof value === 'string' && /^\d{4}-\d{2}-\d{2}$/.test(value);
}

export function serializeRecord(record: SessionRecord): string {
  return JSON.stringify(record);
}

/** Reads a record. Throws a `TypeError` that says what is wrong with it, without repeating its content. */
export function parseRecord(text: string): SessionRecord {
  // What we have written holds messages and what a user keeps, a few levels down.
  if (nestsTooDeep(text, 2 * DEEPEST)) throw new TypeError('it nests too deep');
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new TypeError('it is not JSON');
  }
  return checkRecord(value);
}

/** The same of one that is there already; `undefined` where it makes no sense. */
export function readable(text: string): SessionRecord | undefined {
  try {
    return parseRecord(text);
  } catch {
    return undefined;
  }
}

/** What is wrong with one that is not {@link readable}. */
export function faultOf(text: string): string | undefined {
  try {
    parseRecord(text);
  } catch (error) {
    return (error as Error).message;
  }
  return undefined;
}

/** Why something in a session's place is somebody else's to replace; `undefined` where it is only damaged. */
export function foreignness(text: string): string | undefined {
  if (text.startsWith('mcp-reprise:encrypted:')) return 'the session is encrypted (`encryptedStore`)';
  try {
    const value: unknown = JSON.parse(text);
    // It knows more of a session than this one would keep.
    if (isObject(value) && typeof value['v'] === 'number' && value['v'] > 1) return 'a later version of this library has written the session';
  } catch {
    // Damaged.
  }
  return undefined;
}

/** Checks what should be a record, as {@link parseRecord} does. */
export function checkRecord(value: unknown): SessionRecord {
  if (!isObject(value)) throw new TypeError('it is not an object');
  if (value['v'] !== 1) throw new TypeError(`its version is ${typeof value['v'] === 'number' ? value['v'] : 'unknown'}; this library reads version 1`);
  for (const [name, valid] of Object.entries(CHECKS)) {
    if (!valid(value[name])) throw new TypeError(`its field "${name}" makes no sense`);
  }
  return value as unknown as SessionRecord;
}

const isTime = (value: unknown): boolean => typeof value === 'number' && Number.isFinite(value) && value >= 0;
const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;
const optional = (check: (value: unknown) => boolean) => (value: unknown) => value === undefined || check(value);

const CHECKS: Readonly<Record<string, (value: unknown) => boolean>> = {
  id: isSessionId,
  url: (value) => typeof value === 'string' && URL.canParse(value),
  query: optional((value) => typeof value === 'string'),
  name: optional((value) => typeof value === 'string'),
  principal: optional((value) => typeof value === 'string'),
  capabilities: isObject,
  initialized: isInitializeResult,
  createdAt: isTime,
  lastUsedAt: isTime,
  expiresAt: (value) => value === null || isTime(value),
  ttl: optional((value) => value === null || (isTime(value) && value !== 0)),
  subscriptions: (value) => Array.isArray(value) && value.every((uri) => typeof uri === 'string'),
  logLevel: optional((value) => typeof value === 'string'),
  cursor: optional((value) => typeof value === 'string' && value.length <= 1024 && /^[\x20-\x7e\x80-\uffff]+$/.test(value)),
  metadata: optional(isObject),
  data: optional(isObject),
  calls: optional((value) => isObject(value) && Object.values(value).every(isCount)),
  cache: optional(isObject),
};

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
