import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Child, typescriptFlags } from '../support/child.ts';
import type { Report, Work } from './client.process.ts';
import type { Sample } from './traces.ts';

/**
 * The heap is to hold what the work left behind, and not what V8 makes of the code while it runs: that changed by more from sample to
 * sample than 10,000 calls with a small leak leave.
 */
const STEADY = ['--expose-gc', '--no-opt', '--no-sparkplug', '--no-flush-bytecode', '--no-lazy-feedback-allocation'];

/** Looks for what is left behind by many calls and many clients. By hand: `npm run leaks -- --cycles 10000 --calls 100000`. */

export interface Traces extends Report {
  /** By how many bytes the heap grows with each call or cycle. */
  readonly slope: number;
  /** How long the process waited, after its last client was closed, before it could end, in ms. */
  readonly waited: number;
  readonly stderr: string;
}

export async function look(work: Omit<Work, 'url' | 'directory'>): Promise<Traces> {
  const directory = await mkdtemp(join(tmpdir(), 'mcp-reprise-leaks-'));
  let server: Child | undefined;
  try {
    const port = await new Promise<number>((resolve, reject) => {
      server = new Child(new URL('./server.process.ts', import.meta.url), { onMessage: ({ port }: { port: number }) => resolve(port) });
      void server.obituary().then(reject);
    });
    let report: Report | undefined;
    const args = [JSON.stringify({ ...work, url: `http://127.0.0.1:${port}/mcp`, directory } satisfies Work)];
    const client = new Child(new URL('./client.process.ts', import.meta.url), { args, flags: [...typescriptFlags, ...STEADY], onMessage: (message: Report) => void (report = message) });
    const exit = await client.exit;
    if (!report || exit.code !== 0) throw await client.obituary();
    return { ...report, slope: slopeOf(report.samples), waited: Number(/^waited (.+)$/m.exec(client.stdout)?.[1]), stderr: client.stderr };
  } finally {
    await server?.kill();
    await rm(directory, { recursive: true, force: true });
  }
}

/**
 * From the lowest sample of the first third to the lowest of the last: what happens to be under way while a sample is taken makes it
 * higher, and nothing makes it lower than what is held.
 */
export function slopeOf(samples: readonly Sample[]): number {
  const third = Math.floor(samples.length / 3);
  const [from, to] = [samples.slice(0, third), samples.slice(-third)].map((some) => some.reduce((lowest, each) => (each.heap < lowest.heap ? each : lowest))) as [Sample, Sample];
  return (to.heap - from.heap) / (to.after - from.after);
}

/** By so much, in bytes, samples differ without anything being held; with fetch it is the platform, which has pools and buffers of its own. */
const NOISE = { own: 12 * 1024, fetch: 96 * 1024 };

/** The most that the heap may grow by, in bytes for each call or cycle. The least leak of all, one place in a list, costs 8. */
export function slopeLimit({ count, fetch }: Pick<Work, 'count' | 'fetch'>): number {
  return Math.max(1, (fetch ? NOISE.fetch : NOISE.own) / count);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const number = (fallback: number) => ({ type: 'string', default: `${fallback}` }) as const;
  const { values } = parseArgs({ options: { cycles: number(10_000), calls: number(100_000), fetch: number(20_000) } });
  for (const [what, count, fetch] of [['cycles', Number(values.cycles), false], ['calls', Number(values.calls), false], ['calls', Number(values.fetch), true]] as const) {
    if (count === 0) continue;
    const start = performance.now();
    const { samples, ...traces } = await look({ what, count, warmUp: what === 'calls' ? 5_000 : 1_000, fetch });
    const held = traces.left.length === 0 && Object.keys(traces.wrong).length === 0 && traces.slope <= slopeLimit({ count, fetch }) && traces.waited <= 100;
    console.log(count, what, fetch ? 'by fetch' : 'by node:http', held ? 'left nothing behind' : 'LEFT SOMETHING BEHIND', traces, samples.map(({ heap }) => Math.round(heap / 1024)).join(' '), 'KiB', Math.round(performance.now() - start), 'ms');
    if (!held) process.exitCode = 1;
  }
}
