import { performance } from 'node:perf_hooks';
import { setImmediate as turn } from 'node:timers/promises';
import { countTimers, heap, leftAt, listenersOf, openTimers, processListeners, quiet, resources, type Sample } from './traces.ts';

/** The work whose traces are looked for, in a process of its own: `node --expose-gc client.process.ts '<Work>'`. It ends by itself. */
export interface Work {
  readonly url: string;
  readonly what: 'calls' | 'cycles';
  readonly count: number;
  /** So many come before, and do not count: code is compiled, and what is bounded fills up. */
  readonly warmUp: number;
  /** Requests go by fetch, as in a browser. */
  readonly fetch: boolean;
  readonly directory: string;
}

export interface Report {
  readonly type: 'report';
  readonly samples: readonly Sample[];
  /** What is still there in the end, and should not. */
  readonly left: readonly string[];
  /** Calls that did not end as they should, by kind and error. */
  readonly wrong: Readonly<Record<string, number>>;
  /** The time that the process computed, in s. */
  readonly cpu: number;
  /** How many were made, by kind. */
  readonly made: Readonly<Record<string, number>>;
}

/** Samples of the heap, over the whole of the work. */
const SAMPLES = 12;
const SIDE_BY_SIDE = 16;
/** A client that is in use has a timer: its session's next touch. */
const STANDING = 1;

countTimers();
// Whether the work lets the process end is what is asked.
process.channel?.unref();
const { kindsOfCalls } = await import('./calls.ts');
const { kindsOfCycles } = await import('./cycles.ts');

const work = JSON.parse(process.argv[2] ?? '') as Work;
const before = { resources: resources(), listeners: processListeners() };
const made: Record<string, number> = {};
const wrong: Record<string, number> = {};
const count = (counts: Record<string, number>, name: string): number => (counts[name] = (counts[name] ?? 0) + 1);

const { schedule, signal, standing, end, collected } = work.what === 'calls' ? await kindsOfCalls(work) : kindsOfCycles(work);
let next = 0;
async function run(until: number): Promise<void> {
  const worker = async (): Promise<void> => {
    while (next < until) {
      const each = schedule(next++);
      count(made, each.name);
      await each.run().catch((error: unknown) => count(wrong, `${each.name}: ${String(error)}`));
    }
  };
  await Promise.all(Array.from({ length: work.what === 'calls' ? SIDE_BY_SIDE : 4 }, worker));
}

const left = new Set<string>();
const samples: Sample[] = [];
/** What must be gone as soon as the last client is closed, whatever would end by itself later. */
async function lookAround(): Promise<void> {
  for (const callers of openTimers()) left.add(`a timer of ${callers}`);
  const { connections, exchanges } = await leftAt(work.url);
  // Those of fetch are the platform's own, which it keeps for others.
  if (connections > 0 && !work.fetch) left.add(`${connections} connections at the server`);
  if (exchanges > 0) left.add(`${exchanges} exchanges at the server`);
}

await run(work.warmUp);
for (let i = 0; i <= SAMPLES; i++) {
  await run(work.warmUp + Math.round((work.count * i) / SAMPLES));
  if (!standing) await lookAround();
  await quiet(standing ? STANDING : 0);
  samples.push({ after: next - work.warmUp, heap: await heap() });
  if (listenersOf(signal) > 0) left.add(`${listenersOf(signal)} listeners on the signal after ${next}`);
}
await end();
await lookAround();
const { sessions } = await leftAt(work.url);
if (sessions.length > 0) left.add(`${sessions.length} sessions at the server, of which was asked last: ${[...new Set(sessions)].join(', ')}`);
const closedAt = performance.eventLoopUtilization();
// What the process waits for from here on, something of ours keeps it waiting for. Not the time by the clock: that depends on who else computes.
const onExit = (): void => console.log(`waited ${performance.eventLoopUtilization(closedAt).idle}`);
// Handles say that they are closed in a later turn.
for (let turns = 0; turns < 5; turns++) await turn();
const now = resources();
for (const kind of before.resources) if (now.includes(kind)) now.splice(now.indexOf(kind), 1);
for (const kind of now) left.add(kind);
if (processListeners() !== before.listeners) left.add(`listeners of the process: ${processListeners()}, before ${before.listeners}`);
await heap();
for (const each of collected()) left.add(each);
process.once('exit', onExit);
const { user, system } = process.cpuUsage();
process.send?.({ type: 'report', samples, left: [...left], wrong, made, cpu: (user + system) / 1e6 } satisfies Report);
