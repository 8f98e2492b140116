import { setTimeout as sleep } from 'node:timers/promises';
import type { ContenderName, ContenderOptions } from '../contender.ts';
import { runOnce, startClient } from '../lab.ts';
import { atMost, type Bench, type Trial } from '../trial.ts';
import { endClients, scratch, startClients } from './clients.ts';

/** Whoever comes next has to open a connection; and those who had one have heard of its end. */
async function chill({ server, far }: Bench): Promise<void> {
  await server.remote.ask('drop');
  await far.remote.ask('drop');
  await sleep(30);
}

/** Two round trips: one for the connection, one for the call. */
const TWO_TRIPS = atMost(1.05 * 100, 'ms');

/** From nothing to the first answer, in a process that has done so before. */
const fresh: Trial = {
  name: 'fresh',
  rounds: { quick: 3, full: 15 },
  figures: [{ key: 'time', title: 'fresh connect to first answer', unit: 'ms', goal: atMost(0.6) }],
  async begin(bench) {
    const { url } = bench.server;
    const clients = startClients();
    for (const client of Object.values(clients)) for (let i = 0; i < 10; i++) await client.ask('fresh', { url });
    return {
      async sample(who) {
        await chill(bench);
        return { time: await clients[who].ask('fresh', { url }) };
      },
      end: () => endClients(clients),
    };
  },
};

/** The same in a process that has loaded its modules and done nothing else, to a server that is far away. */
const freshFar: Trial = {
  name: 'fresh-50ms',
  rounds: { quick: 2, full: 9 },
  figures: [{ key: 'time', title: 'new process, fresh connect to first answer, 50 ms round trip', unit: 'ms', goal: atMost(0.7) }],
  async begin(bench) {
    return {
      sample: (who) => inNewProcess(bench, who, async (client) => ({ time: await client.ask('fresh', { url: bench.far.url }) })),
      end: async () => {},
    };
  },
};

async function inNewProcess<T>(bench: Bench, who: ContenderName, sample: (client: ReturnType<typeof startClient>) => Promise<T>): Promise<T> {
  const client = startClient(who);
  try {
    await client.ask('session');
    await chill(bench);
    return await sample(client);
  } finally {
    await client.child.kill();
  }
}

/** A new process that finds a session: ours in a file, the others by an id that is given to them. */
function stored(list: boolean): Trial {
  const name = list ? 'stored-list' : 'stored';
  return {
    name,
    rounds: { quick: 2, full: 9 },
    figures: [
      {
        key: 'time',
        title: `new process, stored session, 50 ms: first answer${list ? ', with the list of tools (ours: from the store)' : ''}`,
        unit: 'ms',
        as: 'value',
        goal: TWO_TRIPS,
      },
    ],
    async begin(bench) {
      const { url } = bench.far;
      const holder = startClient('floor');
      const directory = await scratch();
      const mine = startClient('ours');
      await mine.ask('fresh', { url, options: { storeAt: directory.path }, list: true });
      await mine.child.kill();
      return {
        async sample(who) {
          // Whoever takes it up by hand ends it when it leaves.
          await holder.ask('connect', { url: bench.server.url });
          const sessionId = await holder.ask('session');
          const options = who === 'ours' ? { storeAt: directory.path } : { sessionId };
          return inNewProcess(bench, who, async (client) => ({ time: await client.ask('fresh', { url, options, list }) }));
        },
        async end() {
          await holder.child.kill();
          await directory.remove();
        },
      };
    },
  };
}

/** A call and nothing else, with all that goes before and after it. */
const oneOff: Trial = {
  name: 'one-off',
  rounds: { quick: 2, full: 9 },
  contenders: ['sdk', 'ours'],
  figures: [
    { key: 'fresh', title: 'new process, one-off call, 50 ms round trip', unit: 'ms', goal: atMost(0.72) },
    { key: 'stored', title: 'new process, one-off call with a store, 50 ms round trip (bare SDK: without)', unit: 'ms', goal: atMost(0.35) },
  ],
  async begin(bench) {
    const { url } = bench.far;
    const directory = await scratch();
    const mine = startClient('ours');
    await mine.ask('once', { url, options: { storeAt: directory.path } });
    await mine.child.kill();
    const once = (who: ContenderName, options?: ContenderOptions) => inNewProcess(bench, who, (client) => client.ask('once', { url, ...(options ? { options } : {}) }));
    return {
      async sample(who) {
        const time = await once(who);
        return { fresh: time, stored: who === 'ours' ? await once(who, { storeAt: directory.path }) : time };
      },
      end: () => directory.remove(),
    };
  },
};

const program: Trial = {
  name: 'program',
  rounds: { quick: 3, full: 11 },
  figures: [{ key: 'time', title: 'new process, from its start to its exit, one call', unit: 'ms', goal: atMost(0.8) }],
  async begin({ server }) {
    return { sample: async (who) => ({ time: await runOnce(who, server.url) }), end: async () => {} };
  },
};

/** Many calls as JSON arrays: the SDK has none, so that it makes them one by one. */
const batch: Trial = {
  name: 'batch',
  rounds: { quick: 2, full: 9 },
  contenders: ['sdk', 'ours'],
  figures: [{ key: 'time', title: '1,000 calls: JSON arrays (ours, `wire: \'array\'`), one by one (bare SDK)', unit: 'ms', goal: atMost(0.12) }],
  async begin({ server }) {
    const clients = startClients();
    for (const who of ['sdk', 'ours'] as const) {
      await clients[who].ask('connect', { url: server.url });
      await clients[who].ask('load', { count: 1000, inFlight: 16 });
      // Warm.
      if (who === 'ours') for (let i = 0; i < 5; i++) await clients.ours.ask('batch', 1000);
    }
    return {
      async sample(who) {
        if (who === 'ours') return clients.ours.ask('batch', 1000);
        const { time } = await clients[who].ask('burst', 1000);
        return { time };
      },
      end: () => endClients(clients),
    };
  },
};

export const connectTrials: readonly Trial[] = [fresh, freshFar, stored(false), stored(true), oneOff, program, batch];
