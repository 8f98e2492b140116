import { setTimeout as sleep } from 'node:timers/promises';
import type { ContenderOptions } from '../contender.ts';
import { startClient } from '../lab.ts';
import { atMost, type Trial } from '../trial.ts';

const GC = ['--expose-gc'];
/** An idle connection is given up by then, in ms. */
const IDLE = 5000;

const idle: Trial = {
  name: 'idle',
  rounds: { quick: 1, full: 1 },
  figures: [
    { key: 'kib', title: 'memory of an idle client, of 1,000 (quick: 200)', unit: 'KiB', goal: atMost(0.8) },
    { key: 'quiet', title: 'the same, ours with `listen: false`', unit: 'KiB', goal: atMost(0.8) },
    { key: 'sockets', title: 'sockets of these', unit: '', as: 'value', goal: atMost(0) },
  ],
  async begin({ server: { url, remote }, quick }) {
    return {
      async sample(who) {
        const measured = async (options: ContenderOptions): Promise<{ kib: number; sockets: number }> => {
          const client = startClient(who, GC);
          try {
            await remote.ask('drop');
            const bytes = await client.ask('idle', { url, count: quick ? 200 : 1000, options });
            await sleep(IDLE);
            const { sockets } = await remote.ask('count');
            return { kib: bytes / 1024, sockets };
          } finally {
            await client.child.kill();
          }
        };
        const { kib } = await measured({});
        const { kib: quiet, sockets } = await measured({ ours: { listen: false } });
        return { kib, quiet, sockets };
      },
      end: async () => {},
    };
  },
};

const pending: Trial = {
  name: 'pending',
  rounds: { quick: 1, full: 3 },
  contenders: ['sdk', 'ours'],
  figures: [
    { key: 'kib', title: 'memory of a call that waits, of 1,000, with its share of the connections', unit: 'KiB', goal: atMost(1.2) },
    { key: 'timers', title: 'timers of these', unit: '', as: 'value', goal: atMost(20) },
  ],
  async begin({ server: { url } }) {
    return {
      async sample(who) {
        const client = startClient(who, GC);
        try {
          await client.ask('connect', { url });
          await client.ask('load', { count: 2000, inFlight: 64 });
          const { bytes, timers } = await client.ask('pending', 1000);
          return { kib: bytes / 1024, timers };
        } finally {
          await client.child.kill();
        }
      },
      end: async () => {},
    };
  },
};

const crowd: Trial = {
  name: 'crowd',
  rounds: { quick: 1, full: 1 },
  contenders: ['sdk', 'ours'],
  figures: [
    { key: 'time', title: '1,000 sessions of one process, 10,000 calls in flight (quick: a fifth)', unit: 'ms', goal: atMost(1) },
    { key: 'failed', title: 'of these failed', unit: '', as: 'value', goal: atMost(0) },
  ],
  async begin({ server: { url }, quick }) {
    return {
      async sample(who) {
        const client = startClient(who, GC);
        try {
          await client.ask('idle', { url, count: quick ? 200 : 1000 });
          return await client.ask('crowd', 10);
        } finally {
          await client.child.kill();
        }
      },
      end: async () => {},
    };
  },
};

export const memoryTrials: readonly Trial[] = [idle, pending, crowd];
