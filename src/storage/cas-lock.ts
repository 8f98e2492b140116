import type { ConflictError } from '../errors.ts';
import { StoreError } from '../errors.ts';
import { sleep } from '../timers.ts';
import { type Claim, type Claimer, Locks } from './locks.ts';
import { Renewal } from './renewal.ts';
import { newRevision } from './rules.ts';
import type { Store } from './store.ts';

/** What has values of compare-and-set, and no locks. */
export type Values = Omit<Store, 'lock'>;

/**
 * Makes a store of one that lacks only the locks, for makers of stores: its own compare-and-set is enough for them.
 *
 * A lock is a record under its key, which the holder writes anew, three times within its ttl. Who waits looks at it again and again,
 * and takes it over once it has not changed for the holder's ttl, by the clock of the one who waits: clocks are never compared.
 * Whether a takeover, a renewal or a release still holds is decided by compare-and-set alone. The record stays after a release,
 * for the sake of its fencing number.
 *
 * @param values - Where the values are. Closed with the store, as is `records`.
 * @param records - Where the records of the locks are: the same kind of store over a space of keys of its own.
 */
export function withLocks(values: Values, records: Values): Store {
  for (const each of [values, records] as readonly unknown[]) {
    if (typeof each !== 'object' || each === null || typeof (each as Values).set !== 'function') throw new TypeError('withLocks(values, records) needs two stores of values');
  }
  if (values === records) throw new TypeError('withLocks(values, records): the records of locks need a space of keys of their own');
  return joined(values, records, casClaimer(records));
}

/** One store of values and locks: `records` is what the locks use, and is closed with them. */
export function joined(values: Values, records: Values, claim: Claimer): Store {
  const locks = new Locks(claim);
  return {
    get: (key) => values.get(key),
    set: (key, value, expected) => values.set(key, value, expected),
    delete: (key, expected) => values.delete(key, expected),
    keys: (prefix) => values.keys(prefix),
    lock: (key, options) => locks.lock(key, options),
    async close() {
      await Promise.all([values.close(), locks.close().then(() => records.close())]);
    },
  };
}

/** Takes locks by compare-and-set on records of their own. */
export function casClaimer(records: Pick<Store, 'get' | 'set'>): Claimer {
  return async (key, { ttl, signal, lose }) => {
    const place = { records, key };
    const holder = newRevision();
    const patience = new Patience();
    for (;; await patience.aWhile(signal)) {
      const there = await look(place);
      if (!patience.isFree(there)) continue;
      const record: LockRecord = { v: 1, holder, fence: nextFence(there?.record), ttl };
      const began = performance.now();
      const revision = await write(place, record, there?.revision ?? null);
      if (revision !== undefined) return new Holding(place, record, { revision, began }, lose);
    }
  };
}

/** The next fencing number of a lock, for one who is alone with it. */
export async function countFence(records: Pick<Store, 'get' | 'set'>, key: string): Promise<number> {
  const place = { records, key };
  for (;;) {
    const there = await look(place);
    const fence = nextFence(there?.record);
    if ((await write(place, { v: 1, holder: null, fence, ttl: 0 }, there?.revision ?? null)) !== undefined) return fence;
  }
}

interface Place {
  readonly records: Pick<Store, 'get' | 'set'>;
  readonly key: string;
}

interface LockRecord {
  readonly v: 1;
  /** A random name, of this holding alone; `null`: nobody has it. */
  readonly holder: string | null;
  readonly fence: number;
  /** The ttl that the holder asked for, in ms. */
  readonly ttl: number;
}

interface Found {
  readonly record: LockRecord;
  readonly revision: string;
}

/** The delay before a second look at a lock that is not free, in ms. It grows to the longest, since many may wait for hours. */
const FIRST_DELAY = 4;
const LONGEST_DELAY = 1_000;
const GROWTH = 1.5;

/** How one who waits goes about it: when to look again, and from when on the holder counts as gone. */
class Patience {
  #delay = FIRST_DELAY;
  #seen: Found | undefined;
  #at = 0;
  /** How long the record has been seen not to change, in ms. */
  #quiet = 0;

  /** Whether what was found may be taken. */
  isFree(there: Found | undefined): boolean {
    if (there === undefined || there.record.holder === null) return true;
    const { ttl } = there.record;
    const now = performance.now();
    if (there.revision === this.#seen?.revision) {
      // No more than half the ttl for each look: where both were frozen, the holder gets the time to say that it lives.
      this.#quiet += Math.min(now - this.#at, ttl / 2);
    } else {
      this.#quiet = 0;
    }
    this.#seen = there;
    this.#at = now;
    return this.#quiet >= ttl;
  }

  /** The random part keeps those who wait out of step. */
  async aWhile(signal: AbortSignal): Promise<void> {
    const limit = Math.min(this.#delay, (this.#seen?.record.ttl ?? LONGEST_DELAY) / 4);
    this.#delay = Math.min(this.#delay * GROWTH, LONGEST_DELAY);
    await sleep(limit * (0.5 + Math.random()), signal);
  }
}

/** The record of a lock that is ours, kept fresh until it is released or another's. */
class Holding implements Claim {
  readonly fence: number;
  readonly #place: Place;
  readonly #record: LockRecord;
  readonly #renewal: Renewal;
  #revision: string;

  constructor(place: Place, record: LockRecord, { revision, began }: { revision: string; began: number }, lose: (reason: string) => void) {
    const { fence, ttl } = record;
    this.fence = fence;
    this.#place = place;
    this.#record = record;
    this.#revision = revision;
    this.#renewal = new Renewal({ ttl, began, retry: ttl / 3, renew: () => this.#update(record), lose });
  }

  async release(): Promise<void> {
    this.#renewal.stop();
    // A renewal may be under way: whichever comes first, the other finds that it did.
    await this.#update({ ...this.#record, holder: null });
  }

  /** Writes over our own record. Resolves to `false` when it is another's by now. */
  async #update(record: LockRecord): Promise<boolean> {
    let written = await write(this.#place, record, this.#revision);
    if (written === undefined) {
      // It may be ours under another revision: a write can fail and yet have happened.
      const there = await look(this.#place);
      if (there?.record.holder === this.#record.holder) written = await write(this.#place, record, there?.revision ?? null);
    }
    this.#revision = written ?? this.#revision;
    return written !== undefined;
  }
}

/** Where there is no record, time gives the number: a record that was damaged or removed must not make the numbers start again. */
function nextFence(record: LockRecord | undefined): number {
  return (record?.fence ?? Date.now()) + 1;
}

async function look({ records, key }: Place): Promise<Found | undefined> {
  const there = await records.get(key);
  return there && { record: parse(there.value), revision: there.revision };
}

/** The new revision, or `undefined` when another was quicker. */
async function write({ records, key }: Place, record: LockRecord, expected: string | null): Promise<string | undefined> {
  try {
    return await records.set(key, JSON.stringify(record), expected);
  } catch (error) {
    // By its code: the class may be that of another copy of this library.
    if ((error as Partial<ConflictError> | undefined)?.code === 'CONFLICT') return undefined;
    throw error;
  }
}

function parse(text: string): LockRecord {
  try {
    const record = JSON.parse(text) as Partial<Record<keyof LockRecord, unknown>> | null;
    const { v, holder, fence, ttl } = record ?? {};
    if (v === 1 && (holder === null || typeof holder === 'string') && Number.isSafeInteger(fence) && typeof ttl === 'number') return record as LockRecord;
  } catch {
    // It says nothing.
  }
  throw new StoreError('The record of a lock cannot be read: this version of mcp-reprise did not write it.');
}
