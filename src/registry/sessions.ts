import { checkCleanupOptions, checkSessionFilter, checkSessionsOptions, checkTtl } from '../checks.ts';
import { StoreError } from '../errors.ts';
import { contend } from '../session/contend.ts';
import { TOUCH_INTERVAL } from '../session/keeper.ts';
import { endSession, type SessionAccess } from '../session/farewell.ts';
import { SESSIONS } from '../session/key.ts';
import { expiryOf, type SessionRecord, serializeRecord } from '../session/record.ts';
import { askChange, type UserChange, withState } from '../session/user-state.ts';
import { requireString } from '../storage/rules.ts';
import type { Store, StoredValue } from '../storage/store.ts';
import { afterIdle, within } from '../timers.ts';
import { type ImportResult, importSession, packed, type SessionsBackup, sessionsIn } from './backup.ts';
import { type CleanupOptions, removeExpired } from './cleanup.ts';
import { eachStored } from './each-stored.ts';
import { inParallel } from './in-parallel.ts';
import { describeSession, type Entry, readEntry, type SessionFilter, selectionOf, type StoredSession } from './stored-session.ts';

export interface SessionsOptions {
  /**
   * What it takes to end a session on its server where that asks for authorization, or was connected to by a `fetch` of your own: headers,
   * fetch, requestInit, authProvider. Asked for each session. What the query of a URL says is not stored; a `fetch` can put it back.
   */
  readonly access?: (session: StoredSession) => SessionAccess | Promise<SessionAccess>;
}

/** What the sessions of a store are, in numbers. */
export interface SessionStats {
  readonly total: number;
  readonly active: number;
  readonly expired: number;
  /** What stands at the place of a session and cannot be read; not counted in `total`. */
  readonly unreadable: number;
  /** How long ago they were made, on average, in ms; 0 where there is none. */
  readonly averageAge: number;
  /** How often each tool has answered, by name. */
  readonly calls: Readonly<Record<string, number>>;
}

/** So many are read at a time. */
const READS = 32;
const INTERVAL = 600_000;
const ACCESS_TIMEOUT = 2000;

/**
 * The sessions that a store holds, those of all servers and principals: for housekeeping, for looking at them, for moving them to another
 * machine. Their clients need not be here, and may be using them meanwhile: every change is compare-and-set.
 *
 * A session expires by its last use, and nothing that is done here is a use.
 *
 * Every method rejects with a `StoreError` where the store fails.
 *
 * ```ts
 * const sessions = new Sessions(fileStore('.sessions'));
 * for (const { url, principal, lastUsedAt } of await sessions.list({ expired: false })) console.log(url, principal, new Date(lastUsedAt));
 * const { stop } = sessions.startCleanup();
 * ```
 */
export class Sessions {
  readonly #store: Store;
  readonly #access: NonNullable<SessionsOptions['access']>;

  /** @throws TypeError for a store or an option that makes no sense */
  constructor(store: Store, options: SessionsOptions = {}) {
    checkSessionsOptions(store, options);
    this.#store = store;
    this.#access = options.access ?? (() => ({}));
  }

  /**
   * The sessions, the last used first. What cannot be read is left out ({@link stats} counts it).
   *
   * @throws StoreError where nothing at all can be read: the store fails, or its encryption key is another
   */
  async list(filter: SessionFilter = {}): Promise<StoredSession[]> {
    const sessions: StoredSession[] = [];
    await this.#visit(filter, (_entry, session) => void sessions.push(session));
    return sessions.sort((a, b) => b.lastUsedAt - a.lastUsedAt);
  }

  /**
   * A session; `undefined` where there is none.
   *
   * @param key - as {@link list} says it, or `client.session.key`
   * @throws StoreError when it cannot be read
   */
  async get(key: string): Promise<StoredSession | undefined> {
    const entry = await this.#find(key);
    return entry && describeSession(entry);
  }

