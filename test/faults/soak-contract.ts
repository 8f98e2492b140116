import type { Outcome, Settled } from './soak-calls.ts';

/** What one process of clients is to do. */
export interface Life {
  readonly seed: number;
  readonly seat: number;
  readonly seats: number;
  readonly life: number;
  readonly url: string;
  /** The directory of its store, which it shares with the lives before and after it. */
  readonly store: string;
  /** The file for what it says. */
  readonly out: string;
  readonly clients: number;
  /** How many groups are under way at a time. */
  readonly window: number;
  /** All deadlines are so many times as long. */
  readonly patience: number;
  readonly groups: readonly number[];
  /** Durable calls of earlier lives that are to be made again. */
  readonly again: readonly number[];
  readonly end: 'kill' | 'close' | 'drain';
}

export interface LifeStats {
  retries: number;
  resets: number;
  resumed: number;
  warnings: Record<string, number>;
  connects: number;
  failedConnects: number;
  /** Messages that belonged to no request. */
  dropped: number;
  heap: number;
}

/** What it says, one line each. */
export type Line =
  | { readonly type: 'group'; readonly group: number }
  | ({ readonly type: 'settled' } & Settled)
  | { readonly type: 'again'; readonly nonce: number; readonly outcome: Outcome }
  | { readonly type: 'stats'; readonly stats: LifeStats }
  | { readonly type: 'violation'; readonly what: string; readonly nonce: number; readonly more?: unknown }
  /** It has closed everything and has nothing more to do: its process ends by itself. */
  | { readonly type: 'left'; readonly at: number };
