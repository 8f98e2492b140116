import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { holds, USUAL_SEED } from './replay.ts';
import { KINDS, promises } from './worlds.ts';

/** Clients, a store and a server, in a few worlds that are the same each time: for more see model.test.ts. */
describe.each(KINDS)('%s', (kindName, kind) => {
  const name = 'keep what is promised, whatever happens and when';

  test(name, { timeout: 3_600_000 }, async () => {
    await holds(promises(kind), 50, { file: 'test/model/worlds.test.ts', test: `${kindName} ${name}` });
    expect.hasAssertions();
  });

  test('happen again with the same seed', async () => {
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
});
