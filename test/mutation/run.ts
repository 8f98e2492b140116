import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Stryker } from '@stryker-mutator/core';

/**
 * Mutation testing of what everything else relies on: the source is changed in hundreds of ways, one at a time, and the unit tests must
 * notice. Fails where more goes unnoticed than may.
 *
 * ```sh
 * npm run mutation         # all of it
 * npm run mutation -- key  # one part
 * ```
 */
interface Part {
  readonly mutate: readonly string[];
  /** Those that are about it, and no others: many mutants need a run of all of them. */
  readonly tests: readonly string[];
  /** The least part of the mutants that must be noticed, in %. */
  readonly least: number;
}

const PARTS: Readonly<Record<string, Part>> = {
  verdict: { mutate: ['src/calls/verdict.ts'], tests: ['test/unit/verdict.test.ts'], least: 100 },
  ids: { mutate: ['src/session/correlator.ts', 'src/session/inbound.ts', 'src/session/token.ts'], tests: ['test/unit/ids.test.ts'], least: 85 },
  states: { mutate: ['src/session/state.ts'], tests: ['test/unit/state.test.ts'], least: 85 },
  key: { mutate: ['src/session/key.ts'], tests: ['test/unit/key.test.ts'], least: 85 },
};

const [only] = process.argv.slice(2);

for (const [name, { mutate, tests, least }] of Object.entries(PARTS)) {
  if (only !== undefined && only !== name) continue;
  const start = performance.now();
  // For vitest.bare.config.ts, in the processes that run it.
  process.env['TESTS'] = tests.join();
  // Sets the exit code where the score is too low.
  const mutants = await new Stryker({
    mutate: [...mutate],
    testRunner: 'vitest',
    plugins: [fileURLToPath(import.meta.resolve('@stryker-mutator/vitest-runner'))],
    vitest: { configFile: 'vitest.bare.config.ts', related: false },
    coverageAnalysis: 'perTest',
    concurrency: Math.min(2, availableParallelism()),
    // On a busy machine a test takes long; only one that never ends is to count as one that has noticed.
    timeoutMS: 60_000,
    thresholds: { high: 100, low: least, break: least },
    reporters: ['clear-text'],
    clearTextReporter: { logTests: false, reportTests: false, allowColor: false },
    tempDirName: 'node_modules/.cache/stryker',
    allowConsoleColors: false,
  }).runMutationTest();
  console.log(`${name}: ${mutants.length} mutants in ${Math.round((performance.now() - start) / 1000)} s`);
}
