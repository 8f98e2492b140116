import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { build } from 'esbuild';
import type { Passing } from './fault-proxy.ts';
import { Figures, Oracle, type Violation } from './oracle.ts';
import { type Fault, GROUP, planCallOf, planGroup } from './plan.ts';
import { Lane } from './soak-lane.ts';

/*
 * Very many calls through a bad network: `npm run soak -- --calls 1000000 --seed 7`. Exits with 1 if a promise was broken.
 *
 * The seed decides every call, the fault of each request and connection, and when servers and clients die (`plan.ts`). It does not decide
 * the order in which the machine runs the processes: which of two requests of a client comes first, what is in flight when a server dies,
 * and with that how often a call is sent again. So the same seed has the same plan, and what becomes of it is only much the same.
 */
export interface SoakOptions {
  readonly calls: number;
  readonly seed: number;
  /** Clients at a time, over all modes. */
  readonly clients: number;
  /** Groups of calls under way at a time, over all modes. */
  readonly window: number;
  /** All deadlines are so many times as long: for a machine that has other things to do. Default 1. */
  readonly patience?: number;
  /** Hears every 10 s how far it is, and of each broken promise. */
  readonly onProgress?: (text: string) => void;
}

export interface SoakReport {
  readonly seed: number;
  /** Calls that were begun, and of these those that were settled; the others died with their process. */
  readonly calls: number;
  readonly settled: number;
  readonly executions: number;
  readonly requests: number;
  readonly faults: number;
  /** By kind and phase. */
  readonly faultsBy: Record<string, Record<string, number>>;
  readonly outcomes: Record<string, Record<string, number>>;
  readonly codes: Record<string, number>;
  readonly retries: number;
  /** Streams of answers that were taken up again, stored sessions that were, and lost ones that were replaced. */
  readonly streamResumes: number;
  readonly sessionResumes: number;
  readonly resets: number;
  readonly durable: { readonly joined: number; readonly madeAgain: number; readonly answeredAgain: number };
  /** Durable answers that a store lost, which had warned of it, or had not kept yet when they were asked for again. */
  readonly excused: number;
  readonly disasters: Record<string, number>;
  readonly lives: Record<string, number>;
  readonly warnings: Record<string, number>;
  readonly connects: number;
  readonly failedConnects: number;
  readonly droppedMessages: number;
  /** In s, and calls a second. */
  readonly seconds: number;
  readonly rate: number;
  /** The most that a process of clients had, and this one, in MB. */
  readonly peakHeap: { readonly client: number; readonly harness: number };
  readonly violations: readonly string[];
}

/** SSE and JSON, without and with an event store. */
const LANES = [
  { mode: 'sse', eventStore: false },
  { mode: 'json', eventStore: false },
  { mode: 'sse', eventStore: true },
  { mode: 'json', eventStore: true },
] as const;
/** After so many broken promises it ends. */
const ENOUGH = 5;

export async function soak({ calls: asked, seed, clients, window, patience = 1, onProgress }: SoakOptions): Promise<SoakReport> {
  const calls = Math.ceil(asked / GROUP) * GROUP;
  const from = performance.now();
  const directory = await mkdtemp(join(tmpdir(), 'mcp-reprise-soak-'));
  const faultsBy: Record<string, Record<string, number>> = {};
  const violations: Violation[] = [];
  let faults = 0;
  let harness = 0;
  let enough = (): void => {};
  const broken = new Promise<void>((resolve) => (enough = resolve));
  const onViolation = (violation: Violation): void => {
    violations.push(violation);
    onProgress?.(`broken: ${violation.nonce === undefined ? '' : `call ${violation.nonce}: `}${violation.what}`);
    if (violations.length >= ENOUGH) enough();
  };
  const onFault = ({ kind, phase }: Fault): void => {
    faults++;
    const phases = (faultsBy[kind] ??= {});
    phases[phase] = (phases[phase] ?? 0) + 1;
  };
  const perLane = { patience, clients: Math.max(1, Math.floor(clients / LANES.length)), window: Math.max(1, Math.floor(window / LANES.length)) };
  const oracle = new Oracle({ seed, calls, seats: LANES.length, clients: perLane.clients, onViolation });
  const figures = new Figures();
  const seconds = (): number => (performance.now() - from) / 1000;
  const watch = setInterval(() => (harness = Math.max(harness, process.memoryUsage().heapUsed)), 500);
  const progress = setInterval(() => onProgress?.(`${Math.round(seconds())} s: ${oracle.settled} calls, ${faults} faults, ${violations.length} violations`), 10_000);
  const lanes: Lane[] = [];
  try {
    const programs = { server: await bundle(new URL('./soak-server.process.ts', import.meta.url), join(directory, 'server.mjs')), client: await bundle(new URL('./soak-client.process.ts', import.meta.url), join(directory, 'client.mjs')) };
    for (const [lane, mode] of LANES.entries()) {
      lanes.push(new Lane({ seed, lane, lanes: LANES.length, calls, ...perLane, ...mode, directory, programs, oracle, figures, onFault, onViolation }));
    }
    await Promise.all(lanes.map((lane) => lane.start()));
    await Promise.race([broken, Promise.all(lanes.map((lane) => lane.run()))]);
  } finally {
    clearInterval(watch);
    clearInterval(progress);
    await Promise.all(lanes.map((lane) => lane.stop()));
    await rm(directory, { recursive: true, force: true, maxRetries: 3 });
  }
  const { retries, resets, resumed, warnings, connects, failedConnects, dropped, heap } = figures.sum();
  const took = seconds();
  return {
    seed,
    calls,
    settled: oracle.settled,
    executions: oracle.executions,
    requests: lanes.reduce((sum, { requests }) => sum + requests, 0),
    faults,
    faultsBy,
    outcomes: oracle.outcomes,
    codes: oracle.codes,
    retries,
    streamResumes: lanes.reduce((sum, { proxy }) => sum + proxy.resumes, 0),
    sessionResumes: resumed,
    resets,
    durable: oracle.durable,
    excused: oracle.excused,
    disasters: sumOf(lanes.map(({ disasters }) => disasters)),
    lives: sumOf(lanes.map(({ ends }) => ends)),
    warnings,
    connects,
    failedConnects,
    droppedMessages: dropped,
    seconds: Math.round(took * 10) / 10,
    rate: Math.round(oracle.settled / took),
    peakHeap: { client: Math.round(heap / 1e6), harness: Math.round(harness / 1e6) },
    violations: violations.map((violation) => explained(violation, lanes, oracle, { seed, seats: LANES.length, clients: perLane.clients })),
  };
}

