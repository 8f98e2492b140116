import { CONTENDERS, type ContenderName } from './contender.ts';
import type { BenchServer, Network } from './lab.ts';

/** Something that a trial finds out about each contender. */
interface Figure {
  readonly key: string;
  readonly title: string;
  readonly unit: string;
  /** Divides ours by another's, or not: what the goal is held against. Default `'ratio'`. */
  readonly as?: 'ratio' | 'value';
  /** By whose ours is divided. Default `'sdk'`. */
  readonly than?: Exclude<ContenderName, 'ours'>;
  /** What is to be reached, if anything is, and whether `value`, the ratio or ours as it is, does. */
  readonly goal?: Goal;
  /** Belongs to a line of the plot of growth, at `x`. */
  readonly point?: Point;
}

export interface Goal {
  readonly text: string;
  met(value: number): boolean;
}

interface Point {
  readonly line: string;
  readonly x: number;
}

type Sample = Readonly<Record<string, number>>;

export interface Bench {
  readonly quick: boolean;
  readonly server: BenchServer;
  /** The same server behind a network of 50 ms. */
  readonly far: Network;
}

export interface Trial {
  readonly name: string;
  readonly rounds: { readonly quick: number; readonly full: number };
  readonly contenders?: readonly ContenderName[];
  readonly figures: readonly Figure[] | ((bench: Bench) => readonly Figure[]);
  /** Returns what takes one sample of a contender, and what ends it all. */
  begin(bench: Bench): Promise<Arena>;
}

interface Arena {
  sample(contender: ContenderName): Promise<Sample>;
  end(): Promise<void>;
}

export interface Spread {
  readonly median: number;
  readonly q1: number;
  readonly q3: number;
  readonly samples: number;
}

export interface Result {
  readonly trial: string;
  readonly key: string;
  readonly title: string;
  readonly unit: string;
  readonly contenders: Partial<Record<ContenderName, Spread>>;
  /** Ours to the other's, of each round. */
  readonly ratio: Spread | undefined;
  readonly goal: string;
  readonly met: boolean | undefined;
  readonly point: Point | undefined;
}

/** All contenders take turns in every round, in an order that chance decides: what else the machine does meets them alike. */
export async function run(trial: Trial, bench: Bench, onRound: (round: number, rounds: number) => void): Promise<Result[]> {
  const contenders = trial.contenders ?? CONTENDERS;
  const rounds = bench.quick ? trial.rounds.quick : trial.rounds.full;
  const samples: Partial<Record<ContenderName, Sample>>[] = [];
  const arena = await trial.begin(bench);
  try {
    for (let round = 0; round < rounds; round++) {
      onRound(round + 1, rounds);
      const taken: Partial<Record<ContenderName, Sample>> = {};
      for (const contender of shuffled(contenders)) taken[contender] = await arena.sample(contender);
      samples.push(taken);
    }
  } finally {
    await arena.end();
  }
  const figures = typeof trial.figures === 'function' ? trial.figures(bench) : trial.figures;
  return figures.map((figure) => judge(trial.name, figure, contenders, samples));
}

function judge(trial: string, { key, title, unit, as = 'ratio', than = 'sdk', goal, point }: Figure, contenders: readonly ContenderName[], samples: readonly Partial<Record<ContenderName, Sample>>[]): Result {
  const of = (contender: ContenderName): number[] => samples.map((sample) => sample[contender]?.[key]).filter((value) => value !== undefined);
  const spreads = Object.fromEntries(contenders.filter((each) => of(each).length > 0).map((each) => [each, spreadOf(of(each))])) as Result['contenders'];
  const pairs = samples.flatMap((sample) => {
    const [theirs, mine] = [sample[than]?.[key], sample.ours?.[key]];
    return theirs && mine !== undefined ? [mine / theirs] : [];
  });
  const ratio = pairs.length > 0 ? spreadOf(pairs) : undefined;
  const ours = spreads.ours?.median;
  const value = as === 'ratio' ? ratio?.median : ours;
  return { trial, key, title, unit, contenders: spreads, ratio, goal: goal?.text ?? '', met: value === undefined ? undefined : goal?.met(value), point };
}

function spreadOf(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (q: number): number => {
    const place = q * (sorted.length - 1);
    const [low, high] = [sorted[Math.floor(place)] as number, sorted[Math.ceil(place)] as number];
    return low + (high - low) * (place % 1);
  };
  return { median: at(0.5), q1: at(0.25), q3: at(0.75), samples: sorted.length };
}

function shuffled<T>(list: readonly T[]): T[] {
  return list.map((each) => ({ each, at: Math.random() })).sort((a, b) => a.at - b.at).map(({ each }) => each);
}

const worded = (limit: number, unit: string): string => `${limit.toLocaleString('en-US')}${unit === '' ? '' : ` ${unit}`}`;
export const atMost = (limit: number, unit = ''): Goal => ({ text: `≤ ${worded(limit, unit)}`, met: (value) => value <= limit });
export const atLeast = (limit: number, unit = ''): Goal => ({ text: `≥ ${worded(limit, unit)}`, met: (value) => value >= limit });
