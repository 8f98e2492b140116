import { StoreError } from '../errors.ts';
import { countFence } from './cas-lock.ts';
import type { Claim, Claimer } from './locks.ts';
import type { Store } from './store.ts';

/**
 * Takes locks of the browser (Web Locks). It hands a lock on as soon as its holder lets go or its tab is gone, and needs no renewal:
 * a tab in the background, whose timers hardly run, keeps what it has. So the ttl is of no use here.
 *
 * @param name - What tells these locks from others of the same keys: the whole origin has one space of names.
 * @param records - Where the fencing numbers are counted.
 */
export function webClaimer(manager: LockManager, name: string, records: Pick<Store, 'get' | 'set'>): Claimer {
  return (key, { signal, lose }) =>
    new Promise<Claim>((resolve, reject) => {
      // Held until the promise of this function settles.
      const hold = async (): Promise<void> => {
        const fence = await countFence(records, key);
        await new Promise<void>((letGo) => {
          resolve({
            fence,
            release() {
              letGo();
              return over;
            },
          });
        });
      };
      const over: Promise<void> = manager.request(JSON.stringify(['mcp-reprise', name, key]), { signal }, hold).catch((error: unknown) => {
        lose('The browser gave a lock to another.');
        reject(error instanceof StoreError ? error : new StoreError('The browser gave no lock.', { cause: error }));
      });
    });
}
