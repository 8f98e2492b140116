import { canonical, digest } from '../canonical.ts';
import { type ConflictError, OutcomeUnknownError, reasonOf, RepriseError, StoreError } from '../errors.ts';
import type { Store } from '../storage/store.ts';
import { afterIdle, sleep, within } from '../timers.ts';
import type { Flight } from './flight.ts';
import { isRefusal, verdictOn } from './verdict.ts';

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
}

/** The answer of a server, as it is kept: a result, or its error. */
export type Answer = { readonly result: unknown } | { readonly error: { readonly code: number; readonly message: string; readonly data?: unknown } };

/** What is known of a durable call, as it is stored. */
interface Entry {
  readonly v: 1;
  readonly method: string;
  /** Of the method and its parameters: the same id must not be used for another call. */
  readonly digest: string;
  /** Unix time in ms after which it counts as forgotten; `null`: never. */
  readonly expiresAt: number | null;
  /** Counted up by whoever waits for the answer: while it moves, somebody is there. */
  readonly beat: number;
  /** By this the answer can be taken up. Absent: no event of it was seen. */
  readonly token?: string;
  /** The caller gave it up, and the server was told. */
  readonly cancelled?: true;
  readonly answer?: Answer;
}

interface Stored {
  readonly entry: Entry;
  readonly revision: string;
}

export interface DurableOptions {
  readonly store: Store;
  /** What the keys of its calls begin with: server, principal and session. */
  readonly prefix: string;
  /** How long a call is remembered, in ms. */
  readonly ttl: number;
  warn(error: Error): void;
}

/** How often whoever waits for an answer says so, in ms, and how long nobody must say so to be gone. */
const BEAT = 2000;
const GONE = 3 * BEAT;
/** How often an answer that another process waits for is looked for, in ms. */
const LOOK = 500;
const STORE_TIMEOUT = 3000;
const MOST_CONFLICTS = 20;

/**
 * Calls that outlive their process (design §4). Before a call is sent, an entry says so; it keeps the token by which the stream of the
 * answer can be taken up, and then the answer. Whoever makes the call again, in this process or the next, gets the answer that is
 * there, takes up its stream, or waits for it with the process that has the stream.
 *
 * What cannot be noted is not sent: it could run twice.
 */
export class DurableCalls {
  readonly #options: DurableOptions;

  constructor(options: DurableOptions) {
    this.#options = options;
  }

  async run(call: DurableCall, flight: Flight, carrier: Carrier): Promise<Answer> {
    const key = this.#options.prefix + encodeURIComponent(call.callId);
    const fingerprint = await digest(`${call.method} ${canonical(call.params) ?? ''}`);
    for (;;) {
      const there = await this.#claim(key, call.method, fingerprint);
      if (!there) return await this.#carry(key, flight, (onToken) => carrier.send(onToken));
      if (there.entry.digest !== fingerprint) {
        throw new TypeError(`callId ${JSON.stringify(call.callId)} was used for another call (${there.entry.method}, or other parameters): each call needs an id of its own`);
      }
      const answer = await this.#follow(key, there, flight, carrier, call.safe);
      if (answer) return answer;
    }
  }

  /** Writes the entry of a new call; returns what is there if there is one. */
  async #claim(key: string, method: string, fingerprint: string): Promise<Stored | undefined> {
    try {
      for (let i = 0; i < MOST_CONFLICTS; i++) {
        const { there, revision } = await this.#read(key);
        if (there) return there;
        const entry: Entry = { v: 1, method, digest: fingerprint, expiresAt: this.#expiry(), beat: 0 };
        if (await this.#set(key, entry, revision)) return undefined;
      }
      throw new StoreError('its entry changes faster than it can be read');
    } catch (error) {
      throw new StoreError(`The store failed (${reasonOf(error as Error)}), so the durable call could not be noted.`, { advice: 'It was not sent.', outcome: 'not-sent', cause: error });
    }
  }

  /** Stays with a call that is sent now, or whose stream is taken up, and keeps its answer. */
  async #carry(key: string, flight: Flight, start: (onToken: (token: string) => void) => Promise<unknown>): Promise<Answer> {
    const entry = new EntryWriter((change) => this.#update(key, change), this.#options.warn);
    try {
      const answer = { result: await start((token) => entry.change({ token })) };
      await entry.finish({ answer });
      return answer;
    } catch (error) {
      const answer = flight.signal.aborted ? undefined : answerIn(error);
      if (flight.cancelled) await entry.finish({ cancelled: true });
      else await entry.finish(answer && { answer });
      if (!answer && didNotRun(error, flight)) await this.#forget(key);
      throw error;
    }
  }

  /** Gets the answer of a call that was made before. `undefined`: it is to be made afresh. */
  async #follow(key: string, first: Stored, flight: Flight, carrier: Carrier, safe: boolean): Promise<Answer | undefined> {
    // It was sent, whatever becomes of this attempt to get its answer.
    flight.note('unknown', new OutcomeUnknownError('It was sent before.'));
    let { entry, revision } = first;
    let movedAt = performance.now();
    let tried: string | undefined;
    let failure: Error | undefined;
    for (;;) {
      const { answer, token, cancelled } = entry;
      if (answer) return answer;
      const resumable = token !== undefined && token !== tried && !cancelled;
      const { next } = verdictOn({ outcome: 'unknown', resumable, safe, attempt: 1, retries: 1, wait: 0, timeLeft: flight.left, budget: true });
      if (next === 'resume') {
        tried = token;
        try {
          return await this.#carry(key, flight, (onToken) => carrier.join(token as string, onToken));
        } catch (error) {
          if (flight.signal.aborted || !(error instanceof OutcomeUnknownError)) throw error;
          failure = error;
        }
      } else if (cancelled || performance.now() - movedAt >= GONE) {
        if (next === 'fail') throw cannotJoin(entry, failure);
        await this.#forget(key);
        return undefined;
      } else await flight.wait('waited for the answer that another process waits for', (signal) => sleep(LOOK, signal));

      const { there } = await this.#read(key);
      if (!there) {
        // Whoever sent it found that it did not run.
        flight.restart();
        return undefined;
      }
      if (there.revision !== revision) movedAt = performance.now();
      ({ entry, revision } = there);
    }
  }

