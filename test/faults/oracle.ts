import { closeSync, openSync, readSync } from 'node:fs';
import { type CallKind, planCallOf } from './plan.ts';
import type { Outcome, Settled } from './soak-calls.ts';
import type { LifeStats, Line } from './soak-contract.ts';

export interface Violation {
  readonly what: string;
  /** The call, if it is about one. */
  readonly nonce?: number;
  readonly more?: unknown;
}

export interface OracleOptions {
  readonly seed: number;
  readonly calls: number;
  readonly seats: number;
  /** Of each seat. */
  readonly clients: number;
  onViolation(violation: Violation): void;
}

const OUTCOMES: readonly Outcome[] = ['answered', 'error', 'not-sent', 'refused', 'unknown'];
/** Kinds of calls that run a tool. */
const RUNS: ReadonlySet<CallKind> = new Set(['safe', 'unsafe', 'progress', 'durable', 'aborted']);

/**
 * Holds what the clients say of each call against what the servers did. It keeps a few bytes for each call until the end, so that an
 * execution which comes too late is seen too.
 */
export class Oracle {
  readonly #options: OracleOptions;
  readonly #runs: Uint8Array;
  /** 0: nothing is known; 1: begun; above: an outcome. */
  readonly #states: Uint8Array;
  readonly #answers = new Map<number, string>();
  /** Said to be answered, and not yet held against the executions. */
  #answered: number[] = [];
  /** By kind and outcome. */
  readonly outcomes: Record<string, Record<string, number>> = {};
  readonly codes: Record<string, number> = {};
  readonly durable = { joined: 0, madeAgain: 0, answeredAgain: 0 };
  /** Durable calls whose answer is not there when they are made again: the store failed, or was too slow for their time. */
  excused = 0;
  settled = 0;
  executions = 0;
  attempts = 0;

  constructor(options: OracleOptions) {
    this.#options = options;
    this.#runs = new Uint8Array(options.calls);
    this.#states = new Uint8Array(options.calls);
  }

  kindOf(nonce: number): CallKind {
    const { seed, seats, clients } = this.#options;
    return planCallOf(seed, nonce, seats, clients).kind;
  }

  runsOf(nonce: number): number {
    return this.#runs[nonce] ?? 0;
  }

  /** The calls in a range that were begun and not settled. */
  open(from: number, to: number): number[] {
    const found: number[] = [];
    for (let nonce = from; nonce < to; nonce++) if (this.#states[nonce] === 1) found.push(nonce);
    return found;
  }

  begin(from: number, to: number): void {
    for (let nonce = from; nonce < to; nonce++) this.#states[nonce] ||= 1;
  }

  /** A server ran a call. */
  ran(nonce: number): void {
    this.executions++;
    const runs = (this.#runs[nonce] = (this.#runs[nonce] ?? 0) + 1);
    const kind = this.kindOf(nonce);
    if (runs > 1 && kind !== 'safe') this.#violate(`a call that is not safe (${kind}) ran ${runs} times`, nonce);
    this.#holdAgainst(nonce, OUTCOMES[(this.#states[nonce] ?? 0) - 2]);
  }

  settle(settled: Settled): void {
    const { nonce, outcome, attempts, code, run, again, warned } = settled;
    const kind = this.kindOf(nonce);
    const before = OUTCOMES[(this.#states[nonce] ?? 0) - 2];
    if (before === undefined) this.settled++;
    else this.durable.joined += outcome === 'answered' ? 1 : 0;
    this.attempts += attempts;
    const counts = (this.outcomes[kind] ??= {});
    counts[outcome] = (counts[outcome] ?? 0) + 1;
    if (code !== '') this.codes[code] = (this.codes[code] ?? 0) + 1;
    // Where the store fails, or takes longer than there is time, a call that was made before is not found: this says nothing of the first time.
    if (again && outcome === 'not-sent' && attempts === 0) return;
    // An answer is handed over though its store takes long to keep it: who comes meanwhile waits, and may run out of time, or leave.
    if (before === 'answered' && outcome !== 'answered' && (warned || code === 'DEADLINE' || code === 'CLOSED')) this.excused++;
    else if (before === 'answered' && outcome !== 'answered') this.#violate(`a durable call was answered, and when it is made again it fails`, nonce, settled);
    else this.#states[nonce] = OUTCOMES.indexOf(outcome) + 2;
    if (outcome === 'answered' && RUNS.has(kind)) {
      this.#answered.push(nonce);
      if (kind === 'durable') {
        const first = this.#answers.get(nonce) ?? run;
        if (first !== run) this.#violate(`a durable call has two answers, ${first} and ${run}`, nonce, settled);
        this.#answers.set(nonce, run);
      }
    }
    this.#holdAgainst(nonce, outcome, settled);
  }

  /** Every execution before now has been heard of: what is said to be answered has run. */
  check(): void {
    const answered = this.#answered;
    this.#answered = [];
    for (const nonce of answered) if (this.runsOf(nonce) === 0) this.#violate('a call was answered, and never ran', nonce);
  }

  #holdAgainst(nonce: number, outcome: Outcome | undefined, more?: unknown): void {
    const runs = this.runsOf(nonce);
    if (runs > 0 && (outcome === 'not-sent' || outcome === 'refused')) this.#violate(`a call ended as "${outcome}", and ran ${runs} times`, nonce, more);
  }

  #violate(what: string, nonce: number, more?: unknown): void {
    this.#options.onViolation({ what, nonce, more });
  }
}

/** A file that others write, line by line. */
export class Tail {
  readonly #file: number;
  readonly #buffer = Buffer.alloc(1 << 18);
  #rest = '';

  constructor(path: string) {
    this.#file = openSync(path, 'a+');
  }

  /** Hands over what has been written since the last time. */
  read(hear: (line: string) => void): void {
    for (;;) {
      const length = readSync(this.#file, this.#buffer, 0, this.#buffer.length, this.#read);
      if (length === 0) return;
      this.#read += length;
      const lines = (this.#rest + this.#buffer.toString('latin1', 0, length)).split('\n');
      this.#rest = lines.pop() ?? '';
      for (const line of lines) hear(line);
    }
  }

  close(): void {
    closeSync(this.#file);
  }

  #read = 0;
}

/** The figures of all clients, of those that were killed up to their last word. */
export class Figures {
  readonly #lives = new Map<string, LifeStats>();

  hear(life: string, { stats }: Extract<Line, { type: 'stats' }>): void {
    this.#lives.set(life, stats);
  }

  sum(): LifeStats {
    const sum: LifeStats = { retries: 0, resets: 0, resumed: 0, warnings: {}, connects: 0, failedConnects: 0, dropped: 0, heap: 0 };
    for (const stats of this.#lives.values()) {
      for (const name of ['retries', 'resets', 'resumed', 'connects', 'failedConnects', 'dropped'] as const) sum[name] += stats[name];
      for (const [text, count] of Object.entries(stats.warnings)) sum.warnings[text] = (sum.warnings[text] ?? 0) + count;
      sum.heap = Math.max(sum.heap, stats.heap);
    }
    return sum;
  }
}
