import { describe, expect, it } from 'vitest';
import { hunt, planted, sourceOf } from './plant.ts';
import { QUICK, SLOW } from './planted-bugs.ts';
import { RACES } from './planted-models.ts';

/** The tests are tested: each bug that is planted must be caught. All of them: `npm run planted`. */
describe('a planted bug', () => {
  it.each([...QUICK, ...SLOW, ...RACES])('still has its place in the source: $name', async (bug) => {
    const text = await sourceOf(bug);
    expect(planted(bug, text)).not.toBe(text);
  });

  it('is caught, where the tests that catch it are quick', { timeout: 300_000 }, async () => {
    // That they pass without a bug, the suite shows.
    const found = await hunt(QUICK, 2, { proved: true });
    expect(found.filter(({ failed }) => failed === undefined).map(({ bug }) => bug.name)).toEqual([]);
    expect(found).toHaveLength(QUICK.length);
  });
});
