import { canonical, digest } from '../canonical.ts';
import { type ConflictError, StoreError } from '../errors.ts';
import type { Store } from '../storage/store.ts';
import { after } from '../timers.ts';
import type { Tell } from './events.ts';
import { parseRecord, type SessionRecord, serializeRecord } from './record.ts';

/** What a stored session must match to be taken up. */
interface SessionScope {
  readonly url: string;
  readonly principal: string | undefined;
}

export interface KeeperOptions {
  readonly store: Store;
  readonly key: string;
  readonly scope: SessionScope;
  /** How long an unused session is kept, in ms. */
  readonly ttl: number;
  readonly tell: Tell;
}

/** A store that does not answer within this time counts as failed, in ms. */
const STORE_TIMEOUT = 3000;
/** A moved cursor is written at most this often, in ms. */
const CURSOR_INTERVAL = 1000;
/** A use alone is written at most this often, in ms, and at least ten times within the TTL. */
const TOUCH_INTERVAL = 60_000;
/** A use is not written where the store has one that is at most so much older, in ms. */
const SAME_USE = 1000;
const MOST_CONFLICTS = 20;

/**
 * Keeps one session's record in the store. Writes are compare-and-set and go one after another; none of them is waited for by a
 * call. The first failure of the store ends its use: one `warning`, and the client goes on with what it has in memory.
 */
export class SessionKeeper {
  readonly #options: KeeperOptions;
  #record: SessionRecord | undefined;
  #pending: Partial<SessionRecord> = {};
  /** Subscriptions made (true) and given up (false) that are not yet written. Changes, not the whole: others have theirs. */
  #subscriptions = new Map<string, boolean>();
  /** The revision that the last {@link load} saw: what is there under another one was written by somebody since. */
  #seen: string | undefined;
  #writtenAt = 0;
  #queue: Promise<void> = Promise.resolve();
  #failed = false;
  #stored = false;

  constructor(options: KeeperOptions) {
    this.#options = options;
  }

  /** The record as this process knows it. */
  get record(): SessionRecord | undefined {
    return this.#record && { ...this.#record, ...this.#pending };
  }

  /** Whether the session is in the store, or was: others may be using it, and it is not ours alone to end. */
  get stored(): boolean {
    return this.#stored;
  }

  /**
   * The stored session, if there is one that this client may take up.
   *
   * @param offer - what the client offers now, and the newest version of the protocol that it speaks
   * @param lost - the ids of sessions that are known to be lost
   */
  async load(offer: { capabilities: SessionRecord['capabilities']; protocolVersion: string }, lost: ReadonlySet<string>): Promise<SessionRecord | undefined> {
    const stored = await this.#guard((store) => store.get(this.#options.key));
    this.#seen = stored?.revision;
    if (!stored) return undefined;
    let record: SessionRecord;
    try {
      record = parseRecord(stored.value);
    } catch (error) {
      this.#warn(`the stored session cannot be read: ${(error as Error).message}; a new one is started`);
      return undefined;
    }
    if (!this.#isOurs(record)) {
      this.#warn('the stored session belongs to another server or principal; a new one is started');
      return undefined;
    }
    if (isExpired(record, Date.now())) return undefined;
    // What holds for the lost session is to hold for the next one, also where another process asked for it.
    this.#adopt(record);
    if (lost.has(record.id)) return undefined;
    if (record.initialized.protocolVersion > offer.protocolVersion) {
      this.#warn('the stored session speaks a newer version of the protocol than this client; a new one is started');
      return undefined;
    }
    if (canonical(record.capabilities) !== canonical(offer.capabilities)) {
      this.#warn('the stored session was made by a client with other capabilities; a new one is started (give it a `session` name of its own to keep both)');
      return undefined;
    }
    this.#stored = true;
    return record;
  }

