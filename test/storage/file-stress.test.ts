import { expect, it } from 'vitest';
import { stress } from './file-store.stress.ts';

it('The file store loses nothing among 8 processes that make 500 read-modify-writes each, and 2 that take turns by a lock, while 200 of them are killed', { timeout: 180_000 }, async () => {
  const { damaged, wrong, overlaps, orphans, failures, kills, counted, locked } = await stress({ kills: 200, writes: 500, writers: 8, lockers: 2 });
  expect({ damaged, wrong, overlaps, orphans, failures }).toEqual({ damaged: [], wrong: [], overlaps: [], orphans: [], failures: [] });
  expect(kills).toBe(200);
  expect(counted).toBeGreaterThanOrEqual(8 * 500);
  expect(locked).toBeGreaterThan(20);
});