  /** Merges a change into the entry, unless the call is answered already. */
  async #update(key: string, change: Partial<Entry>): Promise<void> {
    for (let i = 0; i < MOST_CONFLICTS; i++) {
      const { there, revision } = await this.#read(key);
      if (!there || there.entry.answer) return;
      const next: Entry = { ...there.entry, ...change, beat: there.entry.beat + 1, expiresAt: this.#expiry() };
      if (await this.#set(key, next, revision)) return;
    }
  }

  /** Never rejects: what stays is found by the next one. */
  async #forget(key: string): Promise<void> {
    try {
      const { there, revision } = await this.#read(key);
      if (there && !there.entry.answer) await within(this.#options.store.delete(key, revision ?? undefined), STORE_TIMEOUT);
    } catch (error) {
      if (!isConflict(error)) this.#options.warn(new StoreError('The entry of a durable call could not be removed.', { cause: error }));
    }
  }

  /** What is there, and the revision that a write must expect; an entry that is expired or unreadable counts as none. */
  async #read(key: string): Promise<{ there: Stored | undefined; revision: string | null }> {
    const stored = await within(this.#options.store.get(key), STORE_TIMEOUT);
    const entry = stored && parseEntry(stored.value);
    const expired = entry && entry.expiresAt !== null && entry.expiresAt <= Date.now();
    return { there: entry && !expired ? { entry, revision: stored.revision } : undefined, revision: stored?.revision ?? null };
  }

  /** Whether it was written: `false` where somebody else was quicker. */
  async #set(key: string, entry: Entry, expected: string | null): Promise<boolean> {
    try {
      await within(this.#options.store.set(key, JSON.stringify(entry), expected), STORE_TIMEOUT);
      return true;
    } catch (error) {
      if (isConflict(error)) return false;
      throw error;
    }
  }

  #expiry(): number | null {
    const { ttl } = this.#options;
    return Number.isFinite(ttl) ? Date.now() + ttl : null;
  }
}

/** Writes changes one after another, and says in between that somebody is there. A store that fails is told once, and fails nothing. */
class EntryWriter {
  readonly #write: (change: Partial<Entry>) => Promise<void>;
  readonly #warn: (error: Error) => void;
  #pending: Partial<Entry> | undefined;
  #queue: Promise<void> = Promise.resolve();
  #stopBeating!: () => void;
  #told = false;

  constructor(write: (change: Partial<Entry>) => Promise<void>, warn: (error: Error) => void) {
    this.#write = write;
    this.#warn = warn;
    this.#beat();
  }

  change(change: Partial<Entry>): void {
    const waiting = this.#pending !== undefined;
    this.#pending = { ...this.#pending, ...change };
    if (!waiting) this.#queue = this.#queue.then(() => this.#flush());
  }

  async finish(change: Partial<Entry> | undefined): Promise<void> {
    this.#stopBeating();
    if (change) this.change(change);
    await this.#queue;
  }

  #beat(): void {
    this.#stopBeating = afterIdle(BEAT, () => {
      this.change({});
      this.#beat();
    });
  }

  async #flush(): Promise<void> {
    const change = this.#pending ?? {};
    this.#pending = undefined;
    try {
      await this.#write(change);
    } catch (error) {
      if (!this.#told) this.#warn(new StoreError(`The store failed (${reasonOf(error as Error)}): a durable call may not be found again.`, { cause: error }));
      this.#told = true;
    }
  }
}

/** The error by which a server answered. One that says that the call did not run is no answer: it may be made again. */
function answerIn(error: unknown): Answer | undefined {
  if (!(error instanceof Error) || error instanceof RepriseError || isRefusal(error)) return undefined;
  const { code, message, data } = error as Error & { code?: unknown; data?: unknown };
  return typeof code === 'number' ? { error: { code, message, ...(data === undefined ? {} : { data }) } } : undefined;
}

function didNotRun(error: unknown, flight: Flight): boolean {
  if (flight.mayHaveRun) return false;
  if (flight.signal.aborted) return flight.outcome === 'not-sent';
  if (error instanceof RepriseError) return error.outcome === 'not-sent' || error.outcome === 'refused';
  return isRefusal(error);
}

function cannotJoin(entry: Entry, failure: Error | undefined): OutcomeUnknownError {
  const why = entry.cancelled
    ? 'it was cancelled'
    : failure
      ? `its answer cannot be taken up (${reasonOf(failure)})`
      : 'no event of its answer was seen, so that cannot be taken up, and nobody waits for it any more';
  return new OutcomeUnknownError(`The call was made before, and ${why}.`, {
    advice: 'It may or may not have run: look, and then call with another `callId`, or mark the call `safe` if it may be repeated.',
    cause: failure,
  });
}

function parseEntry(text: string): Entry | undefined {
  try {
    const entry = JSON.parse(text) as Partial<Entry> | null;
    const valid = entry?.v === 1 && typeof entry.digest === 'string' && typeof entry.method === 'string' && typeof entry.beat === 'number';
    return valid ? (entry as Entry) : undefined;
  } catch {
    return undefined;
  }
}

/** By its code: the class may be that of another copy of this library. */
function isConflict(error: unknown): boolean {
  return (error as Partial<ConflictError> | undefined)?.code === 'CONFLICT';
}
