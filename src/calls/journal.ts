import { reasonOf, StoreError } from '../errors.ts';
import { ignoringConflict } from '../storage/conflict.ts';
import type { Store } from '../storage/store.ts';
import { redactedError, textsIn } from '../redact.ts';
import { afterIdle, within } from '../timers.ts';

/** The answer of a server, as it is kept: a result, or its error. */
export type Answer = { readonly result: unknown } | { readonly error: { readonly code: number; readonly message: string; readonly data?: unknown } };

/** What is known of a durable call, as it is stored. */
export interface Entry {
  readonly v: 1;
  readonly method: string;
  /** Of the method and its parameters: the same id must not be used for another call. */
  readonly digest: string;
  /** Unix time in ms after which it counts as forgotten; `null`: never. */
  readonly expiresAt: number | null;
  /** When somebody who waits for the answer last said so, Unix time in ms; 0: nobody waits for it any more. */
  readonly seenAt: number;
  /** By this the answer can be taken up. Absent: no event of it was seen. */
  readonly token?: string;
  /** The caller gave it up, and the server was told. */
  readonly cancelled?: true;
  readonly answer?: Answer;
}

/** What is at a call's place in the store; without an entry it is something that cannot be read. */
export interface Found {
  readonly entry: Entry | undefined;
  readonly revision: string;
}

/** How often whoever waits for an answer says so, in ms. */
export const BEAT = 1000;
/** Of a call that still runs, this much is remembered at least, in ms: between two beats it must not be forgotten. */
const LEAST_TTL = 10 * BEAT;
const STORE_TIMEOUT = 3000;
const MOST_CONFLICTS = 20;
/** How long the last word of a call is waited for, in ms. */
const PATIENCE = 1000;

interface Place {
  readonly store: Store;
  readonly key: string;
  /** How long the call is remembered, in ms. */
  readonly ttl: number;
  readonly method: string;
  readonly digest: string;
}

/** The place of one durable call in the store. Every write is compare-and-set: others may have the same call in hand. */
export class Page {
  readonly #place: Place;
  /** What was read or written last: a store of anybody's making may repeat it when it fails, and an answer is for its caller alone. */
  #secrets: readonly string[] = [];

  constructor(place: Place) {
    this.#place = place;
  }

