import { canonical } from '../canonical.ts';
import { StoreError } from '../errors.ts';
import type { Lock } from '../storage/store.ts';
import { Changes } from './changes.ts';
import { contend } from './contend.ts';
import { placeOf } from './key.ts';
import { expiryOf, faultOf, isExpired, type SessionRecord } from './record.ts';
import { afterIdle } from '../timers.ts';
import { Shelf, type ShelfOptions } from './shelf.ts';
import { addCalls, callOf, takeCalls } from './tally.ts';
import { askChange, type UserChange, type UserState, userState, withState } from './user-state.ts';

/** What a stored session must match to be taken up. */
interface SessionScope {
  readonly url: string;
  readonly principal: string | undefined;
}

export interface KeeperOptions extends ShelfOptions {
  readonly scope: SessionScope;
  /** How long an unused session is kept that has no TTL of its own, in ms. */
  readonly ttl: number;
}

/** The session that holds now, and the one in whose place it is. */
interface Claimed {
  readonly winner: SessionRecord;
  readonly replaced?: SessionRecord;
}

/** A moved cursor is written at most this often, in ms. */
const CURSOR_INTERVAL = 1000;
/** A use alone is written at most this often, in ms, and at least ten times within the TTL. */
export const TOUCH_INTERVAL = 60_000;
/** A use is not written where the store has one that is at most so much older, in ms. */
const SAME_USE = 1000;
/** Where a crowd leaves together not everybody can write how often he called what: each tries so often. */
const MINOR_TRIES = 16;

/**
 * Keeps one session's record in the store. Writes are compare-and-set and go one after another; none of them is waited for by a
 * call. The first failure of the store ends its use: one `warning`, and the client goes on with what it has in memory.
 */
export class SessionKeeper {
  readonly #options: KeeperOptions;
  readonly #shelf: Shelf;
  #record: SessionRecord | undefined;
  #changes = new Changes();
  /** The revision that the last {@link load} saw: what is there under another one was written by somebody since. */
  #seen: string | undefined;
  #writtenAt = 0;
  #queue: Promise<void> = Promise.resolve();
  #stored = false;
  #stopWaiting: (() => void) | undefined;
  /** How often the store had failed when it was last known to have the session. */
  #failuresKnown = 0;

  constructor(options: KeeperOptions) {
    this.#options = options;
    this.#shelf = new Shelf(options);
  }

  /** How often a use is written, in ms. `undefined` where it makes no difference: the session never expires. */
  get touchInterval(): number | undefined {
    const ttl = this.#record ? this.#ttlOf(this.#record) : Number.POSITIVE_INFINITY;
    return ttl === Number.POSITIVE_INFINITY ? undefined : Math.min(TOUCH_INTERVAL, ttl / 10);
  }

  /** The record as this process knows it. */
  get record(): SessionRecord | undefined {
    return this.#record && this.#changedBy(this.#changes, this.#record);
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
    const stored = await this.#shelf.get();
    this.#seen = stored?.revision;
    if (!stored) return undefined;
    const { record } = stored;
    if (!record) {
      this.#shelf.warn(`the stored session cannot be read: ${faultOf(stored.text)}; a new one is started`);
      return undefined;
    }
    if (!this.#isOurs(record)) {
      this.#shelf.warn('the stored session belongs to another server or principal; a new one is started');
      return undefined;
    }
    if (isExpired(record, Date.now())) return undefined;
    // What holds for the lost session is to hold for the next one, also where another process asked for it.
    this.#adopt(record);
    if (lost.has(record.id)) return undefined;
    if (record.initialized.protocolVersion > offer.protocolVersion) {
      this.#shelf.warn('the stored session speaks a newer version of the protocol than this client; a new one is started');
      return undefined;
    }
    if (canonical(record.capabilities) !== canonical(offer.capabilities)) {
      this.#shelf.warn('the stored session was made by a client with other capabilities; a new one is started (give it a `session` name of its own to keep both)');
      return undefined;
    }
    this.#stored = true;
    return record;
  }

