import pRetry from 'p-retry';
import { firstSentence, OutcomeUnknownError, RefusedError, RepriseError, UnreachableError } from '../errors.ts';
import type { RetryOptions } from '../options.ts';
import { backoffDelay } from '../timers.ts';
import type { Deadline } from './deadline.ts';
import { outcomeOf, VERDICTS } from './verdict.ts';

export interface RetryContext {
  readonly deadline: Deadline;
  readonly safe: boolean;
  readonly retry: Required<RetryOptions> | false;
  onRetry(info: { attempt: number; delay: number; reason: string }): void;
}

/** Makes attempts until one succeeds, or the verdict on its failure is to let it be, or the deadline passes. */
export async function retrying<T>(attempt: () => Promise<T>, { deadline, safe, retry, onRetry }: RetryContext): Promise<T> {
  const once = async (): Promise<T> => {
    deadline.outcome = 'unknown';
    return attempt();
  };
  try {
    if (retry === false) return await once();
    return await pRetry(once, {
      retries: retry.retries,
      // The delay is ours (full jitter, Retry-After as a lower bound): p-retry adds none.
      minTimeout: 0,
      maxTimeout: 0,
      signal: deadline.signal,
      shouldRetry: async ({ error, attemptNumber }) => {
        const outcome = outcomeOf(error);
        if (VERDICTS[outcome][safe ? 'safe' : 'unsafe'] === 'fail') return false;
        deadline.mayHaveRun ||= outcome === 'unknown';
        deadline.outcome = deadline.mayHaveRun ? 'unknown' : 'not-sent';
        deadline.lastFailure = error;
        const asked = error instanceof RefusedError || error instanceof UnreachableError ? (error.retryAfter ?? 0) : 0;
        // Waiting would end in the deadline: better to say so now, while there is time to do something else (G5).
        if (asked > deadline.left) throw tooLate(error, asked, deadline.left);
        const delay = Math.max(asked, backoffDelay({ min: retry.minTimeout, max: retry.maxTimeout, factor: retry.factor, floor: 0 }, attemptNumber - 1));
        onRetry({ attempt: attemptNumber, delay: Math.round(delay), reason: firstSentence(error) });
        await deadline.pause(delay);
        return true;
      },
    });
  } catch (error) {
    deadline.throwIfOver();
    if (deadline.mayHaveRun && error instanceof RepriseError && error.outcome !== 'unknown') {
      throw new OutcomeUnknownError(`An earlier attempt was sent and may or may not have run. The last one failed: ${error.message}`, { cause: error });
    }
    throw error;
  }
}

function tooLate(error: Error, asked: number, left: number): Error {
  const message = `${error.message} The server asks to wait ${Math.round(asked)} ms, and the call has only ${Math.round(left)} ms left, so it was given up.`;
  if (error instanceof RefusedError) return new RefusedError(message, { status: error.status, retryAfter: error.retryAfter, cause: error });
  return new UnreachableError(message, { permanent: true, retryAfter: asked, cause: error });
}
