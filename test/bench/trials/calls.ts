import { startClient } from '../lab.ts';
import { atLeast, atMost, type Trial } from '../trial.ts';
import { endClients, warmClients, warmUp } from './clients.ts';

const sequential: Trial = {
  name: 'sequential',
  rounds: { quick: 3, full: 11 },
  figures: [
    { key: 'p50', title: 'sequential call, p50', unit: 'ms', goal: atMost(0.55) },
    { key: 'cpu', title: 'client CPU per call, sequential', unit: 'µs', goal: atMost(0.35) },
    { key: 'fetch', title: 'sequential call, p50, ours over fetch', unit: 'ms' },
  ],
  async begin(bench) {
    const clients = await warmClients(bench);
    // Settings of fetch, of which there are none: requests go through it all the same, as the SDK's do.
    const overFetch = startClient('ours');
    await warmUp(overFetch, bench, { ours: { requestInit: {} } });
    return {
      async sample(who) {
        const measured = await clients[who].ask('load', { count: 300, inFlight: 1 });
        const { p50 } = who === 'ours' ? await overFetch.ask('load', { count: 300, inFlight: 1 }) : measured;
        return { ...measured, fetch: p50 };
      },
      async end() {
        await endClients(clients);
        await overFetch.child.kill();
      },
    };
  },
};

/** Calls a second. */
function throughput(inFlight: number, count: number): Trial {
  return {
    name: `throughput-${inFlight}`,
    rounds: { quick: 2, full: 5 },
    figures: [
      { key: 'rate', title: `calls/s, ${inFlight} in flight`, unit: '/s', goal: atLeast(2) },
      { key: 'cpu', title: `client CPU per call, ${inFlight} in flight`, unit: 'µs', goal: atMost(0.35) },
    ],
    async begin(bench) {
      const clients = await warmClients(bench);
      return {
        sample: async (who) => {
          const { time, cpu } = await clients[who].ask('load', { count, inFlight });
          return { rate: (count * 1000) / time, cpu };
        },
        end: () => endClients(clients),
      };
    },
  };
}

const long: Trial = {
  name: 'long',
  rounds: { quick: 1, full: 2 },
  figures: [{ key: 'rate', title: '10,000 calls, 64 in flight, calls/s', unit: '/s', goal: atLeast(3) }],
  async begin(bench) {
    const clients = await warmClients(bench);
    return {
      sample: async (who) => {
        const { time } = await clients[who].ask('load', { count: 10_000, inFlight: 64 });
        return { rate: 10_000_000 / time };
      },
      end: () => endClients(clients),
    };
  },
};

/** A client that has just connected, and everything at once: it has to open its connections. */
function burst(far: boolean): Trial {
  return {
    name: far ? 'burst-50ms' : 'burst',
    rounds: { quick: 3, full: 7 },
    figures: [
      far
        ? { key: 'time', title: '1,000 calls at once, 50 ms round trip', unit: 'ms', goal: atMost(0.7) }
        : { key: 'rate', title: '1,000 calls at once, calls/s', unit: '/s', goal: atLeast(2) },
      // The limit's, the one on which notifications come, and one that is changing hands.
      { key: 'sockets', title: 'sockets for that, two of them beside the limit', unit: '', as: 'value', goal: atMost(2 + (far ? 256 : 64)) },
    ],
    async begin(bench) {
      const { url, remote } = far ? bench.far : bench.server;
      const clients = await warmClients(bench);
      // Whose turn it is not has no connection: all that are counted are the one's.
      for (const client of Object.values(clients)) await client.ask('close');
      return {
        sample: async (who) => {
          const client = clients[who];
          await client.ask('connect', { url });
          await remote.ask('reset');
          const { time, error } = await client.ask('burst', 1000);
          if (error !== undefined) throw new Error(`${who}, 1,000 at once: ${error}`);
          const { peak } = await remote.ask('count');
          await client.ask('close');
          await remote.ask('drop');
          return { time, rate: 1_000_000 / time, sockets: peak };
        },
        end: () => endClients(clients),
      };
    },
  };
}

/** The young generation holds all that is allocated meanwhile: 160 KiB for each of 300 calls, and room. */
const ROOMY = ['--expose-gc', '--min-semi-space-size=256', '--max-semi-space-size=256'];

const allocated: Trial = {
  name: 'allocated',
  rounds: { quick: 2, full: 5 },
  figures: [{ key: 'kib', title: 'allocated per call', unit: 'KiB', as: 'value', goal: atMost(60, 'KiB') }],
  async begin(bench) {
    const clients = await warmClients(bench, ROOMY);
    return {
      sample: async (who) => ({ kib: (await clients[who].ask('allocate', { count: 300, inFlight: 1 })) / 1024 }),
      end: () => endClients(clients),
    };
  },
};

export const callTrials: readonly Trial[] = [sequential, throughput(16, 1500), throughput(64, 1500), throughput(256, 1500), burst(false), burst(true), long, allocated];