  /**
   * Writes a new session in place of what {@link load} saw. Returns the record that holds now: this one, or the one of another
   * process that was quicker.
   */
  async claim(record: SessionRecord, lost: ReadonlySet<string>): Promise<SessionRecord> {
    const { key, ttl } = this.#options;
    const fresh = { ...record, expiresAt: expiry(record.lastUsedAt, ttl) };
    const winner = await this.#guard(async (store) => {
      for (let i = 0; i < MOST_CONFLICTS; i++) {
        const there = await store.get(key);
        const other = there && there.revision !== this.#seen ? readable(there.value) : undefined;
        if (other && !lost.has(other.id) && this.#isOurs(other) && !isExpired(other, Date.now()) && canonical(other.capabilities) === canonical(fresh.capabilities)) return other;
        if ((await ignoringConflict(store.set(key, serializeRecord(fresh), there ? there.revision : null))) !== undefined) return fresh;
      }
      throw new StoreError('the record changes faster than it can be written');
    });
    this.#adopt(winner ?? fresh);
    this.#stored ||= winner !== undefined;
    return winner ?? fresh;
  }

  /** Remembers a change; written at once when it must not be lost, otherwise when the last write is long enough ago. */
  update(change: Partial<SessionRecord>, now = Date.now()): void {
    if (!this.#record) return;
    Object.assign(this.#pending, change);
    const { cursor, lastUsedAt, ...urgent } = change;
    const interval = cursor !== undefined ? CURSOR_INTERVAL : Math.min(TOUCH_INTERVAL, this.#options.ttl / 10);
    if (Object.keys(urgent).length === 0 && now - this.#writtenAt < interval) return;
    void this.flush();
  }

  /** Remembers that a subscription was made or given up. */
  subscribe(uri: string, subscribed: boolean): void {
    this.#subscriptions.set(uri, subscribed);
    void this.flush();
  }

  /** Whether the place in the store has gone to another session, so that nobody will find this one again. */
  async isDisplaced(id: string): Promise<boolean> {
    const there = await this.#guard((store) => store.get(this.#options.key));
    const other = there && readable(there.value);
    return other !== undefined && other.id !== id;
  }

  /** Writes what is not yet written. Never rejects. */
  flush(): Promise<void> {
    this.#queue = this.#queue.then(() => this.#write());
    return this.#queue;
  }

  /** Forgets the session, in memory and in the store, if the store still holds this one. */
  async forget(id: string): Promise<void> {
    if (this.#record?.id === id) this.#record = undefined;
    this.#stored = false;
    this.#pending = {};
    this.#subscriptions = new Map();
    await this.#queue;
    await this.#guard(async (store) => {
      const there = await store.get(this.#options.key);
      if (there && readable(there.value)?.id === id) await ignoringConflict(store.delete(this.#options.key, there.revision));
    });
  }

  async #write(): Promise<void> {
    const record = this.#record;
    if (!record || (Object.keys(this.#pending).length === 0 && this.#subscriptions.size === 0)) return;
    const { key, ttl } = this.#options;
    const change = this.#pending;
    const changed = this.#subscriptions;
    this.#pending = {};
    this.#subscriptions = new Map();
    this.#record = { ...record, ...change, subscriptions: merged(record.subscriptions, changed) };
    this.#writtenAt = Date.now();
    await this.#guard(async (store) => {
      for (let i = 0; i < MOST_CONFLICTS; i++) {
        const there = await store.get(key);
        const current = there && readable(there.value);
        // Deleted, or replaced by another session: ours has no claim on the place.
        if (!there || current?.id !== record.id) return;
        const { lastUsedAt: usedAt = 0, ...rest } = change;
        // Many leave at the same time: what another process has just said of its use, holds for ours too.
        if (changed.size === 0 && Object.keys(rest).length === 0 && usedAt - current.lastUsedAt < Math.min(SAME_USE, ttl / 10)) return;
        const lastUsedAt = Math.max(current.lastUsedAt, usedAt);
        const next: SessionRecord = { ...current, ...change, subscriptions: merged(current.subscriptions, changed), lastUsedAt, expiresAt: expiry(lastUsedAt, ttl) };
        if ((await ignoringConflict(store.set(key, serializeRecord(next), there.revision))) !== undefined) return;
      }
    });
  }

  /** A session id goes only to the server and for the principal that it was minted for (G7), whatever the key says. */
  #isOurs({ url, principal }: SessionRecord): boolean {
    return url === this.#options.scope.url && principal === this.#options.scope.principal;
  }

  #adopt(record: SessionRecord): void {
    this.#record = record;
    this.#pending = {};
    this.#writtenAt = record.lastUsedAt;
  }

  /** Runs something on the store, bounded in time. A failure is told once and ends the use of the store; it rejects nothing. */
  async #guard<T>(task: (store: Store) => Promise<T>): Promise<T | undefined> {
    if (this.#failed) return undefined;
    let stop = (): void => {};
    try {
      const timeout = new Promise<never>((_, reject) => {
        stop = after(STORE_TIMEOUT, () => reject(new StoreError(`the store did not answer within ${STORE_TIMEOUT} ms`)));
      });
      return await Promise.race([task(this.#options.store), timeout]);
    } catch (error) {
      if (!this.#failed) {
        this.#failed = true;
        this.#warn(`the store failed, so the session is kept in memory only: ${explain(error)}`, error);
      }
      return undefined;
    } finally {
      stop();
    }
  }

  #warn(message: string, cause?: unknown): void {
    this.#options.tell('warning', new StoreError(message, cause === undefined ? {} : { cause }));
  }
}

function merged(subscriptions: readonly string[], changed: ReadonlyMap<string, boolean>): string[] {
  const all = new Set(subscriptions);
  for (const [uri, subscribed] of changed) {
    if (subscribed) all.add(uri);
    else all.delete(uri);
  }
  return [...all];
}

function isExpired(record: SessionRecord, now: number): boolean {
  return record.expiresAt !== null && record.expiresAt <= now;
}

function expiry(lastUsedAt: number, ttl: number): number | null {
  return ttl === Number.POSITIVE_INFINITY ? null : lastUsedAt + ttl;
}

function readable(text: string): SessionRecord | undefined {
  try {
    return parseRecord(text);
  } catch {
    return undefined;
  }
}

async function ignoringConflict<T>(operation: Promise<T>): Promise<T | undefined> {
  try {
    return await operation;
  } catch (error) {
    // By its code: the class may be that of another copy of this library.
    if ((error as Partial<ConflictError> | undefined)?.code === 'CONFLICT') return undefined;
    throw error;
  }
}

/** The store key of a session: server, principal and name, each escaped so that no two can meet. */
export async function sessionKey(address: { url: string; query: string }, principal: string | undefined, name: string): Promise<string> {
  const query = address.query === '' ? '' : `?${await digest(address.query, 12)}`;
  return ['session', address.url + query, principal ?? '', name].map(encodeURIComponent).join('/');
}

/** A store's own words, and the reason below them. */
function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error ? `${error.message} (${error.cause.message})` : error.message;
}
