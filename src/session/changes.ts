import type { SessionRecord } from './record.ts';
import { type Counts, sumOf } from './tally.ts';

/** Changes of a record that are not yet written. Changes, not the whole: other processes have theirs. */
export class Changes {
  #fields: Partial<SessionRecord> = {};
  /** Subscriptions made (true) and given up (false). */
  readonly #subscriptions = new Map<string, boolean>();
  /** What is to be added to the counts. */
  calls: Counts = new Map();

  set(fields: Partial<SessionRecord>): void {
    Object.assign(this.#fields, fields);
  }

  /** They were about another session. */
  clearFields(): void {
    this.#fields = {};
  }

  subscribe(uri: string, subscribed: boolean): void {
    this.#subscriptions.set(uri, subscribed);
  }

  /** Takes in changes that were made before these, and could not be written. */
  putBefore(earlier: Changes): void {
    this.#fields = { ...earlier.#fields, ...this.#fields };
    for (const [uri, subscribed] of earlier.#subscriptions) {
      if (!this.#subscriptions.has(uri)) this.#subscriptions.set(uri, subscribed);
    }
  }

  dropCursor(): void {
    const { cursor: _, ...others } = this.#fields;
    this.#fields = others;
  }

  get isEmpty(): boolean {
    return this.isMinor && this.calls.size === 0 && this.#fields.lastUsedAt === undefined;
  }

  /** Whether it says no more than that the session was used. */
  get isMinor(): boolean {
    return this.#subscriptions.size === 0 && Object.keys(this.#fields).every((name) => name === 'lastUsedAt');
  }

  /** When the session was used last. */
  get lastUsedAt(): number {
    return this.#fields.lastUsedAt ?? 0;
  }

  /** What a record becomes by them. A last use that lies in the future is put right. */
  applyTo(record: SessionRecord, now = Date.now()): SessionRecord {
    const calls = sumOf(new Map(Object.entries(record.calls ?? {})), this.calls);
    return {
      ...record,
      ...this.#fields,
      lastUsedAt: Math.max(Math.min(record.lastUsedAt, now), this.lastUsedAt),
      subscriptions: this.#subscribed(record.subscriptions),
      ...(calls.size === 0 ? {} : { calls: Object.fromEntries(calls) }),
    };
  }

  #subscribed(before: readonly string[]): readonly string[] {
    if (this.#subscriptions.size === 0) return before;
    const all = new Set(before);
    for (const [uri, subscribed] of this.#subscriptions) {
      if (subscribed) all.add(uri);
      else all.delete(uri);
    }
    return [...all];
  }
}
