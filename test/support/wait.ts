import { setTimeout as sleep } from 'node:timers/promises';

type Maybe<T> = T | undefined | null | false;

/** Polls until `predicate` gives something true, and hands that over. */
export async function waitFor<T>(
  predicate: () => Maybe<T> | Promise<Maybe<T>>,
  { timeout = 10_000, interval = 5, what = predicate.toString() } = {},
): Promise<T> {
  const deadline = Date.now() + timeout;
  for (;;) {
    const found = await predicate();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`Not within ${timeout} ms: ${what}`);
    await sleep(interval);
  }
}
