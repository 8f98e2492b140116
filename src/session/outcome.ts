import { BadServerError, DeadlineError, OutcomeUnknownError, RefusedError, RepriseError, SessionLostError, UnreachableError } from '../errors.ts';
import type { JSONRPCRequest } from '@modelcontextprotocol/sdk/types.js';
import type { HttpFailure } from '../links/http-failure.ts';
import type { Ending } from '../links/link.ts';

/** The error for a request whose exchange ended without its answer. `what` names it: `tools/call "search"`. */
export function errorOf(ending: Ending, what: string): Error {
  switch (ending.type) {
    case 'not-sent':
      return new UnreachableError(`The server could not be reached (${ending.error.message}). ${what} was not sent; it can be made again.`, { cause: ending.error });
    case 'denied':
      return ending.error;
    case 'refused':
      return refusal(ending.failure, what);
    case 'accepted':
      return unknown(`The server took ${what} with 202 and will send no answer, which a request must have`);
    case 'ended':
      return unknown(`The server ended its answer to ${what} without the answer in it, and gave no event id to resume from`);
    case 'cut':
      return unknown(`The connection broke off before ${what} was answered (${ending.error.message})`, ending.error);
    case 'aborted':
      return unknown(`${what} was given up`);
  }
}

function unknown(happened: string, cause?: unknown): OutcomeUnknownError {
  const advice = 'It may or may not have run: look before you call it again, or mark the call `safe` if it may be repeated.';
  return new OutcomeUnknownError(`${happened}. ${advice}`, cause === undefined ? {} : { cause });
}

function refusal(failure: HttpFailure, what: string): Error {
  const { status, verdict, retryAfter, text } = failure;
  const said = text ? `${status} (${text})` : `${status}`;
  switch (verdict) {
    case 'session-lost':
      return new SessionLostError(`The server no longer knows the session: it answered ${said}. ${what} did not run.`);
    case 'unauthorized':
      return new RefusedError(`The server asks for authorization: it answered ${said}. ${what} did not run. Give an \`authProvider\`, or an Authorization header in \`headers\`.`, { status, retryAfter });
    case 'busy':
      return new RefusedError(`The server is busy: it answered ${said}. ${what} did not run; it can be made again${retryAfter === undefined ? '' : ` after ${retryAfter} ms`}.`, { status, retryAfter });
    case 'refused':
      return new RefusedError(`The server refused ${what}: it answered ${said}. It did not run.`, { status, retryAfter });
    case 'unknown':
      return new OutcomeUnknownError(
        `The server, or something before it, answered ${what} with ${said}. It may or may not have run: look before you call it again, or mark the call \`safe\` if it may be repeated.`,
      );
  }
}

/** For a call that waited for a handshake which failed: whatever became of the handshake, the call itself was not sent. */
export function notSentBecause(error: unknown, what: string): Error {
  const passes = !(error instanceof RepriseError) || (error.outcome !== 'unknown' && !(error instanceof DeadlineError));
  if (passes) return error as Error;
  return new UnreachableError(`No session could be negotiated, so ${what} was not sent: ${error.message}`, { cause: error });
}

/** A request of our own, part of a handshake, took too long. */
export function late(what: string, timeout: number): DeadlineError {
  const ms = Math.round(timeout);
  return new DeadlineError(`The server did not answer ${what} within ${ms} ms (timeout.connect).`, { outcome: 'not-sent', timeout: ms });
}

export function badServer(message: string): BadServerError {
  return new BadServerError(`${message}. This is a fault of the server.`, { outcome: 'refused' });
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