  /**
   * Writes a new session in place of what {@link load} saw, with what the user kept with that. Returns the record that holds now: this
   * one, or the one of another process that was quicker; and the one that it replaced, where the server may still know that and
   * nobody will use it any more.
   */
  claim(record: SessionRecord, lost: ReadonlySet<string>): Promise<Claimed> {
    return this.#inTurn(() => this.#claim(record, lost));
  }

  async #claim(record: SessionRecord, lost: ReadonlySet<string>): Promise<Claimed> {
    const { key, ttl } = this.#options;
    const fresh = { ...record, ...placeOf(key) };
    const attempt = async (): Promise<Claimed> => {
      const there = await this.#shelf.get();
      const found = this.#shelf.failed ? this.#record : there?.record;
      const other = found && this.#isOurs(found) ? found : undefined;
      const alive = other && !lost.has(other.id) && !isExpired(other, Date.now());
      if (alive && there && there.revision !== this.#seen && canonical(other.capabilities) === canonical(fresh.capabilities)) return { winner: other };
      // What is expired is over, unless it was in use here to the end.
      const next = other && (alive || lost.has(other.id)) ? withUsers(fresh, other) : fresh;
      const claimed = { ...next, expiresAt: expiryOf(next, ttl) };
      await this.#shelf.set(claimed, there?.revision ?? null);
      const isOver = other && other.id !== claimed.id && !lost.has(other.id) && !alive;
      return { winner: claimed, ...(isOver ? { replaced: other } : {}) };
    };
    const claimed = await contend(attempt).catch((error: unknown) => {
      this.#shelf.fail(error);
      return attempt();
    });
    this.#adopt(claimed.winner);
    this.#stored ||= !this.#shelf.failed;
    return claimed;
  }

  /** Remembers a change; written at once when it must not be lost, otherwise when the last write is long enough ago. */
  update(change: Partial<SessionRecord>, now = Date.now()): void {
    if (!this.#record) return;
    this.#changes.set(change);
    const { cursor, lastUsedAt, ...urgent } = change;
    const interval = cursor !== undefined ? CURSOR_INTERVAL : (this.touchInterval ?? TOUCH_INTERVAL);
    const wait = this.#writtenAt + interval - now;
    // The first cursor is the most that there is to lose.
    const isFirst = cursor !== undefined && this.#record.cursor === undefined;
    if (Object.keys(urgent).length > 0 || wait <= 0 || isFirst) void this.#enqueue();
    else if (cursor !== undefined) this.#enqueueIn(Math.min(wait, interval));
  }

  /** The last that was heard is written too, and not only when more is heard: who is killed then leaves it to the next one. */
  #enqueueIn(delay: number): void {
    this.#stopWaiting ??= afterIdle(delay, () => void this.#enqueue());
  }

  /** Remembers that a subscription was made or given up. */
  subscribe(uri: string, subscribed: boolean): void {
    this.#changes.subscribe(uri, subscribed);
    void this.#enqueue();
  }

