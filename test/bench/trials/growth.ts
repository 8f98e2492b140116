import { startRedis } from '../../support/redis.ts';
import { startClient } from '../lab.ts';
import { type Bench, type Trial, atLeast, atMost } from '../trial.ts';
import { scratch } from './clients.ts';

const GC = ['--expose-gc'];

/** Whether a call costs more after many calls than after few. */
const calls: Trial = {
  name: 'growth-calls',
  rounds: { quick: 1, full: 1 },
  contenders: ['ours'],
  figures: ({ quick }) => {
    const steps = stepsOf(quick);
    return steps.flatMap((made, i) => [
      { key: `cpu ${made}`, title: `client CPU per call, after ${counted(made)} calls`, unit: 'µs', point: { line: 'CPU per call, by calls made', x: made } },
      { key: `memory ${made}`, title: `memory of the client after ${counted(made)} calls`, unit: 'MiB', point: { line: 'memory, by calls made', x: made } },
      ...(i < steps.length - 1
        ? []
        : ([
            { key: 'slower', title: `the last CPU to the first`, unit: '', as: 'value', goal: atMost(1.1) },
            { key: 'grown', title: `the last memory to the first`, unit: '', as: 'value', goal: atMost(1.1) },
          ] as const)),
    ]);
  },
  async begin({ server: { url }, quick }) {
    return {
      async sample(who) {
        const client = startClient(who, GC);
        try {
          await client.ask('connect', { url });
          // Until all of it is compiled: that is no growth.
          await client.ask('load', { count: 10_000, inFlight: 64 });
          const steps = stepsOf(quick);
          const sample: Record<string, number> = {};
          let made = 10_000;
          for (const step of steps) {
            await client.ask('load', { count: step - made, inFlight: 64 });
            sample[`memory ${step}`] = (await client.ask('memory')) / 2 ** 20;
            const { cpu } = await client.ask('load', { count: MEASURED, inFlight: 64 });
            sample[`cpu ${step}`] = cpu;
            made = step + MEASURED;
          }
          const [first, last] = [steps[0], steps.at(-1)];
          const times = (what: string): number => (sample[`${what} ${last}`] ?? 0) / (sample[`${what} ${first}`] ?? 0);
          return { ...sample, slower: times('cpu'), grown: times('memory') };
        } finally {
          await client.child.kill();
        }
      },
      end: async () => {},
    };
  },
};

const MEASURED = 5000;

/** Numbers of calls that were made before it is measured again. */
function stepsOf(quick: boolean): number[] {
  return quick ? [20_000, 40_000] : [20_000, 100_000, 300_000, 1_000_000];
}

const counted = (count: number): string => count.toLocaleString('en-US');

/** Whether a stored session is taken up more slowly where many others are stored beside it. */
const sessions: Trial = {
  name: 'growth-sessions',
  rounds: { quick: 1, full: 3 },
  contenders: ['ours'],
  figures: ({ quick }) => [
    ...storedBeside(quick).flatMap((count) => [
      { key: `first ${count}`, title: `new process, first answer, ${counted(count)} stored ${count === 1 ? 'session' : 'sessions'}`, unit: 'ms', point: { line: 'first answer, by sessions stored', x: count } },
      { key: `cpu ${count}`, title: `client CPU per call, ${counted(count)} stored ${count === 1 ? 'session' : 'sessions'}`, unit: 'µs', point: { line: 'CPU per call, by sessions stored', x: count } },
    ]),
    { key: 'slower', title: 'the last first answer to the first', unit: '', as: 'value', goal: atMost(1.1) },
  ],
  async begin({ server: { url }, quick }) {
    const places: { readonly count: number; readonly directory: Awaited<ReturnType<typeof scratch>> }[] = [];
    for (const count of storedBeside(quick)) {
      const directory = await scratch();
      places.push({ count, directory });
      const client = startClient('ours');
      await client.ask('fresh', { url, options: { storeAt: directory.path }, list: true });
      await client.ask('multiply', { directory: directory.path, count: count - 1 });
      await client.child.kill();
    }
    return {
      async sample(who) {
        const sample: Record<string, number> = {};
        for (const { count, directory } of [...places].sort(() => Math.random() - 0.5)) {
          const client = startClient(who);
          try {
            const options = { storeAt: directory.path };
            sample[`first ${count}`] = await client.ask('fresh', { url, options });
            await client.ask('connect', { url, options });
            await client.ask('load', { count: 1000, inFlight: 16 });
            sample[`cpu ${count}`] = (await client.ask('load', { count: 1000, inFlight: 16 })).cpu;
          } finally {
            await client.child.kill();
          }
        }
        const [first, last] = [places[0], places.at(-1)].map((place) => sample[`first ${place?.count}`] ?? 0) as [number, number];
        return { ...sample, slower: last / first };
      },
      async end() {
        for (const { directory } of places) await directory.remove();
      },
    };
  },
};

/** How many sessions are stored. */
function storedBeside(quick: boolean): number[] {
  return quick ? [1, 1000] : [1, 100, 1000, 10_000];
}

/** Calls of each process, and how many there are. */
const each = (quick: boolean): number => (quick ? 300 : 2000);
const processes = (quick: boolean): number[] => (quick ? [1, 8] : [1, 2, 4, 8]);

/** So many processes at work at the same time: ours on one session in Redis, the others on one of their own each. */
const fleet: Trial = {
  name: 'fleet',
  rounds: { quick: 1, full: 1 },
  contenders: ['sdk', 'ours'],
  figures: ({ quick }) => [
    ...processes(quick).map((count) => ({
      key: `rate ${count}`,
      title: `${count === 1 ? 'one process' : `${count} processes on one session`} over Redis, calls/s`,
      unit: '/s',
      goal: atLeast(2),
      point: { line: 'calls/s of a fleet, by processes', x: count },
    })),
    { key: 'failed', title: 'processes in which a call failed', unit: '', as: 'value', goal: atMost(0) },
    { key: 'sessions', title: 'sessions that they had', unit: '', as: 'value', goal: atMost(1) },
  ],
  async begin({ server: { url }, quick }: Bench) {
    const redis = await startRedis();
    let runs = 0;
    return {
      async sample(who) {
        const sample: Record<string, number> = {};
        let failed = 0;
        let most = 0;
        for (const count of processes(quick)) {
          const options = { redisAt: { url: redis.url, prefix: `bench-${process.pid}-${++runs}:` } };
          const clients = Array.from({ length: count }, () => startClient(who));
          try {
            const ids = new Set<string | undefined>();
            for (const client of clients) {
              await client.ask('connect', { url, options });
              await client.ask('load', { count: quick ? 100 : 500, inFlight: 16 });
              ids.add(await client.ask('session'));
            }
            const start = performance.now();
            const settled = await Promise.allSettled(clients.map((client) => client.ask('load', { count: each(quick), inFlight: 16 })));
            sample[`rate ${count}`] = (count * each(quick) * 1000) / (performance.now() - start);
            failed += settled.filter(({ status }) => status === 'rejected').length;
            most = Math.max(most, ids.size);
          } finally {
            for (const client of clients) await client.child.kill();
          }
        }
        return { ...sample, failed, sessions: most };
      },
      end: () => redis.stop(),
    };
  },
};

export const growthTrials: readonly Trial[] = [sessions, fleet, calls];
