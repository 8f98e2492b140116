import type { Lock, Store } from '../storage/store.ts';
import { after } from '../timers.ts';
import { failureCases } from './failure-cases.ts';
import { lockCases } from './lock-cases.ts';
import { valueCases } from './value-cases.ts';
import { writeCases } from './write-cases.ts';

/** What the contract needs of a test framework: the `describe` and `it` of Vitest, Jest, Mocha, node:test and others. */
export interface TestFramework {
  describe(name: string, body: () => void): unknown;
  it(name: string, body: () => Promise<void>): unknown;
}

/** How the contract makes the stores that it examines. Cases for which something is missing here are left out. */
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

/** What a case has at hand. */
interface Subject {
  readonly store: Store;
  reopen(): Promise<Store>;
  holdElsewhere(key: string, ttl: number): Promise<HeldElsewhere>;
  hang(): Promise<() => void | Promise<void>>;
}

type Need = 'reopen' | 'holdElsewhere' | 'resume' | 'hang';

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
 * The more of the adapter's functions there are, the more is examined: `reopen` brings what holds among processes, `holdElsewhere`
 * the takeover of locks, `hang` that an error comes within 3 s. With all of them it takes about 15 s.
 */
export function storeContract({ describe, it }: TestFramework, adapter: StoreAdapter): void {
  const has = { reopen: adapter.reopen, holdElsewhere: adapter.holdElsewhere, resume: !adapter.pausesForGood && adapter.holdElsewhere, hang: adapter.hang };
  let cases: (() => void)[] = [];
  const contract: Contract = {
    group(name, body) {
      cases = [];
      body();
      const found = cases;
      // Some frameworks do not like a group without tests.
      if (found.length > 0) void describe(name, () => found.forEach((register) => register()));
    },
    check(name, body, ...needs) {
      if (needs.every((each) => has[each])) cases.push(() => void it(name, () => examine(adapter, body)));
    },
    ttl: adapter.ttl ?? 1_000,
  };
  valueCases(contract);
  writeCases(contract);
  lockCases(contract);
  failureCases(contract);
}

/** Runs one case, on stores of its own. */
async function examine(adapter: StoreAdapter, body: (subject: Subject) => Promise<void>): Promise<void> {
  const limit = adapter.limit ?? 20_000;
  const store = await adapter.create();
  const stores = [store];
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
    });
    await inTime(running, limit);
  } finally {
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
