import { RefusedError, RepriseError, SessionLostError, UnreachableError } from '../errors.ts';

/** What is known of a failed attempt. `other`: an answer of the server, or an error that is none of ours. */
export type Outcome = 'not-sent' | 'never' | 'busy' | 'lost' | 'refused' | 'unknown' | 'other';

export type Verdict = 'again' | 'fail';

/**
 * What may be sent again, and why. The one place that decides it.
 *
 * A broken stream with an event id never gets here: the session resumes it, under the same request id.
 */
export const VERDICTS: Readonly<Record<Outcome, { readonly safe: Verdict; readonly unsafe: Verdict; readonly because: string }>> = {
  'not-sent': { safe: 'again', unsafe: 'again', because: 'no byte of it reached the server' },
  busy: { safe: 'again', unsafe: 'again', because: 'a server that answers 429 has not run it' },
  lost: { safe: 'fail', unsafe: 'fail', because: 'it was replayed on a new session already, or the user asked to be told' },
  refused: { safe: 'fail', unsafe: 'fail', because: 'the same request would be refused again' },
  never: { safe: 'fail', unsafe: 'fail', because: 'it was not sent, and cannot be: no such command, no TLS there, no trust' },
  unknown: { safe: 'again', unsafe: 'fail', because: 'it may have run: once more is harmless only for what may be repeated' },
  other: { safe: 'fail', unsafe: 'fail', because: 'an answer is an answer' },
};

/** Where an error arose says what became of the attempt; its number or text never does. */
export function outcomeOf(error: unknown): Outcome {
  if (!(error instanceof RepriseError)) return 'other';
  if (error.code === 'CLOSED' || error.code === 'DEADLINE' || error.code === 'BAD_SERVER') return 'other';
  if (error instanceof SessionLostError) return 'lost';
  if (error instanceof UnreachableError) return error.permanent ? 'never' : 'not-sent';
  if (error instanceof RefusedError) return error.status === 429 ? 'busy' : 'refused';
  return error.outcome ?? 'other';
}

/** The requests that only look, or that set what is the same when set twice (an allow-list: what is not on it is not safe). */
const SAFE_METHODS: ReadonlySet<string> = new Set([
  'initialize',
  'ping',
  'completion/complete',
  'logging/setLevel',
  'prompts/get',
  'prompts/list',
  'resources/list',
  'resources/read',
  'resources/subscribe',
  'resources/templates/list',
  'resources/unsubscribe',
  'tasks/get',
  'tasks/list',
  'tasks/result',
  'tools/list',
]);

export function isSafeMethod(method: string): boolean {
  return SAFE_METHODS.has(method);
}
