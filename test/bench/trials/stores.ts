import { startClient } from '../lab.ts';
import { atMost, type Trial } from '../trial.ts';
import { scratch } from './clients.ts';

/** Our file store beside what a file costs by hand: read whole; written beside, flushed, renamed, and the directory flushed. */
const file: Trial = {
  name: 'file-store',
  rounds: { quick: 5, full: 15 },
  contenders: ['floor', 'ours'],
  figures: [
    { key: 'read', title: 'file store: a session is read (floor: node:fs)', unit: 'ms', than: 'floor', goal: atMost(1.5) },
    { key: 'save', title: 'file store: a session is saved (floor: node:fs)', unit: 'ms', than: 'floor', goal: atMost(1.5) },
  ],
  async begin() {
    const directory = await scratch();
    const clients = { floor: startClient('floor'), ours: startClient('ours') };
    const sample = (who: 'floor' | 'ours') => clients[who].ask('shelve', { directory: directory.path, times: 50 });
    // Warm.
    for (const who of ['floor', 'ours'] as const) await sample(who);
    return {
      sample: (who) => sample(who as 'floor' | 'ours'),
      async end() {
        for (const client of Object.values(clients)) await client.child.kill();
        await directory.remove();
      },
    };
  },
};

export const storeTrials: readonly Trial[] = [file];
