import pRetry from 'p-retry';
import { OutcomeUnknownError, RateLimitedError, reasonOf, RepriseError, UnreachableError } from '../errors.ts';
import type { RetryOptions } from '../options.ts';
import { backoffDelay, sleep } from '../timers.ts';
import type { Budget } from './buckets.ts';
import type { Flight } from './flight.ts';
import type { Reachability } from './reachability.ts';
import { nap } from '../wake.ts';
import { isOfflineError, outcomeOf, type Situation, verdictOn } from './verdict.ts';

/** How a call is sent again. */
export type Retry = Required<Omit<RetryOptions, 'budget'>> | false;

export interface RetryContext {
  readonly flight: Flight;
  readonly safe: boolean;
  readonly retry: Retry;
  readonly budget: Budget;
  readonly reachability: Reachability;
  /** `delay` is in ms; `Infinity`: until the server is heard of. */
  onRetry(info: { attempt: number; delay: number; reason: string }): void;
}

/** Makes attempts until one succeeds, or the verdict on its failure is to let it be, or nobody waits for the call any more. */
export async function retrying<T>(attempt: () => Promise<T>, { flight, safe, retry, budget, reachability, onRetry }: RetryContext): Promise<T> {
  let first: { readonly error: unknown } | undefined;
  try {
    return await attempt();
  } catch (error) {
    first = { error };
  }
  // Most calls are answered at once: p-retry begins with a failure.
  const again = (): Promise<T> => {
    if (!first) return attempt();
    const { error } = first;
    first = undefined;
    return Promise.reject(error);
  };
  /** Attempts that were none: the device had no network. */
  let offline = 0;
  const backoff = { min: 0, max: 0, factor: 1, ...(retry ? { min: retry.minTimeout, max: retry.maxTimeout, factor: retry.factor } : {}), floor: 0 };
  try {
    return await pRetry(again, {
      retries: Number.POSITIVE_INFINITY,
      // The delay is ours (full jitter, Retry-After as a lower bound): p-retry adds none.
      minTimeout: 0,
      maxTimeout: 0,
      shouldRetry: async ({ error, attemptNumber }) => {
        const outcome = outcomeOf(error);
        flight.note(outcome, error);
        if (retry && outcome === 'not-sent' && isOfflineError(error)) {
          if (offline++ === 0) onRetry({ attempt: attemptNumber, delay: Number.POSITIVE_INFINITY, reason: reasonOf(error) });
          await flight.wait('waited for the network', (signal) => nap(OFFLINE_LOOK, signal));
          return true;
        }
        const situation: Situation = {
          outcome,
          resumable: false,
          safe,
          attempt: attemptNumber - offline,
          retries: retry ? retry.retries : 0,
          wait: retryAfterOf(error),
          timeLeft: flight.left,
          // Where one call asks for the server on behalf of all, no token is spent on asking too.
          budget: budget.available && !(outcome === 'not-sent' && reachability.awaited),
        };
        const { next } = verdictOn(situation);
        if (next === 'park') {
          onRetry({ attempt: attemptNumber, delay: Number.POSITIVE_INFINITY, reason: reasonOf(error) });
          await flight.wait('waited for the server to come back', async (signal) => {
            // What the server asks for holds for the pings as well.
            if (situation.wait > 0) await sleep(situation.wait, signal);
            await reachability.park(signal);
          });
          return true;
        }
        // Its deadline is due, and says more; on a busy machine the failure may be heard of first.
        if (next === 'fail' && situation.timeLeft <= 0 && flight.wanted) await flight.wait('failed at its deadline', (signal) => sleep(0, signal));
        if (next !== 'again') throw explained(error, situation);
        budget.take();
        const delay = Math.max(situation.wait, backoffDelay(backoff, situation.attempt - 1));
        onRetry({ attempt: attemptNumber, delay: Math.round(delay), reason: reasonOf(error) });
        // Where nobody was there, news of the server ends the wait; what the server itself asks for is waited out.
        const early = outcome === 'not-sent' && situation.wait === 0;
        await flight.wait('waited for another attempt', (signal) => (early ? reachability.pause(delay, signal) : nap(delay, signal, situation.wait)));
        return true;
      },
    });
  } catch (error) {
    if (flight.mayHaveRun && error instanceof RepriseError && error.outcome !== 'unknown') {
      throw new OutcomeUnknownError('An earlier attempt was sent and may or may not have run.', { advice: `The last one failed: ${error.message}`, cause: error });
    }
    throw error;
  }
}

/** A device that says nothing when its network comes back is looked at again after this time, in ms. */
const OFFLINE_LOOK = 30_000;

function retryAfterOf(error: Error): number {
  return error instanceof RepriseError && 'retryAfter' in error && typeof error.retryAfter === 'number' ? error.retryAfter : 0;
}

/** The error of a call that is not sent again, with the reason for that where the user could not know it. */
function explained(error: Error, { outcome, safe, wait, timeLeft, attempt, retries, budget }: Situation): Error {
  if (outcome === 'unknown' && !safe) {
    const advice = 'It may or may not have run: look before you call it again, or mark the call `safe` if it may be repeated.';
    return new OutcomeUnknownError(reasonOf(error), { advice, cause: error.cause, ...(wait > 0 ? { retryAfter: wait } : {}) });
  }
  if (attempt > retries || timeLeft <= 0 || (outcome !== 'unknown' && outcome !== 'busy' && outcome !== 'not-sent')) return error;
  if (wait > timeLeft) return saying(error, `The server asks to wait ${Math.round(wait)} ms, and the call has only ${Math.round(timeLeft)} ms left, so it was given up.`);
  if (!budget) return saying(error, 'It was not sent again: the retry budget is empty, because too many calls fail (`retry.budget`).');
  return error;
}

function saying(error: Error, more: string): Error {
  const details = { advice: more, cause: error };
  if (error instanceof RateLimitedError) return new RateLimitedError(error.message, { ...details, outcome: error.outcome, retryAfter: error.retryAfter });
  if (error instanceof OutcomeUnknownError) return new OutcomeUnknownError(error.message, { ...details, retryAfter: error.retryAfter });
  if (error instanceof UnreachableError) return new UnreachableError(error.message, { ...details, permanent: true, retryAfter: error.retryAfter });
  return error;
}
