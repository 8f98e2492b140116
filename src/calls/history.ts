import type { FailedOutcome } from '../errors.ts';

/** One call, as it is remembered. */
export interface CallRecord {
  /** Counts the client's calls, as the `retry` event does. */
  readonly call: number;
  readonly method: string;
  /** What it was about: the name of the tool or prompt, or the URI of the resource. */
  readonly name?: string;
  /** Unix time in ms. */
  readonly startedAt: number;
  /** From the call to its answer or error, with all waits, in ms. */
  readonly duration: number;
  /** How often it was sent. 0: it never left, or another caller's answer or a list kept with the session did for it too. */
  readonly attempts: number;
  /** `'answered'`: by a result, or by an error of the server (`error`); `'refused'`: by one that says that it did not run. */
  readonly outcome: 'answered' | FailedOutcome;
  /** The result of a tool says `isError`. */
  readonly isError?: boolean;
  /** The `code` of the error: ours (a string) or the server's (a number). */
  readonly code?: string | number;
  /** The text of the error. */
  readonly error?: string;
  /** Another caller had asked for the same: its answer did for both. */
  readonly shared?: boolean;
  /** Only with `history: { payloads: true }`. */
  readonly params?: unknown;
  /** Only with `history: { payloads: true }`. */
  readonly result?: unknown;
}

/** The last calls: the oldest go first. */
export class History {
  readonly #size: number;
  readonly #records: CallRecord[] = [];
  #oldest = 0;

  constructor(size: number) {
    this.#size = size;
  }

  add(record: CallRecord): void {
    if (this.#size === 0) return;
    if (this.#records.length < this.#size) this.#records.push(record);
    else {
      this.#records[this.#oldest] = record;
      this.#oldest = (this.#oldest + 1) % this.#size;
    }
  }

  /** A copy, oldest first. */
  list(): readonly CallRecord[] {
    return [...this.#records.slice(this.#oldest), ...this.#records.slice(0, this.#oldest)];
  }
}
