/**
 * What became of a call that failed.
 *
 * - `not-sent`: nothing reached the server; the call can be made again.
 * - `refused`: the server said no before running it; it did not run.
 * - `unknown`: it was sent and no answer came; it may or may not have run.
 */
export type FailedOutcome = 'not-sent' | 'refused' | 'unknown';

export interface ErrorDetails {
  readonly cause?: unknown;
}

/**
 * The base of every error that this library makes. Errors that a server answers with (the SDK's `McpError`), the SDK's own
 * `UnauthorizedError`, and the `TypeError` or `RangeError` for bad input are not of this class.
 */
export abstract class RepriseError extends Error {
  /** A stable name for programs: `'OUTCOME_UNKNOWN'`, `'UNREACHABLE'`, … */
  abstract readonly code: string;
  /** What became of the call, where the error belongs to a call. */
  abstract readonly outcome: FailedOutcome | undefined;

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
  }
}

/** The call was sent, and nobody can know whether it ran: its connection ended without an answer and cannot be resumed. */
export class OutcomeUnknownError extends RepriseError {
  readonly code = 'OUTCOME_UNKNOWN';
  readonly outcome = 'unknown';
}

/** The server could not be reached; nothing was sent. */
export class UnreachableError extends RepriseError {
  readonly code = 'UNREACHABLE';
  readonly outcome = 'not-sent';
  /** Trying again will not help: there is no such command, no TLS on that port, or a certificate that cannot be trusted. */
  readonly permanent: boolean;
  /** How long the server asked to wait (its `Retry-After`), in milliseconds. */
  readonly retryAfter: number | undefined;

  constructor(message: string, details: ErrorDetails & { permanent?: boolean | undefined; retryAfter?: number | undefined } = {}) {
    super(message, details);
    this.permanent = details.permanent ?? false;
    this.retryAfter = details.retryAfter;
  }
}

/** The server refused the request with an HTTP status, so the call did not run. */
export class RefusedError extends RepriseError {
  readonly code = 'REFUSED';
  readonly outcome = 'refused';
  /** The HTTP status. */
  readonly status: number;
  /** How long the server asked to wait (its `Retry-After`), in milliseconds. */
  readonly retryAfter: number | undefined;

  constructor(message: string, details: ErrorDetails & { status: number; retryAfter?: number | undefined }) {
    super(message, details);
    this.status = details.status;
    this.retryAfter = details.retryAfter;
  }
}

/** The server no longer knows the session, and the call was not (or not again) replayed on a new one. It did not run. */
export class SessionLostError extends RepriseError {
  readonly code = 'SESSION_LOST';
  readonly outcome = 'refused';
}

/** The call's own deadline passed. */
export class DeadlineError extends RepriseError {
  readonly code = 'DEADLINE';
  readonly outcome: FailedOutcome;
  /** The limit that passed, in milliseconds. */
  readonly timeout: number;

  constructor(message: string, details: ErrorDetails & { outcome: FailedOutcome; timeout: number }) {
    super(message, details);
    this.outcome = details.outcome;
    this.timeout = details.timeout;
  }
}

/** The client was closed, or was never connected. */
export class ClosedError extends RepriseError {
  readonly code = 'CLOSED';
  readonly outcome: FailedOutcome;

  constructor(message: string, details: ErrorDetails & { outcome: FailedOutcome }) {
    super(message, details);
    this.outcome = details.outcome;
  }
}

/** The server broke the protocol: a session id that makes no sense, an answer that cannot be read, a limit passed. */
export class BadServerError extends RepriseError {
  readonly code = 'BAD_SERVER';
  readonly outcome: FailedOutcome;

  constructor(message: string, details: ErrorDetails & { outcome: FailedOutcome }) {
    super(message, details);
    this.outcome = details.outcome;
  }
}

/** A store failed. No call fails for it: the client goes on without the store and says so in one `warning`. */
export class StoreError extends RepriseError {
  readonly code: string = 'STORE';
  readonly outcome = undefined;
}

/** A compare-and-set found another revision than the expected one; nothing was written. */
export class ConflictError extends StoreError {
  override readonly code = 'CONFLICT';
}

/** What happened. What became of the call, and what to do now, is for whoever gets the error in the end. */
export function firstSentence({ message }: Error): string {
  return message.split(/(?<=[.)]) (?=[A-Z])/, 1)[0] ?? message;
}
