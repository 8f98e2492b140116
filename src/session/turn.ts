import { onAbort } from '../signals.ts';
import type { Lock } from '../storage/store.ts';
import { after, type Backoff, backoffDelay, sleep } from '../timers.ts';
import type { SessionKeeper } from './keeper.ts';

/** How often a process that waits for its turn looks whether it is needed any more. */
const LOOK: Backoff = { min: 50, max: 500, factor: 2, floor: 0.5 };

/**
 * Waits for a turn to make a session, or for one that another process has made meanwhile. Where neither comes within `patience` ms, it goes
 * on without: then compare-and-set decides whose session it is.
 *
 * @param behind - is given what goes on for a moment when this is over, and does not reject
 */
export async function takeTurn(
  keeper: SessionKeeper,
  { lost, patience, scope, behind }: { lost: ReadonlySet<string>; patience: number; scope: AbortSignal; behind(task: Promise<void>): void },
): Promise<Lock | undefined> {
  // One wait, however long: whoever asks anew goes to the end of the line, and cannot tell how long the holder has said nothing.
  const over = new AbortController();
  const end = (): void => over.abort();
  const release = onAbort(scope, end);
  const stop = after(patience, end);
  behind(lookOut(keeper, lost, over.signal).then(end, () => undefined));
  try {
    return await keeper.lock('handshake', over.signal);
  } catch {
    return undefined;
  } finally {
    release();
    stop();
    end();
  }
}

/** Resolves as soon as another process has made a session. */
async function lookOut(keeper: SessionKeeper, lost: ReadonlySet<string>, signal: AbortSignal): Promise<void> {
  for (let looks = 0; ; looks++) {
    await sleep(backoffDelay(LOOK, looks), signal);
    if (await keeper.peek(lost)) return;
  }
}
