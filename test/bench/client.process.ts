/** A client that is measured, in a process of its own: whose it is says the first argument. */
import { PerformanceObserver } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Connection, contender, type ContenderName, type ContenderOptions } from './contender.ts';
import { serve } from './remote.ts';
import { multiply, shelve } from './shelf.ts';

const name = process.argv[2] as ContenderName;
const client = await contender(name);
const gc = (globalThis as { gc?: () => void }).gc ?? (() => {});
const held: Connection[] = [];
let connection: Connection | undefined;
let begun: Promise<{ readonly at: number; readonly answered: boolean }>[] = [];

let collections = 0;
new PerformanceObserver((list) => (collections += list.getEntries().length)).observe({ entryTypes: ['gc'] });

interface Load {
  readonly count: number;
  readonly inFlight: number;
}

/** So many calls, so many at a time; `times` hears how long each took, in ms. */
async function load({ count, inFlight }: Load, times?: number[]): Promise<void> {
  const to = connected();
  let left = count;
  const caller = async (): Promise<void> => {
    while (left-- > 0) {
      const start = performance.now();
      await to.call('echo', 'Hello, world!');
      times?.push(performance.now() - start);
    }
  };
  await Promise.all(Array.from({ length: Math.min(inFlight, count) }, caller));
}

function connected(): Connection {
  if (!connection) throw new Error('not connected');
  return connection;
}

const used = (): number => {
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
};

