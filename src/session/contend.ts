import { StoreError } from '../errors.ts';
import { isConflict } from '../storage/conflict.ts';
import { after } from '../timers.ts';

/** A hundred who write at the same time get by, even over files. */
const MOST_TRIES = 50;
/** The longest wait between two tries, in ms. */
const LONGEST_PAUSE = 250;

/**
 * Tries a read and compare-and-set until nobody else is quicker.
 *
 * @throws StoreError when others were quicker every time
 */
export async function contend<T>(attempt: () => Promise<T>, tries = MOST_TRIES): Promise<T> {
  for (let conflicts = 0; conflicts < tries; conflicts++) {
    // A crowd that tries again in step would be in each other's way for long.
    if (conflicts > 0) await pause(Math.random() * Math.min(2 ** conflicts, LONGEST_PAUSE));
    try {
      return await attempt();
    } catch (error) {
      if (!isConflict(error)) throw error;
    }
  }
  throw new StoreError('The stored session changes faster than it can be written.');
}

function pause(delay: number): Promise<void> {
  return new Promise((resolve) => void after(delay, resolve));
}
