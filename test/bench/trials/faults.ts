import { execFileSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { type BenchServer, startBenchServer, startClient } from '../lab.ts';
import { atLeast, atMost, type Trial } from '../trial.ts';

/** How long whoever hangs is waited for, in ms. */
const HANGS = 3000;

/** As many sockets and files as a process may have by default on some systems, and fewer. */
const descriptors: Trial = {
  name: 'descriptors',
  rounds: { quick: 1, full: 1 },
  figures: [{ key: 'answered', title: '2,000 calls at once with 512 file descriptors: answered', unit: '', as: 'value', goal: atLeast(2000) }],
  async begin({ server }) {
    return {
      async sample(who) {
        const client = startClient(who);
        try {
          await client.ask('connect', { url: server.url });
          execFileSync('prlimit', [`--pid=${client.child.pid}`, '--nofile=512:512']);
          const { answered } = await client.ask('burst', 2000);
          return { answered };
        } finally {
          await client.child.kill();
        }
      },
      end: async () => {},
    };
  },
};

/** Twenty calls are in flight, and all connections are reset. */
function cut(events: boolean): Trial {
  return {
    name: events ? 'cut-with-events' : 'cut',
    rounds: { quick: 1, full: 5 },
    contenders: events ? ['sdk', 'ours'] : ['ours'],
    figures: events
      ? [
          { key: 'answered', title: '20 calls in flight, connections reset, server keeps events: answered', unit: '', as: 'value', goal: atLeast(20) },
          { key: 'time', title: 'until the last of these was answered', unit: 'ms', as: 'value', goal: atMost(150, 'ms') },
        ]
      : [
          { key: 'settled', title: '20 calls in flight, connections reset, server keeps nothing: settled', unit: '', as: 'value', goal: atLeast(20) },
          { key: 'time', title: 'until the last of these was settled', unit: 'ms', as: 'value', goal: atMost(50, 'ms') },
          { key: 'twice', title: 'of these run twice', unit: '', as: 'value', goal: atMost(0) },
        ],
    async begin({ server: { url, remote } }) {
      await remote.ask('events', events);
      return {
        async sample(who) {
          const client = startClient(who);
          try {
            await client.ask('connect', { url });
            await client.ask('load', { count: 200, inFlight: 20 });
            await remote.ask('watch');
            await client.ask('begin', { tool: 'hold', count: 20 });
            while ((await remote.ask('held')) < 20) await sleep(5);
            const from = await remote.ask('cut');
            const { answered, failed, at } = await client.ask('settle', HANGS);
            const twice = (await remote.ask('ran')).filter(([, times]) => times > 1).length;
            return { answered, settled: answered + failed, time: answered + failed === 20 ? at - from : Number.POSITIVE_INFINITY, twice };
          } finally {
            await remote.ask('let');
            await client.child.kill();
          }
        },
        end: async () => void (await remote.ask('events', false)),
      };
    },
  };
}

const CALLS = 260;
const PACE = 25;

/** A server that forgets its sessions while a client calls it every 25 ms. */
const forgetful: Trial = {
  name: 'forgets',
  rounds: { quick: 1, full: 1 },
  contenders: ['sdk', 'ours'],
  figures: [
    { key: 'failed', title: `server forgets its sessions, ${CALLS} calls: failed`, unit: '', as: 'value', goal: atMost(0) },
    { key: 'twice', title: 'of these run twice', unit: '', as: 'value', goal: atMost(0) },
  ],
  async begin({ server: { url, remote } }) {
    return {
      async sample(who) {
        const client = startClient(who);
        try {
          await client.ask('connect', { url });
          await remote.ask('watch');
          const pacing = client.ask('pace', { count: CALLS, every: PACE });
          await sleep((CALLS * PACE) / 4);
          await remote.ask('forget');
          const { failed } = await pacing;
          return { failed, twice: (await remote.ask('ran')).filter(([, times]) => times > 1).length };
        } finally {
          await client.child.kill();
        }
      },
      end: async () => {},
    };
  },
};

/** A server that is killed, and is back after 700 ms. */
const killed: Trial = {
  name: 'killed',
  rounds: { quick: 1, full: 3 },
  contenders: ['sdk', 'ours'],
  figures: [
    { key: 'failed', title: `server killed and back after 700 ms, ${CALLS} calls: failed`, unit: '', as: 'value', goal: atMost(0) },
    // One may be on its way at that moment: then nobody can know.
    { key: 'unknown', title: 'of these in flight when it was killed: outcome unknown', unit: '', as: 'value', goal: atMost(1) },
    { key: 'twice', title: 'of these run twice', unit: '', as: 'value', goal: atMost(0) },
    { key: 'back', title: 'first answer after it is back', unit: 'ms', as: 'value', goal: atMost(35, 'ms') },
  ],
  async begin() {
    let own: BenchServer = await startBenchServer();
    return {
      async sample(who) {
        const client = startClient(who);
        try {
          await client.ask('connect', { url: own.url });
          await own.remote.ask('watch');
          const pacing = client.ask('pace', { count: CALLS, every: PACE });
          await sleep((CALLS * PACE) / 4);
          const before = await own.remote.ask('ran');
          await own.remote.child.kill();
          await sleep(700);
          own = await startBenchServer(own.port);
          await own.remote.ask('watch');
          const { failed, unknown, answeredAt } = await pacing;
          const runs = new Map(before);
          for (const [text, times] of await own.remote.ask('ran')) runs.set(text, (runs.get(text) ?? 0) + times);
          const first = Math.min(...answeredAt.filter((at) => at >= own.since));
          return { failed, unknown, twice: [...runs.values()].filter((times) => times > 1).length, ...(Number.isFinite(first) ? { back: first - own.since } : {}) };
        } finally {
          await client.child.kill();
        }
      },
      end: async () => own[Symbol.asyncDispose](),
    };
  },
};

export const faultTrials: readonly Trial[] = [descriptors, cut(true), cut(false), forgetful, killed];
