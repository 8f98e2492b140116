import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Child, typescriptFlags } from '../support/child.ts';
import type { Report, Work } from './client.process.ts';
import type { Sample } from './traces.ts';

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
    const client = new Child(new URL('./client.process.ts', import.meta.url), { args, flags: [...typescriptFlags, '--expose-gc'], onMessage: (message: Report) => void (report = message) });
    const exit = await client.exit;
    if (!report || exit.code !== 0) throw await client.obituary();
    return { ...report, slope: slopeOf(report.samples), waited: Number(/^waited (.+)$/m.exec(client.stdout)?.[1]), stderr: client.stderr };
  } finally {
    await server?.kill();
    await rm(directory, { recursive: true, force: true });
  }
}

/** By least squares. */
function slopeOf(samples: readonly Sample[]): number {
  const mean = (of: (sample: Sample) => number): number => samples.reduce((sum, sample) => sum + of(sample), 0) / samples.length;
  const after = mean((sample) => sample.after);
  const heap = mean((sample) => sample.heap);
  return mean((sample) => (sample.after - after) * (sample.heap - heap)) / mean((sample) => (sample.after - after) ** 2);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const number = (fallback: number) => ({ type: 'string', default: `${fallback}` }) as const;
  const { values } = parseArgs({ options: { cycles: number(10_000), calls: number(100_000), fetch: number(20_000) } });
  for (const [what, count, fetch] of [['cycles', values.cycles, false], ['calls', values.calls, false], ['calls', values.fetch, true]] as const) {
    const start = performance.now();
    const { samples, ...traces } = await look({ what, count: Number(count), warmUp: what === 'calls' ? 5_000 : 1_000, fetch });
    console.log(what, fetch ? 'by fetch' : 'by node:http', traces, samples.map(({ heap }) => Math.round(heap / 1024)).join(' '), 'KiB', Math.round(performance.now() - start), 'ms');
  }
}
