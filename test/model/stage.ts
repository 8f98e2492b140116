import type * as fc from 'fast-check';
import { FakeTime, turn } from './clock.ts';
import type { Step } from './line.ts';

/** Where a world plays: what decides the order of its I/O, and how its time goes by. */
export interface Stage {
  readonly step: Step;
  /** In ms. */
  now(): number;
  /** So many ms pass: while all I/O stands still, or all I/O has its turn. */
  pass(ms: number, how: 'stalled' | 'flowing'): Promise<void>;
  /** All I/O has its turn; then, where there is nothing else to wait for, time goes on to what happens next. */
  goOn(needed: () => boolean): Promise<void>;
  /** Timers that wait to fire; `undefined` where that cannot be told. */
  timers(): number | undefined;
  end(): void;
}

/** After each piece of I/O everything happens that it sets off, as in an event loop. Give this to `fc.scheduler`. */
export const act = async (f: () => Promise<void>): Promise<void> => {
  await f();
  await turn();
};

/** The scheduler of fast-check has the order of things, and time is fake: whatever happens, happens again with the same seed and path. */
export function scheduledStage(scheduler: fc.Scheduler, seed: number): Stage {
  const time = new FakeTime(seed);
  return {
    step: (what) => scheduler.schedule(Promise.resolve(), what),
    now: () => time.now,
    pass: (ms, how) => time.pass(ms, how === 'flowing' ? () => scheduler.waitAll() : undefined),
    async goOn(needed) {
      await scheduler.waitIdle();
      if (needed()) await time.next();
    },
    timers: () => time.timers,
    end: () => time.end(),
  };
}