  /**
   * Changes what is kept with a session, atomically among all who share the store.
   *
   * @param change - is told what is there, and returns what is to take its place; asked again where somebody else was quicker
   * @returns the session as it is now; `undefined` where there is none
   * @throws TypeError or RangeError for what cannot be kept (JSON objects; `data` of at most 64 KB), and what `change` throws
   */
  async update(key: string, change: (session: StoredSession) => UserChange): Promise<StoredSession | undefined> {
    return this.#rewrite(key, (entry) => withState(entry.record, askChange(describeSession(entry), change)));
  }

  /**
   * Sets how long a session is kept since its last use, from now on, whatever its clients say by their option `ttl`. A client that has it
   * learns of it when it writes its next use, so it expires in a minute at the earliest. A store that forgets by itself (`redisStore` with a `ttl`) still does.
   *
   * @param ttl - in ms; `Infinity` or `null`: for ever
   * @returns the session as it is now; `undefined` where there is none
   */
  async setTtl(key: string, ttl: number | null): Promise<StoredSession | undefined> {
    if (ttl !== null) checkTtl(ttl);
    return this.#rewrite(key, ({ record }) => {
      const next = { ...record, ttl: ttl === Number.POSITIVE_INFINITY ? null : ttl };
      const expiresAt = expiryOf(next, Number.POSITIVE_INFINITY);
      // A client may be using it, and knows of a longer one.
      return { ...next, expiresAt: expiresAt && Math.max(expiresAt, Date.now() + 1.1 * TOUCH_INTERVAL) };
    });
  }

  /**
   * Removes a session, whatever it is, unless another has taken its place meanwhile.
   *
   * @param options - `end`: whether it is ended on its server first (DELETE, at most 2 s), as well as that can be done. Default true.
   * @returns whether it was there
   * @throws what `access` throws, and StoreError where the store cannot read it, unless `end` is false; then nothing was removed
   */
  async delete(key: string, { end = true }: { readonly end?: boolean } = {}): Promise<boolean> {
    requireString('key', key);
    checkCleanupOptions({ end });
    if (!key.startsWith(SESSIONS)) return false;
    const stored = await this.#store.get(key).catch((error: unknown) => {
      if (end) throw error;
    });
    if (end && !stored) return false;
    const entry = stored && readEntry(key, stored);
    // What cannot be read: there is no telling whether it is still the same.
    if (!entry) return this.#store.delete(key);
    if (end) await (await this.#farewellOf(entry))();
    return contend(async () => {
      const now = await this.#store.get(key);
      return now && readEntry(key, now)?.record.id === entry.record.id ? this.#store.delete(key, now.revision) : false;
    });
  }

  /**
   * Removes expired sessions, and ends them on their servers where that is possible; and what expired durable calls have left.
   *
   * @returns how many of both were removed
   * @throws what went wrong with one of them, or an `AggregateError`, when all others are done
   */
  async cleanupExpired(options: CleanupOptions = {}): Promise<number> {
    checkCleanupOptions(options);
    return this.#cleanup(options);
  }

  /**
   * Does {@link cleanupExpired} again and again, one after another. The timer does not keep the process alive.
   *
   * @param options - `interval`: how long to wait before each time, in ms. Default 10 minutes. `onError`: hears what a time fails with.
   * @returns what stops it; resolves when what is under way has come to its end
   */
  startCleanup({
    interval = INTERVAL,
    onError,
    ...options
  }: CleanupOptions & { readonly interval?: number; readonly onError?: (error: unknown) => void } = {}): { stop(): Promise<void> } {
    checkCleanupOptions({ ...options, interval, ...(onError ? { onError } : {}) }, 'again');
    const end = new AbortController();
    let running: Promise<void> = Promise.resolve();
    let stopTimer = (): void => {};
    const run = async (): Promise<void> => {
      await this.#cleanup(options, end.signal).catch((error: unknown) => tell(onError, error));
      if (!end.signal.aborted) wait();
    };
    const wait = (): void => {
      stopTimer = afterIdle(interval, () => (running = run()));
    };
    wait();
    return {
      stop: async () => {
        end.abort();
        stopTimer();
        await running;
      },
    };
  }

  async stats(filter: SessionFilter = {}): Promise<SessionStats> {
    const now = Date.now();
    const calls = new Map<string, number>();
    const counts = { active: 0, expired: 0 };
    let unreadable = 0;
    let age = 0;
    const count = (_entry: Entry, session: StoredSession): void => {
      counts[session.state]++;
      age += Math.max(0, now - session.createdAt);
      for (const [tool, times] of Object.entries(session.calls)) calls.set(tool, (calls.get(tool) ?? 0) + times);
    };
    await this.#visit(filter, count, () => unreadable++);
    const total = counts.active + counts.expired;
    return { total, ...counts, unreadable, averageAge: total === 0 ? 0 : age / total, calls: Object.fromEntries(calls) };
  }

  /**
   * The sessions as a plain object, for a backup or for another machine. **It holds secrets**: whoever has it can act as these clients.
   * It does not hold what durable calls have left.
   */
  async export(filter: SessionFilter = {}): Promise<SessionsBackup> {
    const sessions: SessionRecord[] = [];
    let unreadable = 0;
    await this.#visit(filter, (entry) => void sessions.push(packed(entry)), () => unreadable++);
    return { v: 1, exportedAt: Date.now(), sessions, unreadable };
  }

  /**
   * Puts sessions of a backup into the store, each after a look at what it says. Their times stay. Import only what you trust: a client
   * believes what is in its store.
   *
   * @param options - `overwrite`: whether they take the place of sessions that are there. Default false.
   * @returns what became of each, in their order
   * @throws TypeError for what is no backup
   */
  async import(data: SessionsBackup, { overwrite = false }: { readonly overwrite?: boolean } = {}): Promise<ImportResult[]> {
    if (typeof overwrite !== 'boolean') throw new TypeError('overwrite must be true or false');
    const results: ImportResult[] = [];
    await inParallel(sessionsIn(data).entries(), READS, async ([i, session]) => {
      results[i] = await importSession(this.#store, session, overwrite);
    });
    return results;
  }

  async #visit(filter: SessionFilter, visit: (entry: Entry, session: StoredSession) => void, onUnreadable = (): void => {}): Promise<void> {
    checkSessionFilter(filter);
    const selection = await selectionOf(filter);
    const look = (key: string, stored: StoredValue | undefined): void => {
      const entry = stored && readEntry(key, stored);
      const session = entry && describeSession(entry);
      if (!session) onUnreadable();
      else if (selection.has(session)) visit(entry, session);
    };
    await eachStored(this.#store, { prefix: selection.prefix, limit: READS, hasKey: selection.hasKey, look });
  }

  async #find(key: string): Promise<Entry | undefined> {
    requireString('key', key);
    const stored = key.startsWith(SESSIONS) ? await this.#store.get(key) : undefined;
    const entry = stored && readEntry(key, stored);
    if (stored && !entry) throw new StoreError('The stored session cannot be read.');
    return entry;
  }

  async #rewrite(key: string, next: (entry: Entry) => SessionRecord): Promise<StoredSession | undefined> {
    return contend(async () => {
      const entry = await this.#find(key);
      if (!entry) return undefined;
      const record = next(entry);
      await this.#store.set(key, serializeRecord(record), entry.revision);
      return describeSession({ ...entry, record });
    });
  }

  #cleanup({ end = true, unreadable = false }: CleanupOptions, signal?: AbortSignal): Promise<number> {
    return removeExpired({ store: this.#store, end, unreadable, signal, farewellOf: (entry) => this.#farewellOf(entry) });
  }

  /** Asks for what it takes, and then ends it. */
  async #farewellOf(entry: Entry): Promise<() => Promise<boolean>> {
    const access = await within(Promise.resolve(this.#access(describeSession(entry))), ACCESS_TIMEOUT);
    return () => endSession(entry.record, access);
  }
}

/** A listener must not be able to break the cleanup: neither by throwing nor by rejecting. */
function tell(listener: ((error: unknown) => unknown) | undefined, error: unknown): void {
  try {
    void Promise.resolve(listener?.(error)).catch(() => undefined);
  } catch {
    // Its own affair.
  }
}
