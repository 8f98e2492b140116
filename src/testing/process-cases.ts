import { after } from '../timers.ts';
import { equal, ok } from './assert.ts';
import { SOON, times } from './parts.ts';
import type { Contract } from './store-contract.ts';

const PROCESSES = 8;
/** How often each of them counts. */
const TURNS = 25;

/** What holds among processes that use one store, and are killed. */
export function processCases({ group, check }: Contract): void {
  group('other processes', () => {
    check('lose none of 200 read-modify-writes, 8 at a time', async ({ store, spawn }) => {
      let told = 0;
      const counters = await Promise.all(times(PROCESSES, () => spawn('key', TURNS, () => told++)));
      await Promise.all(counters.map((each) => each.run()));
      equal(told, PROCESSES * TURNS, 'what they told of');
      equal((await store.get('key'))?.value, `${PROCESSES * TURNS}`);
    }, 'spawn');

    check('lose none that they told of when half of them are killed at random moments', async ({ store, spawn }) => {
      const told = times(PROCESSES, () => 0);
      const isVictim = (index: number): boolean => index % 2 === 0;
      const counters = await Promise.all(
        times(PROCESSES, (index) => {
          // In the midst of it, while the others are at it too.
          const last = 1 + Math.floor((Math.random() * TURNS) / 2);
          return spawn('key', TURNS, () => {
            told[index] = (told[index] ?? 0) + 1;
            if (!isVictim(index) || told[index] !== last) return;
            // Half of them at once: what it told of must be safe already.
            if (index % 4 === 0) void counters[index]?.kill();
            else after(Math.random() * SOON, () => void counters[index]?.kill());
          });
        }),
      );
      await Promise.all(counters.map((each) => each.run()));
      for (const [index, count] of told.entries()) ok(isVictim(index) || count === TURNS, `who was not killed told of ${count}, not of ${TURNS}`);
      const sum = told.reduce((total, each) => total + each, 0);
      const found = Number((await store.get('key'))?.value);
      // Each one that was killed may have added one that it could not tell of.
      ok(found >= sum && found <= sum + PROCESSES / 2, `it is ${found}, and they told of ${sum}`);
    }, 'spawn');
  });
}
