import { canonical, digest } from '../canonical.ts';
import { OutcomeUnknownError, reasonOf, RepriseError, StoreError } from '../errors.ts';
import type { Store } from '../storage/store.ts';
import { sleep } from '../timers.ts';
import type { Flight } from './flight.ts';
import { type Answer, BEAT, type Entry, type Found, Page, Scribe, whyOf } from './journal.ts';
import { isRefusal, verdictOn } from './verdict.ts';

export type { Answer } from './journal.ts';

/** What is to be called. */
export interface DurableCall {
  readonly callId: string;
  readonly method: string;
  readonly params: unknown;
  readonly safe: boolean;
}

/** How it is called. Each hears of the tokens by which the answer can be taken up later. */
export interface Carrier {
  send(onToken: (token: string) => void): Promise<unknown>;
  join(token: string, onToken: (token: string) => void): Promise<unknown>;
  /** Hears of what goes on when the call has ended. That never rejects. */
  behind(task: Promise<void>): void;
}

export interface DurableOptions {
  readonly store: Store;
  /** What the keys of its calls begin with: server, principal and session. */
  readonly prefix: string;
  /** How long a call is remembered, in ms. */
  readonly ttl: number;
  warn(error: Error): void;
}

/**
 * How long nobody must have said that he waits for the answer until its stream is taken up (a mistake costs little: but a stream has one
 * listener, and some servers take it from the one for the next), and until he counts as gone for good (a mistake costs the answer).
 */
const QUIET = 2.5 * BEAT;
const GONE = 6 * BEAT;
/** How often an answer that somebody else waits for is looked for, in ms. */
const LOOK = BEAT / 2;

/**
 * Calls that outlive their process (design §4). Before a call is sent, an entry says so; it keeps the token by which the stream of the
 * answer can be taken up, and then the answer. Whoever makes the call again, in this process or the next, gets the answer that is
 * there, waits for it with the process that has the stream, or takes the stream up where that process is gone.
 *
 * What cannot be noted is not sent: it could run twice.
 */
export class DurableCalls {
  readonly #options: DurableOptions;

  constructor(options: DurableOptions) {
    this.#options = options;
  }

  async run({ callId, method, params, safe }: DurableCall, flight: Flight, carrier: Carrier): Promise<Answer> {
    const { store, prefix, ttl } = this.#options;
    const fingerprint = await digest(`${method} ${canonical(params) ?? ''}`);
    const page = new Page({ store, key: prefix + encodeURIComponent(callId), ttl, method, digest: fingerprint });
    for (;;) {
      const found = await notSentWithout(page.claim(({ entry }) => safe && !entry));
      if (!found) return await this.#carry(page, flight, carrier, (onToken) => carrier.send(onToken));
      if (!found.entry) throw unknown('What is stored of it cannot be read: perhaps it is of a later version of this library.');
      if (found.entry.digest !== fingerprint) {
        throw new TypeError(`callId ${JSON.stringify(callId)} was used for another call (${found.entry.method}, or other parameters): each call needs an id of its own`);
      }
      // It was sent, whatever becomes of this attempt to get its answer.
      flight.mayHaveRun = true;
      flight.outcome = 'unknown';
      const answer = await this.#follow(page, { ...found, entry: found.entry }, flight, carrier, safe);
      if (answer) return answer;
    }
  }

  /** Stays with a call that is sent now, or whose stream is taken up, and keeps its answer. */
  async #carry(page: Page, flight: Flight, { behind }: Carrier, start: (onToken: (token: string) => void) => Promise<unknown>): Promise<Answer> {
    const scribe = new Scribe(page, this.#options.warn);
    try {
      // The client may have been closed while the call was noted.
      await flight.wait('was noted in the store', () => Promise.resolve());
      const answer = { result: await start((token) => scribe.noteToken(token)) };
      await scribe.finish({ answer });
      return answer;
    } catch (error) {
      const answer = flight.ended ? undefined : answerIn(error);
      if (answer) await scribe.finish({ answer });
      else if (didNotRun(error, flight)) await scribe.strike();
      else await scribe.finish(flight.cancelled ? { cancelled: true } : {});
      throw error;
    } finally {
      behind(scribe.written);
    }
  }

