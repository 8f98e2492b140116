import { setTimeout as sleep } from 'node:timers/promises';

export interface Campaign {
  readonly seed: number;
  readonly count: number;
  /** Only this one. */
  readonly only?: number | undefined;
  readonly onProgress?: ((done: number) => void) | undefined;
}

/** So many blocks run at a time: most wait for something, and some for a deadline. */
const AT_A_TIME = 150;

/** A mutation after which something did not hold. */
export class FuzzFailure extends Error {
  constructor(what: string, { seed }: Campaign, index: number, reason: unknown) {
    const why = reason instanceof Error ? (reason.stack ?? reason.message) : String(reason);
    super(`seed ${seed}, index ${index}: ${why}\nAgain: npm run fuzz -- --what ${what} --seed ${seed} --only ${index}`);
  }
}

/**
 * Runs a campaign in blocks: what is in one runs in order, and several blocks run at a time. Nothing may be left of them, no rejection
 * that nobody handles least of all.
 *
 * @param run - runs the mutations from `from` to `to` (exclusive), and says when each is done
 */
export async function runBlocks(what: string, campaign: Campaign, size: number, run: (from: number, to: number, onDone: () => void) => Promise<void>): Promise<void> {
  const { count, only, onProgress } = campaign;
  const unhandled: unknown[] = [];
  const onUnhandled = (reason: unknown): void => void unhandled.push(reason);
  process.on('unhandledRejection', onUnhandled);
  const first = only === undefined ? 0 : Math.floor(only / size) * size;
  const end = only === undefined ? count : only + 1;
  let next = first;
  let done = 0;
  let failed = false;
  const work = async (): Promise<void> => {
    while (next < end && !failed) {
      const from = next;
      const to = Math.min(from + size, end);
      next = to;
      await run(from, to, () => onProgress?.(++done));
      if (unhandled.length > 0) throw new FuzzFailure(what, campaign, from, new Error('a rejection that nobody handles, in this block or next to it', { cause: unhandled[0] }));
    }
  };
  try {
    const workers = Array.from({ length: AT_A_TIME }, () =>
      work().catch((error: unknown) => {
        failed = true;
        throw error;
      }),
    );
    const results = await Promise.allSettled(workers);
    // What comes after the last one is settled.
    await sleep(50);
    const bad = results.find((result) => result.status === 'rejected');
    if (bad) throw bad.reason;
    if (unhandled.length > 0) throw new FuzzFailure(what, campaign, first, unhandled[0]);
  } finally {
    process.off('unhandledRejection', onUnhandled);
  }
}

/** A promise must not stay open for so long, in ms, whatever else the machine does. */
const STUCK = 60_000;

export async function settled<T>(promise: Promise<T>, what: string): Promise<PromiseSettledResult<T>> {
  let timer: NodeJS.Timeout | undefined;
  const stuck = new Promise<never>((_, reject) => (timer = setTimeout(() => reject(new Error(`${what} is not settled after ${STUCK} ms`)), STUCK)));
  try {
    const [result] = await Promise.race([stuck, Promise.allSettled([promise])]);
    return result;
  } finally {
    clearTimeout(timer);
  }
}

export function ensure(condition: unknown, why: string, cause?: unknown): asserts condition {
  if (!condition) throw new Error(cause instanceof Error ? `${why}: ${cause.stack}` : why);
}