const controls = {
  connect: async ({ url, options }: { url: string; options?: ContenderOptions }) => {
    connection = await client.connect(url, options);
  },

  close: async () => {
    await connection?.close();
    connection = undefined;
  },

  /** Times in ms, CPU in µs for each call: of the whole process, with its collector of garbage. */
  load: async (what: Load) => {
    const times: number[] = [];
    const cpu = process.cpuUsage();
    const start = performance.now();
    await load(what, times);
    const time = performance.now() - start;
    const { user, system } = process.cpuUsage(cpu);
    times.sort((a, b) => a - b);
    return { time, cpu: (user + system) / what.count, p50: times[times.length >> 1] ?? 0, p99: times[Math.floor(times.length * 0.99)] ?? 0 };
  },

  /** All at once. How many were answered, and the time until the last one was, in ms. */
  burst: async (count: number) => {
    const to = connected();
    const start = performance.now();
    const settled = await Promise.allSettled(Array.from({ length: count }, () => to.call('echo', 'Hello, world!')));
    const failed = settled.filter((each) => each.status === 'rejected');
    return { time: performance.now() - start, answered: count - failed.length, error: failed[0] ? String(failed[0].reason) : undefined };
  },

  batch: async (count: number) => {
    const to = connected();
    const start = performance.now();
    await to.batch?.(Array.from({ length: count }, (_, i) => `Hello, world ${i}!`));
    return { time: performance.now() - start };
  },

  /** Bytes for each call. The young generation is so large (`--min-semi-space-size`) that nothing is collected meanwhile: what is in use is what was allocated. */
  allocate: async (what: Load) => {
    gc();
    await sleep(50);
    const collected = collections;
    const before = used();
    await load(what);
    const after = used();
    // The observer hears of collections a turn later.
    await sleep(50);
    if (collections > collected) throw new Error('something was collected: allocations cannot be counted');
    return (after - before) / what.count;
  },

  /** From nothing to the first answer, in ms. Connections must be cold: that is for the caller to see to. */
  fresh: async ({ url, options, list }: { url: string; options?: ContenderOptions; list?: boolean }) => {
    await client.prepare?.(options);
    const start = performance.now();
    const one = await client.connect(url, options);
    if (list) await one.listTools();
    await one.call('echo', 'Hello, world!');
    const time = performance.now() - start;
    await one.close();
    return time;
  },

  /** One call and no more, in ms. */
  once: async ({ url, options }: { url: string; options?: ContenderOptions }) => {
    await client.prepare?.(options);
    const start = performance.now();
    if (client.once) await client.once(url, 'echo', 'Hello, world!', options);
    else {
      const one = await client.connect(url, options);
      await one.call('echo', 'Hello, world!');
      await one.close();
    }
    return performance.now() - start;
  },

  /** The session's id, for others to take it up by hand. */
  session: () => connection?.sessionId,

  /** Begins so many calls of a tool that lasts. {@link settle} tells what becomes of them. */
  begin: ({ tool, count }: { tool: string; count: number }) => {
    const to = connected();
    begun = Array.from({ length: count }, (_, i) =>
      to.call(tool, `begun ${i}`).then(
        () => ({ at: Date.now(), answered: true }),
        () => ({ at: Date.now(), answered: false }),
      ),
    );
  },

  /** How many were answered within so many ms, how many failed, and when the last of these settled (Unix time in ms). */
  settle: async (within: number) => {
    const late = sleep(within, undefined, { ref: false });
    const all = await Promise.all(begun.map((each) => Promise.race([each, late])));
    const settled = all.filter((each) => each !== undefined);
    const answered = settled.filter((each) => each.answered).length;
    return { answered, failed: settled.length - answered, at: Math.max(0, ...settled.map(({ at }) => at)) };
  },

  /** A call every so many ms. Says what became of each, and when each was answered (Unix time in ms). Those that nobody answers are given up at the end. */
  pace: async ({ count, every }: { count: number; every: number }) => {
    const to = connected();
    const over = new AbortController();
    const answeredAt: number[] = [];
    let failed = 0;
    let unknown = 0;
    const calls: Promise<void>[] = [];
    for (let i = 0; i < count; i++) {
      calls.push(
        to.call('echo', `paced ${i}`, over.signal).then(
          () => void answeredAt.push(Date.now()),
          (error: { code?: unknown }) => void (error.code === 'OUTCOME_UNKNOWN' ? unknown++ : failed++),
        ),
      );
      await sleep(every);
    }
    const timer = setTimeout(() => over.abort(new Error('nobody answered it')), 5000);
    await Promise.all(calls);
    clearTimeout(timer);
    return { failed, unknown, answeredAt };
  },

  /** Makes so many calls that nobody answers, and says what one of them takes, in bytes, and how many timers they have. */
  pending: async (count: number) => {
    const to = connected();
    const over = new AbortController();
    const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
    await sleep(100);
    gc();
    const before = { used: used(), timers: timers() };
    const calls = Array.from({ length: count }, () => to.call('hang', '', over.signal).catch(() => {}));
    await sleep(1500);
    gc();
    const after = { used: used(), timers: timers() };
    over.abort(new Error('it was enough'));
    await Promise.all(calls);
    return { bytes: (after.used - before.used) / count, timers: after.timers - before.timers };
  },

  /** All clients that are held make so many calls at once. */
  crowd: async (each: number) => {
    const start = performance.now();
    const settled = await Promise.allSettled(held.flatMap((one) => Array.from({ length: each }, () => one.call('echo', 'Hello, world!'))));
    const failed = settled.filter(({ status }) => status === 'rejected').length;
    return { time: performance.now() - start, failed };
  },

  /** Holds so many clients that do nothing, and says what one takes, in bytes. */
  idle: async ({ url, count, options }: { url: string; count: number; options?: ContenderOptions }) => {
    gc();
    const before = used();
    while (held.length < count) held.push(await client.connect(url, options));
    for (const each of held) await each.call('echo', 'Hello, world!');
    await sleep(500);
    gc();
    return (used() - before) / count;
  },

  /** A session on the disk, in ms. */
  shelve: ({ directory, times }: { directory: string; times: number }) => shelve(name, directory, times),

  multiply: ({ directory, count }: { directory: string; count: number }) => multiply(directory, count),

  memory: () => {
    gc();
    return used();
  },

  /** What a profiler saw of a load: `node --cpu-prof`, and the sampling heap profiler with what has been collected since. */
  profile: async (what: Load) => {
    const { Session } = await import('node:inspector/promises');
    const session = new Session();
    session.connect();
    await session.post('Profiler.enable');
    await session.post('Profiler.setSamplingInterval', { interval: 200 });
    await session.post('Profiler.start');
    await load(what);
    const { profile: cpu } = await session.post('Profiler.stop');
    await session.post('HeapProfiler.startSampling', { samplingInterval: 4096, includeObjectsCollectedByMajorGC: true, includeObjectsCollectedByMinorGC: true } as object);
    await load(what);
    const { profile: heap } = await session.post('HeapProfiler.stopSampling');
    session.disconnect();
    return { cpu, heap };
  },
};
export type ClientControls = typeof controls;
serve(controls);