  /** A tool has answered: written with the next use. */
  count(tool: string): void {
    if (this.#record && !this.#shelf.failed) addCalls(this.#tallyOf(this.#record), callOf(tool));
  }

  /**
   * Changes what the user keeps with the session, atomically among all who share the store.
   *
   * @throws what `askChange` throws; StoreError when the store fails or the session was removed from it, or others were quicker every
   *   time: nothing was changed
   */
  edit(change: (session: UserState) => UserChange): Promise<UserState> {
    return this.#inTurn(() => contend(() => this.#edit(change)));
  }

  /**
   * A turn among all who share the session's place. `undefined` where the store fails: whoever asked goes on without.
   *
   * @throws the reason of `signal` when that aborts
   */
  lock(what: 'handshake' | 'stream', signal: AbortSignal): Promise<Lock | undefined> {
    return this.#shelf.lock(what, signal);
  }

  /**
   * Waits until a store that failed works again, and writes what has gathered meanwhile. Resolves to whether it has the session then.
   *
   * @throws the reason of `signal` when that aborts
   */
  async recovered(id: string, signal: AbortSignal): Promise<boolean> {
    let there: SessionRecord | undefined;
    do {
      await this.#shelf.rested(signal);
      await this.flush();
      there = await this.latest(id);
    } while (this.#shelf.failed);
    this.#stored ||= there !== undefined;
    return there !== undefined;
  }

  /** Whether there is a session that is not known to be lost. */
  async peek(lost: ReadonlySet<string>): Promise<boolean> {
    const record = (await this.#shelf.get())?.record;
    return record !== undefined && !lost.has(record.id) && !isExpired(record, Date.now());
  }

  /** What is stored of this session now. */
  async latest(id: string): Promise<SessionRecord | undefined> {
    const record = (await this.#shelf.get())?.record;
    return record?.id === id ? record : undefined;
  }

  /**
   * Whether the place in the store has gone to another session, so that nobody will find this one again. Where it is empty, others may
   * still be using the session: one that is left on its server costs less than a call whose outcome is unknown.
   */
  async isDisplaced(id: string): Promise<boolean> {
    const other = (await this.#shelf.get())?.record;
    return other !== undefined && other.id !== id;
  }

  /** Another one listens, and may be further by now. */
  dropCursor(): void {
    this.#changes.dropCursor();
    this.#stopWaiting?.();
    this.#stopWaiting = undefined;
  }

  /** Writes what is not yet written. Never rejects. */
  flush(): Promise<void> {
    return this.#enqueue({ leaving: true });
  }

  /** Runs a write after those that were asked for before: whoever waits for the last one, to leave, waits for all. */
  #inTurn<T>(write: () => Promise<T>): Promise<T> {
    const turn = this.#queue.then(write);
    this.#queue = turn.then(() => undefined, () => undefined);
    return turn;
  }

  #enqueue({ leaving = false } = {}): Promise<void> {
    this.#stopWaiting?.();
    this.#stopWaiting = undefined;
    this.#queue = this.#queue.then(() => this.#write(leaving));
    return this.#queue;
  }

  /** Forgets the session, in memory and in the store, if the store still holds this one. */
  async forget(id: string): Promise<void> {
    if (this.#record?.id === id) {
      takeCalls(this.#tallyOf(this.#record));
      this.#record = undefined;
    }
    this.#stored = false;
    this.#changes = new Changes();
    this.#stopWaiting?.();
    this.#stopWaiting = undefined;
    await this.#queue;
    const attempt = async (): Promise<void> => {
      const there = await this.#shelf.get();
      if (there?.record?.id === id) await this.#shelf.delete(there.revision);
    };
    await contend(attempt).catch((error: unknown) => this.#shelf.fail(error));
  }

  async #edit(change: (session: UserState) => UserChange): Promise<UserState> {
    const there = await this.#shelf.get();
    this.#checkStore();
    const current = there?.record && this.#isOurs(there.record) ? there.record : undefined;
    const before = current ?? this.#record ?? {};
    const kept = askChange(userState(before), change);
    if (Object.keys(kept).length > 0) {
      if (there && current) await this.#shelf.set(withState(current, kept), there.revision);
      else if (!there && this.#record) await this.#storeAnew(withState(this.#record, kept));
      this.#checkStore();
    }
    const after = withState(before, kept);
    this.#record &&= withState(this.#record, after);
    return userState(after);
  }

  async #storeAnew(record: SessionRecord): Promise<void> {
    if (this.#mayBeUnsaved) await this.#shelf.set(record, null);
    else throw new StoreError('The session was not changed: it was removed from the store.', { advice: 'Close the client and connect again: that makes a session that is stored.' });
  }

  /** A change in memory only would be gone with the process, or undo what others have changed. */
  #checkStore(): void {
    if (!this.#shelf.failed) return;
    throw new StoreError('The session was not changed: the store fails.', { advice: 'Make the change again when the store works; it is tried again after 30 s.', cause: this.#shelf.lastError });
  }

  async #write(leaving: boolean): Promise<void> {
    const changes = this.#changes;
    const record = this.#record;
    // While the store rests they gather.
    if (!record || this.#shelf.failed) return;
    changes.calls = takeCalls(this.#tallyOf(record));
    if (changes.isEmpty) return;
    this.#changes = new Changes();
    this.#record = this.#changedBy(changes, record);
    this.#writtenAt = Date.now();
    const attempt = async (): Promise<void> => {
      const there = await this.#shelf.get();
      const current = there?.record;
      if (!there && !this.#shelf.failed) {
        if (this.#mayBeUnsaved) await this.#shelf.set(this.#changedBy(changes, record), null);
        else if (!leaving) this.#shelf.warn('the session was removed from the store: it is kept in memory only');
        this.#stored ||= !this.#shelf.failed;
      }
      // Deleted, or replaced by another session: ours has no claim on the place.
      if (current?.id !== record.id) return;
      // A write that failed may have been done.
      this.#stored = true;
      const isSame = Math.abs(changes.lastUsedAt - current.lastUsedAt) < Math.min(SAME_USE, this.#ttlOf(current) / 10);
      // Many leave at the same time: what another process has just said of its use, holds for ours too.
      if (isSame && changes.isMinor && changes.calls.size === 0) return;
      const next = this.#changedBy(changes, current);
      await this.#shelf.set(next, there?.revision ?? null);
      // What others have set meanwhile.
      if (this.#record?.id === record.id) this.#record = withUsers(this.#record, next);
    };
    // Where others were quicker every time, so much is missing; the calls are left to who writes next in this process.
    await contend(attempt, changes.isMinor ? MINOR_TRIES : undefined).catch(() => addCalls(this.#tallyOf(record), changes.calls));
    if (this.#shelf.failed && this.#record?.id === record.id) this.#changes.putBefore(changes);
    if (!this.#shelf.failed) this.#failuresKnown = this.#shelf.failures;
  }

  /** The store never had the session, or has failed since it was seen there: it may have lost it, which is no reason for us to. */
  get #mayBeUnsaved(): boolean {
    return !this.#stored || this.#shelf.failures > this.#failuresKnown;
  }

  /** A session id goes only to the server and for the principal that it was minted for (G7), whatever the key says. */
  #isOurs({ url, principal }: SessionRecord): boolean {
    return url === this.#options.scope.url && principal === this.#options.scope.principal;
  }

  #adopt(record: SessionRecord): void {
    // What was counted for another session ends with it.
    if (this.#record && this.#record.id !== record.id) takeCalls(this.#tallyOf(this.#record));
    this.#record = record;
    this.#changes.clearFields();
    // A use that lies in the future is put right by the next one, at once.
    this.#writtenAt = record.lastUsedAt > Date.now() ? 0 : record.lastUsedAt;
  }

  #changedBy(changes: Changes, record: SessionRecord): SessionRecord {
    if (changes.isEmpty) return record;
    const next = changes.applyTo(record);
    const own = expiryOf(next, this.#options.ttl);
    // Where clients say different things the longest TTL counts: otherwise one of them would lose the session to another's.
    const others = record.ttl === undefined && record.lastUsedAt <= Date.now() ? record.expiresAt : own;
    return { ...next, expiresAt: own === null || others === null ? null : Math.max(own, others) };
  }

  #tallyOf({ id }: SessionRecord): string {
    return `${this.#options.key} ${id}`;
  }

  #ttlOf({ ttl = this.#options.ttl }: SessionRecord): number {
    return ttl ?? Number.POSITIVE_INFINITY;
  }
}

/** A record with what is the user's own in another one. */
function withUsers(record: SessionRecord, { metadata, data, ttl }: SessionRecord): SessionRecord {
  return { ...record, ...(metadata && { metadata }), ...(data && { data }), ...(ttl === undefined ? {} : { ttl }) };
}
