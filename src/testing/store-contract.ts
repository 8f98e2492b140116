import type { Lock, Store } from '../storage/store.ts';
import { after } from '../timers.ts';
import { failureCases } from './failure-cases.ts';
import { faultCases } from './fault-cases.ts';
import { lockCases } from './lock-cases.ts';
import { processCases } from './process-cases.ts';
import { valueCases } from './value-cases.ts';
import { writeCases } from './write-cases.ts';

/** What the contract needs of a test framework: the `describe` and `it` of Vitest, Jest, Mocha, node:test and others. */
export interface TestFramework {
  describe(name: string, body: () => void): unknown;
  readonly it: {
    (name: string, body: () => Promise<void>): unknown;
    /** Where there is one, the cases that are left out are registered by it, so that nobody believes that all was examined. */
    skip?(name: string, body: () => Promise<void>): unknown;
  };
}

/** How the contract makes the stores that it examines. Cases for which something is missing here are left out, and named as such. */
export interface StoreAdapter {
  /** Makes a store over data of its own, which is empty. Called once for each case. */
  create(): Store | Promise<Store>;
  /** Opens a further store over the data of `first`, as another process or the next one would. Leave it out where nothing is shared and nothing stays. */
  reopen?(first: Store): Store | Promise<Store>;
  /** Removes the data of `first`. All the stores of the case are closed by then. */
  destroy?(first: Store): void | Promise<void>;
  /**
   * Takes a lock over the data of `first` in a place that can be made to stand still: another process, a worker, a store whose
   * timers and calls stop.
   */
  holdElsewhere?(first: Store, key: string, ttl: number): HeldElsewhere | Promise<HeldElsewhere>;
  /** The place that `holdElsewhere` makes stand still never goes on again: it was killed. Default false. */
  readonly pausesForGood?: boolean;
  /** Makes the backend of `first` stop answering, for its values and its locks, until the function is called that it returns. */
  hang?(first: Store): (() => void | Promise<void>) | Promise<() => void | Promise<void>>;
  /**
   * Starts another process (worker, tab) over the data of `first`, up to where it could begin: to add one to the number under `key`, by
   * `get` and a `set` that expects what was found, once more after each `ConflictError`, and this `turns` times.
   *
   * @param counted - To be called here for each one that the process says it has added.
   */
  spawn?(first: Store, key: string, turns: number, counted: () => void): Counter | Promise<Counter>;
  /**
   * Makes one step into the backend of `first` fail: the n-th from now on, from 1. A step is what can fail by itself: a call of the file
   * system, a command over the network that is lost, or whose answer is. The function that it returns puts the backend right again,
   * and tells whether it came to that step.
   */
  failStep?(first: Store, n: number): (() => boolean | Promise<boolean>) | Promise<() => boolean | Promise<boolean>>;
  /**
   * Damages what is stored under `key`, which is the only value there, in one way after another: cut off at each byte, each bit flipped.
   * Yields what it has done just now. Before the next one, and at the end, all is as it was.
   */
  damage?(first: Store, key: string): AsyncIterable<string> | Iterable<string>;
  /**
   * The names of all that is in the backend of `first`, except what may stay for good (a counter of fencing numbers) and what goes by
   * itself (a key that expires). It is asked when all values are deleted, all locks released and all stores closed. Where a store
   * leaves remains alone until they are old, this makes them old.
   */
  leftovers?(first: Store): readonly string[] | Promise<readonly string[]>;
  /** The ttl of locks that are taken over, in ms. Long enough that a busy machine renews a lock in time. Default 1,000. */
  readonly ttl?: number;
  /** The most that one case may take, in ms. Default 20,000. The framework's own limit should be above it. */
  readonly limit?: number;
}

export interface HeldElsewhere {
  /** As that place has it. */
  readonly lock: Lock;
  /** Makes the place stand still, so that it renews nothing any more. */
  pause(): void | Promise<void>;
  /** Lets it go on where it stopped. */
  resume?(): void | Promise<void>;
}

/** One who counts in another place, and has not begun. */
export interface Counter {
  /** Lets it begin. Resolves when it is gone and all that it said was heard, also where it was killed; rejects where it failed. */
  run(): Promise<unknown>;
  /** Ends it at once, whatever it is doing. It may be gone already. */
  kill(): unknown;
}

/** What a case has at hand. */
export interface Subject {
  readonly store: Store;
  reopen(): Promise<Store>;
  holdElsewhere(key: string, ttl: number): Promise<HeldElsewhere>;
  hang(): Promise<() => void | Promise<void>>;
  spawn(key: string, turns: number, counted: () => void): Promise<Counter>;
  failStep(n: number): Promise<() => boolean | Promise<boolean>>;
  damage(key: string): AsyncIterable<string> | Iterable<string>;
  leftovers(): Promise<readonly string[]>;
}

