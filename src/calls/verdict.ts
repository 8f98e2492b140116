import { OutcomeUnknownError, RateLimitedError, RefusedError, RepriseError, SessionLostError, UnreachableError } from '../errors.ts';

/**
 * What is known of an attempt.
 *
 * - `answered`: any result of the server, `isError` and most JSON-RPC errors among them
 * - `not-sent`: no byte of it reached the server
 * - `never`: it was not sent and cannot be, however often it is tried
 * - `busy`: the server refused it for now (429)
 * - `lost`: the server refused it because it forgot the session
 * - `refused`: the server refused it for good
 * - `unknown`: it was sent and no answer came
 * - `ended`: the client, its user or its deadline ended it, or the server broke the protocol
 */
export type Outcome = 'answered' | 'not-sent' | 'never' | 'busy' | 'lost' | 'refused' | 'unknown' | 'ended';

/** All that decides what happens next. */
export interface Situation {
  readonly outcome: Outcome;
  /** An event id was seen, so that the stream of the answer can be taken up again. */
  readonly resumable: boolean;
  /** The call may be repeated. */
  readonly safe: boolean;
  /** How many attempts were made, this one included, and how often it may be sent again. */
  readonly attempt: number;
  readonly retries: number;
  /** How long the server asks to wait (`Retry-After`), in ms; 0 where it does not. */
  readonly wait: number;
  /** The time until the deadline, in ms. */
  readonly timeLeft: number;
  /** The retry budget has something left. */
  readonly budget: boolean;
}

/**
 * - `hand-over`: the caller gets it as it is.
 * - `resume`: the stream of the answer is taken up where it broke off, under the same request id.
 * - `again`: it is sent again after a backoff, under a new request id.
 * - `park`: it waits until the server is heard of again, and adds nothing to the traffic until then.
 * - `fail`: the caller gets the error.
 */
type Next = 'hand-over' | 'resume' | 'again' | 'park' | 'fail';

export interface Verdict {
  readonly next: Next;
  readonly because: string;
}

interface Row extends Verdict {
  readonly if: (situation: Situation) => boolean;
}

const is =
  (...outcomes: readonly Outcome[]) =>
  ({ outcome }: Situation): boolean =>
    outcomes.includes(outcome);

/**
 * What happens after an attempt, and why. The one place that decides it; the first row that fits holds.
 *
 * A stream that breaks while its call is waited for is resumed below, by the session, for as long as that can be done: of those calls
 * none gets here. The row `resume` is for the durable ones, which are taken up again by another call or another process.
 */
export const VERDICTS: readonly Row[] = [
  { if: is('answered'), next: 'hand-over', because: 'an answer is an answer, an error too' },
  { if: is('ended'), next: 'fail', because: 'it was given up here, or the server broke the protocol: nothing says that another attempt would fare better' },
  { if: is('never'), next: 'fail', because: 'it was not sent, and cannot be: no such command, no TLS there, no trust' },
  { if: is('refused'), next: 'fail', because: 'the same request would be refused again' },
  { if: is('lost'), next: 'fail', because: 'the session has replayed it already, or the user asked to be told' },
  { if: (its) => its.outcome === 'unknown' && its.resumable, next: 'resume', because: 'it runs, or ran, and its answer can still be had' },
  { if: (its) => its.outcome === 'unknown' && !its.safe, next: 'fail', because: 'it may have run, and once more is harmless only for what may be repeated' },
  // From here on: not-sent, busy, or unknown and safe.
  { if: (its) => its.attempt > its.retries, next: 'fail', because: 'it was sent as often as the user allows' },
  { if: (its) => its.timeLeft <= 0 || its.wait > its.timeLeft, next: 'fail', because: 'there is no time for another attempt' },
  { if: (its) => its.outcome === 'not-sent' && !its.budget, next: 'park', because: 'so many calls find nobody there that one of them is enough to ask' },
  { if: (its) => !its.budget, next: 'fail', because: 'so many calls are sent again that the server would be buried under them' },
  { if: is('not-sent'), next: 'again', because: 'no byte of it reached the server' },
  { if: is('busy'), next: 'again', because: 'a server that answers 429 has not run it' },
  { if: is('unknown'), next: 'again', because: 'it may have run, and may be repeated' },
];

export function verdictOn(situation: Situation): Verdict {
  return VERDICTS.find((row) => row.if(situation)) as Row;
}

/**
 * Where an error arose says what became of the attempt; its number or text never does. (−32001 is the SDK's timeout, many a server's
 * lost session, and free for any use.)
 */
export function outcomeOf(error: unknown): Outcome {
  if (!(error instanceof RepriseError)) return isRefusal(error) ? 'refused' : isAnswer(error) ? 'answered' : 'ended';
  if (error instanceof SessionLostError) return 'lost';
  if (error instanceof UnreachableError) return error.permanent ? 'never' : 'not-sent';
  if (error instanceof RateLimitedError) return error.outcome === 'refused' ? 'busy' : 'ended';
  if (error instanceof RefusedError) return 'refused';
  if (error instanceof OutcomeUnknownError) return 'unknown';
  return 'ended';
}

/** This device has no network: that says nothing of the server. */
export function isOfflineError(error: unknown): boolean {
  for (let each = error; each instanceof Error; each = each.cause) {
    if ((each as { code?: unknown }).code === 'ERR_OFFLINE') return true;
  }
  return false;
}

/** An error that comes of an answer: the server's own, or a schema's that the answer does not fit. Anything else was thrown here. */
function isAnswer(error: unknown): boolean {
  return error instanceof Error && (typeof (error as { code?: unknown }).code === 'number' || 'issues' in error);
}

/** The errors by which JSON-RPC says that a request was not run: no JSON, no request, no such method, no such parameters. */
const REFUSALS: ReadonlySet<unknown> = new Set([-32700, -32600, -32601, -32602]);

/** An error that the server answered with, which says that the call did not run. */
export function isRefusal(error: unknown): boolean {
  return error instanceof Error && !(error instanceof RepriseError) && REFUSALS.has((error as { code?: unknown }).code);
}

/** What may be repeated: an allow-list, what is on neither part of it is not safe. */
const SHARED_METHODS: ReadonlySet<string> = new Set([
  'completion/complete',
  'prompts/get',
  'prompts/list',
  'resources/list',
  'resources/read',
  'resources/templates/list',
  'tasks/get',
  'tasks/list',
  'tools/list',
]);

/**
 * Of what may be repeated, this is not shared by callers that ask for the same at the same time: of "debug, info, debug" the last must not
 * be taken for the first.
 */
const SINGLE_METHODS: ReadonlySet<string> = new Set(['initialize', 'logging/setLevel', 'ping', 'resources/subscribe', 'resources/unsubscribe', 'tasks/result']);

export function isSafeMethod(method: string): boolean {
  return SHARED_METHODS.has(method) || SINGLE_METHODS.has(method);
}

/** Whether one answer does for all who ask for it at the same time. */
export function isShared(method: string): boolean {
  return SHARED_METHODS.has(method);
}
