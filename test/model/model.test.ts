import { expect, test } from 'vitest';
import { holds } from './replay.ts';
import { KINDS, promises } from './worlds.ts';

/**
 * As worlds.test.ts, with more of them. `MODEL_RUNS=10000 npx vitest run --project models` takes so many new ones
 * of each kind, or with `FC_SEED=7` always the same.
 */
test.each(KINDS)('%s', { timeout: 3_600_000 }, async (name, kind) => {
  await holds(promises(kind), 300, { file: 'test/model/model.test.ts', test: name });
  expect.hasAssertions();
});