/** Plain JavaScript in one file: hundreds of processes are started. */
async function bundle(program: URL, outfile: string): Promise<string> {
  const banner = { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" };
  await build({
    entryPoints: [fileURLToPath(program)],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    conditions: ['mcp-reprise-source'],
    sourcemap: 'inline',
    banner,
  });
  return outfile;
}

function sumOf(counts: readonly Record<string, number>[]): Record<string, number> {
  const sum: Record<string, number> = {};
  for (const each of counts) for (const [name, count] of Object.entries(each)) sum[name] = (sum[name] ?? 0) + count;
  return sum;
}

/** A broken promise, with the plan of its call and all that the network saw of it. */
function explained({ what, nonce, more }: Violation, lanes: readonly Lane[], oracle: Oracle, { seed, seats, clients }: { seed: number; seats: number; clients: number }): string {
  const lines = [`seed ${seed}${nonce === undefined ? '' : `, call ${nonce}`}: ${what}`];
  if (nonce !== undefined) {
    const group = Math.floor(nonce / GROUP);
    lines.push(`  call: ${JSON.stringify(planCallOf(seed, nonce, seats, clients))}`, `  group ${group}: ${JSON.stringify(planGroup(seed, group, clients))}, lane ${group % seats}, executions: ${oracle.runsOf(nonce)}`);
    for (const passing of lanes.flatMap(({ proxy }) => proxy.timeline(nonce))) lines.push(`  ${describe(passing)}`);
  }
  if (more !== undefined) lines.push(`  ${JSON.stringify(more)}`);
  return lines.join('\n');
}

function describe({ at, client, what, key, fault, passed, status }: Passing): string {
  const planned = fault ? `${fault.kind} at ${fault.phase} ${JSON.stringify(fault)}` : 'no fault';
  return `${new Date(at).toISOString()} client ${client} ${what} (${key}): ${planned}; ${passed ? 'reached the server' : 'did not reach the server'}, answered ${status ?? 'by nothing'}`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: { calls: { type: 'string', default: '100000' }, seed: { type: 'string', default: '7' }, clients: { type: 'string', default: '32' }, window: { type: 'string', default: '48' }, patience: { type: 'string', default: '1' }, quick: { type: 'boolean', default: false } },
  });
  const report = await soak({ calls: values.quick ? 5000 : Number(values.calls), seed: Number(values.seed), clients: Number(values.clients), window: Number(values.window), patience: Number(values.patience), onProgress: (text) => console.log(text) });
  const { violations, faultsBy, outcomes, ...figures } = report;
  console.log(figures);
  console.table(faultsBy);
  console.table(outcomes);
  for (const violation of violations) console.error(`\n${violation}`);
  console.log(violations.length === 0 ? 'No promise was broken.' : `\n${violations.length} promises were broken. Again: npm run soak -- --calls ${report.calls} --seed ${report.seed} --clients ${values.clients} --window ${values.window}`);
  process.exitCode = violations.length === 0 ? 0 : 1;
}
