import type { JSONRPCErrorResponse } from '@modelcontextprotocol/sdk/types.js';
import { redacted, redactedData } from '../redact.ts';
import { parseMessage } from './messages.ts';

/** What an HTTP answer that is not 2xx says, read once, in one place. */
export interface HttpFailure {
  readonly status: number;
  /**
   * - `session-lost`: the server does not know the session id that the request carried.
   * - `unauthorized`: 401, and OAuth did not help.
   * - `busy`: 429; it did not run and may be sent again after `retryAfter`.
   * - `refused`: the server understood and said no; it did not run.
   * - `unknown`: the status proves nothing about whether it ran (5xx, 408).
   */
  readonly verdict: 'session-lost' | 'unauthorized' | 'busy' | 'refused' | 'unknown';
  /** `Retry-After` in milliseconds. */
  readonly retryAfter: number | undefined;
  /** A JSON-RPC error in the body, without secrets too. It is an answer if its id is that of a request that was sent. */
  readonly error: JSONRPCErrorResponse | undefined;
  /** What the server wrote, shortened, for the error text. Secrets that the request carried are taken out. */
  readonly text: string;
}

export interface FailureInput {
  readonly status: number;
  readonly body: string;
  readonly header: (name: string) => string | undefined;
  /** The session id that the request carried. Without one no answer means "session gone". */
  readonly sessionId: string | undefined;
  /** What else the request carried and no error may repeat: the session id, tokens, the user's headers. */
  readonly secrets?: readonly string[];
  /** A browser may have hidden the session id that the server gave. */
  readonly hidden?: boolean | undefined;
  readonly now?: number;
}

export function readHttpFailure({ status, body, header, sessionId, secrets: others = [], hidden, now = Date.now() }: FailureInput): HttpFailure {
  const secrets = sessionId === undefined ? others : [sessionId, ...others];
  const message = parseMessage(body);
  const error = message && 'error' in message ? message : undefined;
  return {
    status,
    verdict: verdictOf(status, body, error, sessionId),
    retryAfter: parseRetryAfter(header('retry-after'), now),
    error: error && { ...error, error: redactedData(error.error, secrets) },
    text: describe(body, secrets) + (hidden && sessionId === undefined && MISSES_SESSION.test(body) ? HIDDEN : ''),
  };
}

function verdictOf(status: number, body: string, error: JSONRPCErrorResponse | undefined, sessionId: string | undefined): HttpFailure['verdict'] {
  // "No such method", "wrong parameters": whoever says that has looked at the request, and so knew the session.
  const hasId = error?.id !== undefined && error.id !== null;
  const looked = hasId && (error.error.code === -32601 || error.error.code === -32602);
  if (sessionId !== undefined && !looked && saysSessionLost(status, body, error)) return 'session-lost';
  if (status === 401) return 'unauthorized';
  if (status === 429) return 'busy';
  // A proxy's 408 and every 5xx can come after the server began to work.
  if (status >= 500 || status === 408) return 'unknown';
  // The answer to a request that was processed is elsewhere (RFC 9110 §15.4.4).
  if (status === 303) return 'unknown';
  return 'refused';
}

/**
 * The dialects in which real servers say that a session is gone. The spec knows only 404 (2025-11-25, Transports, Session
 * Management); the other statuses count only when their words are about the session.
 */
function saysSessionLost(status: number, body: string, error: JSONRPCErrorResponse | undefined): boolean {
  switch (status) {
    case 404:
    case 410:
      return true;
    case 400:
      // "No valid session ID provided" (server-everything), "Server not initialized" (an SDK server after a restart),
      // "Unknown Mcp-Session-Id header", and −32022: the server moved to 2026-07-28, which has no sessions.
      return LOST_SESSION.test(body) || NOT_INITIALIZED.test(body) || MOVED_ON.test(body);
    case 401:
    case 403:
    case 503:
      // A login that has expired has a session too, and so has a backend that broke off: only the plain words count.
      return PLAIN_WORDS.test(error?.error.message ?? body);
    default:
      return false;
  }
}

const MISSES_SESSION = /session|not initialized/i;
const HIDDEN = '. If it did give a session id, the browser hides that from this page: the server must send `Access-Control-Expose-Headers: Mcp-Session-Id`';

const SESSION = /\bsession(?:[-_ ]?ids?)?\b/.source;
const LOST_SESSION = new RegExp(
  String.raw`\b(no valid|not valid|invalid|unknown|expired|missing|no such|unrecognized)\b[^".]{0,20}${SESSION}|` +
    String.raw`${SESSION}[^".]{0,40}\b(not found|not valid|invalid|unknown|expired|terminated|closed|gone|does not exist|not exist|required)\b`,
  'i',
);
const PLAIN_WORDS = /^\s*(unauthorized: |forbidden: |invalid request: |bad request: )?(mcp[- ])?session(?:[-_ ]?id)? (not found|unknown|invalid|expired|terminated|does not exist)( on this \w+)?[.!]?\s*$|^\s*no such session[.!]?\s*$/i;
const NOT_INITIALIZED = /server not initialized/i;
const MOVED_ON = /"code"\s*:\s*-32022\b/;

/** The three forms of an HTTP date (RFC 9110 §5.6.7) begin with the day of the week; `Date.parse` alone sees a date in almost anything. */
const HTTP_DATE = /^(mon|tue|wed|thu|fri|sat|sun)[a-z]*,? .*\d\d:\d\d:\d\d/i;

/** `Retry-After` as milliseconds from now: seconds or an HTTP date (RFC 9110 §10.2.3); nonsense is no hint. */
export function parseRetryAfter(value: string | undefined, now: number): number | undefined {
  const text = value?.trim() ?? '';
  if (/^\d{1,15}(\.\d+)?$/.test(text)) return Number(text) * 1000;
  if (!HTTP_DATE.test(text)) return undefined;
  // The form without a time zone is in GMT too.
  const date = Date.parse(/gmt|utc|[+-]\d{4}$/i.test(text) ? text : `${text} GMT`);
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}

const LONGEST_TEXT = 300;

function describe(body: string, secrets: readonly string[]): string {
  if (/^\s*<(!doctype|html)/i.test(body)) return 'a page of HTML';
  const said = /"message"\s*:\s*"((?:[^"\\]|\\.){1,1000})"/.exec(body)?.[1] ?? body;
  const oneLine = redacted(said, secrets).replace(/\s+/g, ' ').trim();
  return oneLine.length > LONGEST_TEXT ? `${oneLine.slice(0, LONGEST_TEXT)}…` : oneLine;
}