type Hook = 'reopen' | 'holdElsewhere' | 'hang' | 'spawn' | 'failStep' | 'damage' | 'leftovers';
type Need = Hook | 'resume';

/** Where the files of cases register them. */
export interface Contract {
  readonly group: (name: string, body: () => void) => void;
  /** @param needs - What of the adapter the case cannot do without. */
  readonly check: (name: string, body: (subject: Subject) => Promise<void>, ...needs: readonly Need[]) => void;
  readonly ttl: number;
}

/**
 * The contract that every store keeps, as tests: registers them with a test framework.
 *
 * ```ts
 * import { describe, it } from 'vitest';
 * import { storeContract } from 'mcp-reprise/testing';
 *
 * describe('my store', () => {
 *   storeContract({ describe, it }, { create: () => myStore(randomName()), … });
 * });
 * ```
 *
 * The more of the adapter's functions there are, the more is examined: `reopen` and `spawn` bring what holds among processes, also
 * when they are killed; `holdElsewhere` the takeover of locks; `hang` that an error comes within 3 s; `failStep`, `damage` and `leftovers`
 * what a backend's failures may cost. With all of them it takes some 20 s.
 *
 * @returns The names of the cases that are left out, each with what the adapter lacks.
 */
export function storeContract({ describe, it }: TestFramework, adapter: StoreAdapter): readonly string[] {
  if (typeof describe !== 'function' || typeof it !== 'function') throw new TypeError('storeContract({ describe, it }, adapter) needs the describe and it of a test framework');
  if (typeof adapter?.create !== 'function') throw new TypeError('storeContract needs an adapter with a function create() that makes a store');
  const left: string[] = [];
  let title = '';
  let cases: (() => void)[] = [];
  const contract: Contract = {
    group(name, body) {
      title = name;
      cases = [];
      body();
      const found = cases;
      // Some frameworks do not like a group without tests.
      if (found.length > 0) void describe(name, () => found.forEach((register) => register()));
    },
    check(name, body, ...needs) {
      const test = (): Promise<void> => examine(adapter, body);
      const missing = needs.find((need) => !meets(adapter, need));
      if (missing === undefined) {
        cases.push(() => void it(name, test));
        return;
      }
      const why = `(not examined: the adapter has no ${missing})`;
      left.push(`${title} ${name} ${why}`);
      if (it.skip) cases.push(() => void it.skip?.(`${name} ${why}`, test));
    },
    ttl: adapter.ttl ?? 1_000,
  };
  valueCases(contract);
  writeCases(contract);
  processCases(contract);
  lockCases(contract);
  failureCases(contract);
  faultCases(contract);
  return left;
}

function meets(adapter: StoreAdapter, need: Need): boolean {
  return need === 'resume' ? adapter.holdElsewhere !== undefined && adapter.pausesForGood !== true : adapter[need] !== undefined;
}

/** Runs one case, on stores of its own. */
async function examine(adapter: StoreAdapter, body: (subject: Subject) => Promise<void>): Promise<void> {
  const limit = adapter.limit ?? 20_000;
  const store = await adapter.create();
  const stores = [store];
  const counters: Counter[] = [];
  try {
    const running = body({
      store,
      async reopen() {
        const next = (await adapter.reopen?.(store)) as Store;
        stores.push(next);
        return next;
      },
      holdElsewhere: async (key, ttl) => (await adapter.holdElsewhere?.(store, key, ttl)) as HeldElsewhere,
      hang: async () => (await adapter.hang?.(store)) as () => void,
      async spawn(key, turns, counted) {
        const counter = (await adapter.spawn?.(store, key, turns, counted)) as Counter;
        counters.push(counter);
        return counter;
      },
      failStep: async (n) => (await adapter.failStep?.(store, n)) as () => boolean,
      damage: (key) => adapter.damage?.(store, key) as Iterable<string>,
      leftovers: async () => (await adapter.leftovers?.(store)) as string[],
    });
    await inTime(running, limit);
  } finally {
    await Promise.allSettled(counters.map(async (each) => each.kill()));
    // A store that cannot be closed is a case of its own.
    await inTime(Promise.allSettled(stores.map((each) => each.close())), limit).catch(() => undefined);
    await adapter.destroy?.(store);
  }
}

/** A case that hangs says so by itself: not every framework tells which one it was. */
async function inTime<T>(task: Promise<T>, limit: number): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = after(limit, () => reject(new Error(`it took longer than ${limit} ms`)));
    void task.then(resolve, reject).finally(stop);
  });
}
