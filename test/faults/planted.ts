import { availableParallelism } from 'node:os';
import { describe, type Found, hunt } from './plant.ts';
import { QUICK, SLOW } from './planted-bugs.ts';
import { RACES } from './planted-models.ts';

/**
 * Plants every bug of the list in a copy of the source, one at a time, and shows what catches it.
 *
 * ```sh
 * npm run planted              # all of them
 * npm run planted -- redirect  # those with this word in their name, or in what must catch them
 * ```
 */
const [word = ''] = process.argv.slice(2);
const bugs = [...SLOW, ...RACES, ...QUICK].filter(({ name, caughtBy }) => `${name} ${describe(caughtBy)}`.includes(word));
const start = performance.now();
const seconds = (time: number): string => `${time.toFixed(1).padStart(6)} s`;

const onFound = ({ bug, failed, seconds: time }: Found): void => {
  console.log(`${failed === undefined ? 'SURVIVED' : 'caught  '} ${seconds(time)}  ${bug.name}\n                     ${failed ?? `by nothing in ${describe(bug.caughtBy)}`}`);
};
const found = await hunt(bugs, Math.min(2, availableParallelism()), { onFound });
const survivors = found.filter(({ failed }) => failed === undefined);
console.log(`\n${found.length - survivors.length} of ${found.length} planted bugs were caught, in ${seconds((performance.now() - start) / 1000).trim()}.`);
process.exitCode = survivors.length > 0 ? 1 : 0;
