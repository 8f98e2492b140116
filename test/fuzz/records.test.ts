import { constants, setPriority } from 'node:os';
import { expect, it } from 'vitest';
import { record } from './recorded.ts';
import { fuzzRecords } from './records.ts';

/** A part of what `npm run fuzz` does without an end: the same 20,000 each time. */

// It needs nothing but time, and most tests beside it are waiting: it takes what they leave.
setPriority(constants.priority.PRIORITY_LOW);
it('20,000 changed records: the session is taken up, or a new one is started with one warning, and nothing else happens', { timeout: 600_000 }, async () => {
  const recording = await record();
  // The first one has everything that a session can keep.
  const kept = recording.records.map((text) => Object.keys(JSON.parse(text) as object));
  expect(kept).toEqual([expect.arrayContaining(['cursor', 'cache', 'metadata', 'data', 'calls', 'subscriptions', 'logLevel', 'principal']), expect.not.arrayContaining(['cursor'])]);

  const { resumed, fresh } = await fuzzRecords(recording, { seed: 1, count: 20_000 });
  // Both happen often, or something else than the changed record decides.
  expect(Math.min(resumed, fresh)).toBeGreaterThan(2_000);
});
