import * as fc from 'fast-check';
import { memoryStore } from '../../src/index.ts';
import { CALM, ROUGH } from './commands.ts';
import { finish } from './finish.ts';
import { act, scheduledStage } from './stage.ts';
import { type Setting, World } from './world.ts';

/** A kind of world: clients and a server, to which anything may happen at any time and in any order, until nothing more does. */
interface Kind {
  readonly stored: boolean;
  readonly events: typeof CALM;
}

export const KINDS = [
  ['clients with a shared store that holds', { stored: true, events: CALM }],
  ['clients with a shared store, and everything fails', { stored: true, events: ROUGH }],
  ['clients with no store', { stored: false, events: CALM }],
] as const satisfies readonly (readonly [string, Kind])[];

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

/**
 * In every world of a kind all that is promised holds.
 *
 * @param onEnd - is given each world that is over
 */
export function promises({ stored, events }: Kind, onEnd: (world: World) => void = () => {}): fc.IAsyncProperty<unknown> {
  const commands = fc.commands(events, { maxCommands: 40, size: '+1' });
  return fc.asyncProperty(setting(stored), commands, fc.scheduler({ act }), fc.integer(), async (how, happening, scheduler, seed) => {
    const stage = scheduledStage(scheduler, seed);
    const world = new World(how, stage, memoryStore());
    try {
      await fc.scheduledModelRun(scheduler, () => ({ model: { peers: how.peers, in: new Set<number>(), dead: new Set<number>() }, real: world }), happening);
      await finish(world);
    } finally {
      onEnd(world);
      stage.end();
    }
  });
}
