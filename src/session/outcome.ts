import { hintOf } from '#platform';
import { BadServerError, DeadlineError, OutcomeUnknownError, RateLimitedError, RefusedError, RepriseError, SessionLostError, UnreachableError } from '../errors.ts';
import type { JSONRPCErrorResponse, JSONRPCRequest } from '@modelcontextprotocol/sdk/types.js';
import type { HttpFailure } from '../links/http-failure.ts';
import type { Ending } from '../links/link.ts';
import { isPermanent } from '../links/requester.ts';

/** The error for a request whose exchange ended without its answer. `what` names it: `tools/call "search"`. */
export function errorOf(ending: Ending, what: string): Error {
  switch (ending.type) {
    case 'not-sent':
      return new UnreachableError(`The server could not be reached (${oneLine(ending.error)}).`, {
        advice: `${what} was not sent; it can be made again.`,
        cause: ending.error,
        permanent: ending.permanent,
      });
    case 'denied':
      return ending.error;
    case 'refused':
      return refusal(ending.failure, what);
    case 'accepted':
      return unknown(`The server took ${what} with 202 and will send no answer, which a request must have`);
    case 'ended':
      return unknown(`The server ended its answer to ${what} without the answer in it, and gave no event id to resume from`);
    case 'unreadable':
      return unknown(`The server's answer to ${what} cannot be read (${oneLine(ending.error)})`, ending.error);
    case 'cut':
      return unknown(`The connection broke off before ${what} was answered (${oneLine(ending.error)})`, ending.error);
    case 'aborted':
      return unknown(`${what} was given up`);
  }
}

function unknown(happened: string, cause?: unknown, retryAfter?: number): OutcomeUnknownError {
  return new OutcomeUnknownError(`${happened}.`, { advice: 'It may or may not have run: look before you call it again.', cause, retryAfter });
}

function refusal(failure: HttpFailure, what: string): Error {
  const { status, verdict, retryAfter, text } = failure;
  const said = text ? `${status} (${text})` : `${status}`;
  switch (verdict) {
    case 'session-lost':
      return new SessionLostError(`The server no longer knows the session: it answered ${said}.`, { advice: `${what} did not run.` });
    case 'unauthorized':
      return new RefusedError(`The server asks for authorization: it answered ${said}.`, {
        advice: `${what} did not run. Give an \`authProvider\`, or an Authorization header in \`headers\`.`,
        status,
        retryAfter,
      });
    case 'busy':
      return new RateLimitedError(`The server has too many requests: it answered ${said}.`, {
        advice: `${what} did not run; it can be made again${retryAfter === undefined ? '' : ` after ${Math.round(retryAfter)} ms`}.`,
        outcome: 'refused',
        retryAfter,
      });
    case 'refused':
      return new RefusedError(`The server refused ${what}: it answered ${said}.`, { advice: 'It did not run.', status, retryAfter });
    case 'unknown':
      return unknown(`The server, or something before it, answered ${what} with ${said}`, undefined, retryAfter);
  }
}

/**
 * The error for a handshake that ended without a session. Whatever became of it, no call was sent. `where` names the server; `pipe`
 * tells a process or socket of its own, which is not there to be asked again when it is gone.
 */
export function handshakeError(ending: Ending, where: string, pipe: boolean): Error {
  switch (ending.type) {
    case 'denied':
      return ending.error;
    case 'refused':
      return handshakeRefusal(ending.failure, where);
    case 'ended':
    case 'accepted':
      return badServer(`${where} took initialize and gave no answer`);
    case 'unreadable':
      return badServer(`${where} does not speak MCP there: ${oneLine(ending.error)}`);
    case 'not-sent':
      return unreachable(`${where} could not be reached`, ending.error, ending.permanent);
    case 'cut':
      return unreachable(`${where} was there, but the connection broke off during the handshake`, ending.error, pipe || isPermanent(ending.error));
    case 'aborted':
      return new UnreachableError(`The handshake with ${where} was given up.`, { permanent: true });
  }
}