  /** Writes the entry of a new call; returns what is there if there is something that `yields` does not give up. */
  async claim(yields: (found: Found) => boolean): Promise<Found | undefined> {
    for (let i = 0; i < MOST_CONFLICTS; i++) {
      const found = await this.read();
      if (found && !isExpired(found) && !yields(found)) return found;
      if (await this.#set({}, found?.revision ?? null)) return undefined;
    }
    throw new StoreError('its entry changes faster than it can be read');
  }

  async read(): Promise<Found | undefined> {
    const { store, key } = this.#place;
    const stored = await this.#asked(store.get(key));
    if (!stored) return undefined;
    const entry = parseEntry(stored.value);
    this.#secrets = [stored.value, ...textsIn(entry?.answer)];
    return { entry, revision: stored.revision };
  }

  /** Whether it is the entry of this very call, and the answer is still to come. */
  isOpen(found: Found | undefined): found is Found & { readonly entry: Entry } {
    return found?.entry?.digest === this.#place.digest && !found.entry.answer;
  }

  /** Says that somebody waits for the answer (again). Of several who say so of what they found, one does it: `true`. */
  async takeUp({ entry, revision }: Found): Promise<boolean> {
    return this.#set({ ...entry }, revision);
  }

  /** Merges a change into the entry, unless the call is answered already. */
  async update(change: Partial<Entry>): Promise<void> {
    for (let i = 0; i < MOST_CONFLICTS; i++) {
      const found = await this.read();
      if (!this.isOpen(found) || (await this.#set({ ...found.entry, ...change }, found.revision, change.seenAt))) return;
    }
    throw new StoreError('its entry changes faster than it can be written');
  }

  /** Removes the entry, unless the call is answered; where it is given as `found`, unless anything has changed since. */
  async remove(found?: Found): Promise<void> {
    const { store, key } = this.#place;
    const there = found ?? (await this.read());
    if (this.isOpen(there)) await ignoringConflict(this.#asked(store.delete(key, there.revision)));
  }

  /** The answer of the store, which is waited for so long. */
  async #asked<T>(answer: Promise<T>): Promise<T> {
    try {
      return await within(answer, STORE_TIMEOUT);
    } catch (error) {
      throw error instanceof Error ? redactedError(error, this.#secrets) : error;
    }
  }

  /** Whether it was written: `false` where somebody else was quicker. */
  async #set(entry: Partial<Entry>, expected: string | null, seenAt = Date.now()): Promise<boolean> {
    const { store, key, ttl, method, digest } = this.#place;
    const kept = entry.answer ? ttl : Math.max(ttl, LEAST_TTL);
    const next: Entry = { ...entry, v: 1, method, digest, seenAt, expiresAt: Number.isFinite(kept) ? Date.now() + kept : null };
    const text = JSON.stringify(next);
    this.#secrets = [text, ...textsIn(next.answer)];
    return (await ignoringConflict(this.#asked(store.set(key, text, expected)))) !== undefined;
  }
}

/**
 * Keeps the page of a call for as long as this process waits for its answer: says so at every beat, and writes what is new. A store that
 * fails is told once, and fails nothing.
 */
export class Scribe {
  readonly #page: Page;
  readonly #warn: (error: Error) => void;
  #pending: Partial<Entry> = {};
  #tokenNoted = false;
  /** A write is to come that has not begun. */
  #waiting = false;
  #queue: Promise<void> = Promise.resolve();
  #stopBeating!: () => void;
  #told = false;
  #written: Promise<void> = Promise.resolve();

  constructor(page: Page, warn: (error: Error) => void) {
    this.#page = page;
    this.#warn = warn;
    this.#beat();
  }

  /** The first one is written at once: by it the call can be taken up. For the others the next beat is soon enough: an older one only brings some events again. */
  noteToken(token: string): void {
    this.#pending = { ...this.#pending, token };
    if (this.#tokenNoted) return;
    this.#tokenNoted = true;
    this.#flush();
  }

  /** Resolves when the last word is written, or is not to be. Never rejects. */
  get written(): Promise<void> {
    return this.#written;
  }

  /** The last word: this process waits for it no longer. */
  async finish(change: Partial<Entry>): Promise<void> {
    this.#stopBeating();
    this.#pending = { ...this.#pending, ...change, seenAt: 0 };
    this.#flush();
    // One that fails is tried once more; one that hangs is not waited for: the answer is there.
    this.#written = this.#queue.then(() => {
      if (Object.keys(this.#pending).length > 0) this.#flush();
      return this.#queue;
    });
    await within(this.#written, PATIENCE).catch(() => {});
  }

  /** There was no such call. */
  async strike(): Promise<void> {
    this.#stopBeating();
    this.#enqueue(() => this.#page.remove());
    await this.#queue;
  }

  #beat(): void {
    this.#stopBeating = afterIdle(BEAT, () => {
      this.#flush();
      this.#beat();
    });
  }

  /** Writes what is new. What comes while a write waits for the one before goes out with it. */
  #flush(): void {
    if (this.#waiting) return;
    this.#waiting = true;
    this.#enqueue(async () => {
      const change = this.#pending;
      this.#pending = {};
      this.#waiting = false;
      try {
        await this.#page.update(change);
      } catch (error) {
        this.#pending = { ...change, ...this.#pending };
        throw error;
      }
    });
  }

  #enqueue(write: () => Promise<void>): void {
    this.#queue = this.#queue.then(write).catch((error: unknown) => {
      if (!this.#told) this.#warn(new StoreError(`The store failed (${whyOf(error)}): a durable call may not be found again.`, { cause: error }));
      this.#told = true;
    });
  }
}

/** What a store of anybody's making says. */
export function whyOf(error: unknown): string {
  return error instanceof Error ? reasonOf(error) : String(error);
}

/** Whether what a durable call has left is to be forgotten; `undefined` where it cannot be read. */
export function isExpiredEntry(text: string): boolean | undefined {
  const entry = parseEntry(text);
  return entry && isExpired({ entry });
}

function isExpired({ entry }: Pick<Found, 'entry'>): boolean {
  return entry !== undefined && entry.expiresAt !== null && entry.expiresAt <= Date.now();
}

function parseEntry(text: string): Entry | undefined {
  try {
    const entry = JSON.parse(text) as Partial<Entry> | null;
    const { v, digest, method, seenAt, expiresAt, token } = entry ?? {};
    const valid =
      v === 1 &&
      typeof digest === 'string' &&
      typeof method === 'string' &&
      typeof seenAt === 'number' &&
      (expiresAt === null || typeof expiresAt === 'number') &&
      (token === undefined || typeof token === 'string');
    return valid ? (entry as Entry) : undefined;
  } catch {
    return undefined;
  }
}