  /** Gets the answer of a call that was made before. `undefined`: it is to be made afresh. */
  async #follow(page: Page, first: Followed, flight: Flight, carrier: Carrier, safe: boolean): Promise<Answer | undefined> {
    let found = first;
    let heardAt = performance.now() - Math.min(Math.max(Date.now() - first.entry.seenAt, 0), GONE);
    let tried: string | undefined;
    let failure: Error | undefined;
    for (;;) {
      const { answer, token, cancelled, seenAt } = found.entry;
      if (answer) return answer;
      const resumable = token !== undefined && token !== tried && !cancelled;
      const { next } = verdictOn({ outcome: 'unknown', resumable, safe, attempt: 1, retries: 1, wait: 0, timeLeft: flight.left, budget: true });
      const wait = (next === 'resume' ? QUIET : GONE) - (performance.now() - heardAt);
      if (wait > 0) await flight.wait('waited for the answer that another process waits for', (signal) => sleep(Math.min(wait, LOOK), signal));
      else if (next === 'fail') throw cannotJoin(found.entry, failure);
      else if (next === 'again') {
        await unknownWithout(page.remove(found));
        return undefined;
      } else if (await unknownWithout(page.takeUp(found))) {
        tried = token;
        try {
          return await this.#carry(page, flight, carrier, (onToken) => carrier.join(token as string, onToken));
        } catch (error) {
          // A TypeError: the token is of another version of this library.
          if (flight.ended || !(error instanceof OutcomeUnknownError || error instanceof TypeError)) throw error;
          failure = error;
        }
      }

      const now = await unknownWithout(page.read());
      if (!now?.entry || now.entry.digest !== found.entry.digest) {
        // Whoever sent it found that it did not run.
        flight.restart();
        return undefined;
      }
      if (now.entry.seenAt !== seenAt) heardAt = now.entry.seenAt === 0 ? Number.NEGATIVE_INFINITY : performance.now();
      found = { ...now, entry: now.entry };
    }
  }
}

type Followed = Found & { readonly entry: Entry };

/** Said of a call that was not sent this time: its outcome is that of this time. */
export const EARLIER = 'Whether it was sent before under this `callId`, only the store can tell.';

/** What the store is needed for before a call is sent: to claim its id. */
async function notSentWithout<T>(task: Promise<T>): Promise<T> {
  return task.catch((error: unknown) => {
    throw new StoreError(`The store failed (${whyOf(error)}), so the durable call could not be noted.`, { advice: `It was not sent. ${EARLIER}`, outcome: 'not-sent', cause: error });
  });
}

/** And after that: to find its answer. */
async function unknownWithout<T>(task: Promise<T>): Promise<T> {
  return task.catch((error: unknown) => {
    throw new StoreError(`The store failed (${whyOf(error)}), so the answer of the durable call cannot be looked for.`, {
      advice: 'It was sent before, and may still be running: call it again with the same `callId` when the store works.',
      outcome: 'unknown',
      cause: error,
    });
  });
}

/** The error by which a server answered. One that says that the call did not run is no answer: it may be made again. */
function answerIn(error: unknown): Answer | undefined {
  if (!(error instanceof Error) || error.name !== 'McpError' || isRefusal(error)) return undefined;
  const { code, message, data } = error as Error & { code?: unknown; data?: unknown };
  return typeof code === 'number' ? { error: { code, message, ...(data === undefined ? {} : { data }) } } : undefined;
}

function didNotRun(error: unknown, flight: Flight): boolean {
  if (isRefusal(error)) return true;
  if (flight.mayHaveRun) return false;
  if (flight.ended) return flight.outcome === 'not-sent';
  if (error instanceof RepriseError) return error.outcome === 'not-sent' || error.outcome === 'refused';
  // The user's own code (headers, authorization) throws before anything is sent; a schema refuses what came after it ran.
  return !(error instanceof Error && 'issues' in error);
}

function cannotJoin(entry: Entry, failure: Error | undefined): OutcomeUnknownError {
  if (entry.cancelled) return unknown('It was cancelled.');
  if (failure) return unknown(reasonOf(failure), failure);
  return unknown('No event of its answer was seen, so that cannot be taken up, and nobody waits for it any more.');
}

function unknown(why: string, cause?: Error): OutcomeUnknownError {
  return new OutcomeUnknownError(`The call was made before. ${why}`, {
    advice: 'It may or may not have run: look, and then call with another `callId`, or mark the call `safe` if it may be repeated.',
    cause,
  });
}
