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
  /** What became of the call, and what to do now: what the message says after its reason. */
  readonly advice?: string | undefined;
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
  /** What happened, without what became of the call and what to do. */
  readonly reason: string;

  constructor(reason: string, { cause, advice }: ErrorDetails = {}) {
    super(advice === undefined ? reason : `${reason} ${advice}`, cause === undefined ? undefined : { cause });
    this.reason = reason;
  }
}

/** The call was sent, and nobody can know whether it ran: its connection ended without an answer and cannot be resumed. */
export class OutcomeUnknownError extends RepriseError {
  readonly code = 'OUTCOME_UNKNOWN';
  readonly outcome = 'unknown';
  /** How long the server asked to wait (the `Retry-After` of a 503), in milliseconds. */
  readonly retryAfter: number | undefined;

  constructor(reason: string, details: ErrorDetails & { retryAfter?: number | undefined } = {}) {
    super(reason, details);
    this.retryAfter = details.retryAfter;
  }
}

/** The server could not be reached; nothing was sent. */
export class UnreachableError extends RepriseError {
  readonly code = 'UNREACHABLE';
  readonly outcome = 'not-sent';
  /** Trying again will not help: there is no such command, no TLS on that port, or a certificate that cannot be trusted. */
  readonly permanent: boolean;
  /** How long the server asked to wait (its `Retry-After`), in milliseconds. */
  readonly retryAfter: number | undefined;

  constructor(reason: string, details: ErrorDetails & { permanent?: boolean | undefined; retryAfter?: number | undefined } = {}) {
    super(reason, details);
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

  constructor(reason: string, details: ErrorDetails & { status: number; retryAfter?: number | undefined }) {
    super(reason, details);
    this.status = details.status;
    this.retryAfter = details.retryAfter;
  }
}

/**
 * Too many requests: the server said so (429, `outcome` is `'refused'`), or `rateLimit` would not let the call out before its deadline
 * (`'not-sent'`). It did not run.
 */
export class RateLimitedError extends RepriseError {
  readonly code = 'RATE_LIMITED';
  readonly outcome: 'not-sent' | 'refused';
  /** How long to wait, in milliseconds: the server's `Retry-After`, or the time until `rateLimit` lets it out. */
  readonly retryAfter: number | undefined;

  constructor(reason: string, details: ErrorDetails & { outcome: 'not-sent' | 'refused'; retryAfter?: number | undefined }) {
    super(reason, details);
    this.outcome = details.outcome;
    this.retryAfter = details.retryAfter;
  }
}

/** The circuit is open: the server could not be reached several times in a row, and calls fail at once until a ping finds it again. */
export class CircuitOpenError extends RepriseError {
  readonly code = 'CIRCUIT_OPEN';
  readonly outcome = 'not-sent';
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

  constructor(reason: string, details: ErrorDetails & { outcome: FailedOutcome; timeout: number }) {
    super(reason, details);
    this.outcome = details.outcome;
    this.timeout = details.timeout;
  }
}

/** The client was closed, or was never connected. */
export class ClosedError extends RepriseError {
  readonly code = 'CLOSED';
  readonly outcome: FailedOutcome;

  constructor(reason: string, details: ErrorDetails & { outcome: FailedOutcome }) {
    super(reason, details);
    this.outcome = details.outcome;
  }
}

/** The server broke the protocol: a session id that makes no sense, an answer that cannot be read, a limit passed. */
export class BadServerError extends RepriseError {
  readonly code = 'BAD_SERVER';
  readonly outcome: FailedOutcome;

  constructor(reason: string, details: ErrorDetails & { outcome: FailedOutcome }) {
    super(reason, details);
    this.outcome = details.outcome;
  }
}

/**
 * A store failed. No call fails for it: the client goes on without the store and says so in one `warning`. The exception is a durable
 * call (`callId`) that could not be noted: it is not sent, because it could run twice.
 */
export class StoreError extends RepriseError {
  readonly code: string = 'STORE';
  readonly outcome: FailedOutcome | undefined;

  constructor(reason: string, details: ErrorDetails & { outcome?: FailedOutcome | undefined } = {}) {
    super(reason, details);
    this.outcome = details.outcome;
  }
}

/** A compare-and-set found another revision than the expected one; nothing was written. */
export class ConflictError extends StoreError {
  override readonly code = 'CONFLICT';
}

named({
  RepriseError,
  OutcomeUnknownError,
  UnreachableError,
  RefusedError,
  RateLimitedError,
  CircuitOpenError,
  SessionLostError,
  DeadlineError,
  ClosedError,
  BadServerError,
  StoreError,
  ConflictError,
});

/**
 * Gives classes and their errors names that no bundler changes. On the prototype, because there an engine looks when it writes the first
 * line of a stack; and on the class, because Node prints that of an error that nobody caught.
 */
export function named(classes: Readonly<Record<string, { readonly prototype: Error }>>): void {
  for (const [value, each] of Object.entries(classes)) {
    for (const place of [each, each.prototype]) Object.defineProperty(place, 'name', { value, writable: true });
  }
}

/** What happened, by an error from anywhere. */
export function reasonOf(error: Error): string {
  return error instanceof RepriseError ? error.reason : error.message;
}
