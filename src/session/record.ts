import type { InitializeRequest, InitializeResult } from '@modelcontextprotocol/sdk/types.js';

/** A session as it is stored: everything that another process needs to go on with it. */
export interface SessionRecord {
  readonly v: 1;
  /** The `Mcp-Session-Id`: whoever has it can act as this client. */
  readonly id: string;
  /** Origin and path of the server that minted the id; it is sent nowhere else. */
  readonly url: string;
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
  /** Resource URIs, restored on a new session. */
  readonly subscriptions: readonly string[];
  readonly logLevel?: string;
  /** The newest event id of the server-to-client stream. */
  readonly cursor?: string;
  readonly metadata?: Readonly<Record<string, unknown>>;
  /** What the layers above know of this session's server and want the next process to know. It ends with the session. */
  readonly cache?: Readonly<Record<string, unknown>>;
}

/** Printable ASCII, as the spec asks (2025-11-25, Transports, Session Management), and of a length that a header can carry. */
export function isSessionId(value: unknown): value is string {
  return typeof value === 'string' && /^[\x21-\x7e]{1,1024}$/.test(value);
}

/** What a later process relies on. The SDK's own schema has the last word when the client connects. */
export function isInitializeResult(value: unknown): value is InitializeResult {
  return (
    isObject(value) &&
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
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new TypeError('it is not JSON');
  }
  if (!isObject(value)) throw new TypeError('it is not an object');
  if (value['v'] !== 1) throw new TypeError(`its version is ${typeof value['v'] === 'number' ? value['v'] : 'unknown'}; this library reads version 1`);
  for (const [name, valid] of Object.entries(CHECKS)) {
    if (!valid(value[name])) throw new TypeError(`its field "${name}" makes no sense`);
  }
  return value as unknown as SessionRecord;
}

const isTime = (value: unknown): boolean => typeof value === 'number' && Number.isFinite(value) && value >= 0;
const optional = (check: (value: unknown) => boolean) => (value: unknown) => value === undefined || check(value);

const CHECKS: Readonly<Record<string, (value: unknown) => boolean>> = {
  id: isSessionId,
  url: (value) => typeof value === 'string' && URL.canParse(value),
  principal: optional((value) => typeof value === 'string'),
  capabilities: isObject,
  initialized: isInitializeResult,
  createdAt: isTime,
  lastUsedAt: isTime,
  expiresAt: (value) => value === null || isTime(value),
  subscriptions: (value) => Array.isArray(value) && value.every((uri) => typeof uri === 'string'),
  logLevel: optional((value) => typeof value === 'string'),
  cursor: optional((value) => typeof value === 'string' && value.length <= 1024 && /^[\x20-\x7e\x80-\uffff]+$/.test(value)),
  metadata: optional(isObject),
  cache: optional(isObject),
};

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
