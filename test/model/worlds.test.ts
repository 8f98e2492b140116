import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { holds, USUAL_SEED } from './replay.ts';
import { KINDS, promises } from './worlds.ts';

/** Clients, a store and a server, in a few worlds that are the same each time: for more see model.test.ts. */

test.each(KINDS)('%s', { timeout: 3_600_000 }, async (name, kind) => {
  await holds(promises(kind), 50, { file: 'test/model/worlds.test.ts', test: name });
  expect.hasAssertions();
});

test.each(KINDS)('%s, again with the same seed', async (_name, kind) => {
  const story = async (): Promise<string[]> => {
    const told: string[] = [];
    const property = promises(kind, ({ server, asked, stage }) => {
      told.push(...server.arrivals.map(({ from, what, at }) => `${at} ${from} ${what}`));
      told.push(...asked.map(({ peer, what, settledAt, error }) => `${settledAt} ${peer.name} ${what} ${error?.name}`), `over at ${stage.now()}`);
    });
    await fc.assert(property, { seed: USUAL_SEED, numRuns: 15 });
    return told;
  };
  expect(await story()).toEqual(await story());
});
