import { describe, expect, it, onTestFinished } from 'vitest';
import { type ClientProcess, runScript } from '../support/client-process.ts';
import { type Kind, kinds } from './redis-clients.ts';
import { newPrefix, redisUrl, storeOf } from './redis-parts.ts';
import type { Said, Told } from './redis-store.process.ts';

const PROCESSES = 8;

/** Processes with clients of both kinds, each about to add one to the same number, again and again. */
async function startWorkers(prefix: string, turns: number): Promise<Worker[]> {
  const workers = Array.from({ length: PROCESSES }, (_, index) => new Worker(kinds[index % kinds.length] as Kind, prefix, turns));
  onTestFinished(async () => void (await Promise.all(workers.map(({ process }) => process.kill()))));
  await Promise.all(workers.map(({ process }) => process.next('ready')));
  for (const { process } of workers) process.send({ type: 'go' });
  return workers;
}

class Worker {
  readonly process: ClientProcess<Told, Said>;

  constructor(kind: Kind, prefix: string, turns: number) {
    this.process = runScript(new URL('./redis-store.process.ts', import.meta.url), ['increment', kind, redisUrl, prefix, 'number', `${turns}`]);
  }

  /** How often it told that it had added one, until it ended. */
  async done(most = Number.POSITIVE_INFINITY): Promise<number> {
    let told = 0;
    try {
      for (; told < most; told++) await this.process.next('incremented');
    } catch {
      // It is gone.
    }
    return told;
  }
}

describe.skipIf(!redisUrl)('Eight processes with clients of both kinds on one Redis', () => {
  it('lose none of 1,600 read-modify-writes', async () => {
    const prefix = newPrefix();
    const store = storeOf('ioredis', { prefix });
    const workers = await startWorkers(prefix, 200);
    expect(await Promise.all(workers.map((worker) => worker.done()))).toEqual(workers.map(() => 200));
    expect((await store.get('number'))?.value).toBe('1600');
  });

  it('lose none of those that were told of when half of them are killed', async () => {
    const prefix = newPrefix();
    const store = storeOf('ioredis', { prefix });
    const workers = await startWorkers(prefix, 50);
    const victims = workers.slice(0, PROCESSES / 2);
    const told = await Promise.all(
      workers.map(async (worker) => {
        const victim = victims.includes(worker);
        const before = await worker.done(victim ? 10 : 50);
        if (victim) await worker.process.kill();
        return before + (await worker.done());
      }),
    );
    const total = told.reduce((sum, each) => sum + each, 0);
    // Each one that was killed may have added one that it could not tell of.
    const written = Number((await store.get('number'))?.value);
    expect(written).toBeGreaterThanOrEqual(total);
    expect(written).toBeLessThanOrEqual(total + victims.length);
    expect(total).toBeGreaterThanOrEqual((PROCESSES - victims.length) * 50 + victims.length * 10);
  });
});
