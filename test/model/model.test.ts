import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { memoryStore } from '../../src/index.ts';
import { CALM, ROUGH } from './commands.ts';
import { finish } from './finish.ts';
import { holds, replayPath } from './replay.ts';
import { act, scheduledStage } from './stage.ts';
import { type Setting, World } from './world.ts';

/**
 * Clients on one store and a server, to which anything may happen at any time and in any order, until nothing more does: then all that is
 * promised must hold. `MODEL_RUNS=10000 npx vitest run --project node test/model` tries more than CI does.
 */
const FILE = 'test/model/model.test.ts';

const setting = (stored: boolean): fc.Arbitrary<Setting> =>
  fc.record({
    events: fc.boolean(),
    json: fc.boolean(),
    version: fc.constantFrom('2025-11-25', '2025-03-26'),
    peers: fc.constantFrom(1, 2, 3),
    stored: fc.constant(stored),
    listen: fc.boolean(),
    rude: fc.boolean(),
    lost: fc.constantFrom('replay' as const, 'replay' as const, 'fail' as const),
    ttl: fc.constantFrom(3_600_000, 30_000),
  });

test.each([
  ['clients with a shared store that holds', { stored: true, events: CALM, runs: 150 }],
  ['clients with a shared store, and everything fails', { stored: true, events: ROUGH, runs: 150 }],
  ['clients with no store', { stored: false, events: CALM, runs: 60 }],
] as const)('%s', { timeout: 3_600_000 }, async (name, { stored, events, runs }) => {
  const commands = fc.commands(events, { maxCommands: 40, size: '+1', ...replayPath });
  const property = fc.asyncProperty(setting(stored), commands, fc.scheduler({ act }), fc.integer(), async (how, happening, scheduler, seed) => {
    const stage = scheduledStage(scheduler, seed);
    try {
      const world = new World(how, stage, memoryStore());
      await fc.scheduledModelRun(scheduler, () => ({ model: { peers: how.peers, in: new Set<number>(), dead: new Set<number>() }, real: world }), happening);
      await finish(world);
    } finally {
      stage.end();
    }
  });
  await holds(property, runs, { file: FILE, test: name });
  expect.hasAssertions();
});