function unreachable(happened: string, cause: Error, permanent: boolean | undefined): UnreachableError {
  return new UnreachableError(`${happened}: ${oneLine(cause)}.`, { advice: `No call was sent.${hintOf(cause)}`, cause, permanent });
}

function handshakeRefusal(failure: HttpFailure, where: string): Error {
  const { status, retryAfter, text } = failure;
  const said = text ? `${status} (${text})` : `${status}`;
  // What stands before a server that is not up yet.
  if (status === 502 || status === 503 || status === 504) return new UnreachableError(`${where} is not there yet: something before it answered ${said}.`, { retryAfter });
  const reason = `${where} refused the handshake: it answered ${said}.`;
  if (status === 429) return new RateLimitedError(reason, { outcome: 'refused', retryAfter });
  const advice =
    status === 401
      ? 'Give an `authProvider`, or an Authorization header in `headers`.'
      : status === 404 || status === 405
        ? 'Is the path right? That of an MCP endpoint often ends in /mcp.'
        : undefined;
  return new RefusedError(reason, { status, retryAfter, advice, cause: failure.error && saidBy({ ...failure.error.error, message: text }) });
}

/** The message of an error that may come from anywhere, fit to stand in a sentence. */
function oneLine({ message }: Error): string {
  return message.replace(/\s+/g, ' ').trim().replace(/\.$/, '');
}

/** For a call that waited for a handshake which failed: whatever became of the handshake, the call itself was not sent. */
export function notSentBecause(error: unknown, what: string): Error {
  const passes = !(error instanceof RepriseError) || (error.outcome !== 'unknown' && !(error instanceof DeadlineError));
  if (passes) return error as Error;
  return new UnreachableError(`There is no session, so ${what} was not sent: ${error.message}`, { cause: error });
}

/** A request of our own, part of a handshake, took too long. */
export function late(what: string, timeout: number): DeadlineError {
  const ms = Math.round(timeout);
  return new DeadlineError(`The server did not answer ${what} within ${ms} ms (timeout.connect).`, { outcome: 'not-sent', timeout: ms });
}

export function badServer(message: string): BadServerError {
  return new BadServerError(`${message}.`, { advice: 'This is a fault of the server.', outcome: 'refused' });
}

/** The error for a server that answers a request of our own with one. */
export function answeredByError(method: string, error: ServerError): BadServerError {
  const { data } = error;
  const supported = (data as { supported?: unknown } | undefined)?.supported;
  const versions = error.code === UNSUPPORTED_VERSION && Array.isArray(supported) ? supported.map(String).join(', ') : undefined;
  const reason = versions ? `The server speaks none of our versions of the protocol; it speaks ${versions}.` : `The server answered ${method} with an error: ${error.message}.`;
  return new BadServerError(reason, { outcome: 'refused', cause: saidBy(error) });
}

/** The versions that a server says it speaks, where it refused the handshake for ours (2026-07-28, UnsupportedProtocolVersion). */
export function supportedVersions(error: unknown): readonly string[] {
  for (let each = error; each instanceof Error; each = each.cause) {
    const { code, data } = each as { code?: unknown; data?: { supported?: unknown } };
    if (code === UNSUPPORTED_VERSION && Array.isArray(data?.supported)) return data.supported.map(String);
  }
  return [];
}

type ServerError = JSONRPCErrorResponse['error'];
const UNSUPPORTED_VERSION = -32022;

/** Of its data only what we read: the rest may repeat a secret. */
function saidBy({ code, message, data }: ServerError): Error {
  const { supported } = (data ?? {}) as { supported?: unknown };
  return Object.assign(new Error(message), { code, ...(supported === undefined ? {} : { data: { supported } }) });
}

/** Throws where a notification was not taken. */
export function ensureTaken(ending: Ending, what: string): void {
  if (ending.type !== 'accepted' && ending.type !== 'ended' && ending.type !== 'aborted') throw errorOf(ending, what);
}

/** A request's name in an error: its method and what it is about, never its arguments. */
export function describeRequest({ method, params }: Pick<JSONRPCRequest, 'method' | 'params'>): string {
  const name = params?.['name'];
  return typeof name === 'string' ? `${method} ${JSON.stringify(name.slice(0, 100))}` : method;
}
