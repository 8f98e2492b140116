/**
 * What it costs, side by side: the SDK's own client, ours, and the least that node:http can do. `npm run bench` takes twenty minutes and
 * writes to `results`. With `-- --quick` it takes five, with `--only burst` (a part of a name; more than once) it runs some: these print,
 * and write only where `--out directory` says.
 */
import { execFileSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { buildPrograms, startBenchServer, startNetwork } from './lab.ts';
import { growthPlot, plot } from './plot.ts';
import { markdown, terminal } from './report.ts';
import { type Bench, type Result, run } from './trial.ts';
import { callTrials } from './trials/calls.ts';
import { connectTrials } from './trials/connect.ts';
import { faultTrials } from './trials/faults.ts';
import { growthTrials } from './trials/growth.ts';
import { memoryTrials } from './trials/memory.ts';
import { storeTrials } from './trials/stores.ts';

const { values } = parseArgs({ options: { quick: { type: 'boolean', default: false }, only: { type: 'string', multiple: true }, out: { type: 'string' } } });
const { quick, only } = values;
const all = [...callTrials, ...connectTrials, ...faultTrials, ...memoryTrials, ...storeTrials, ...growthTrials];
const unknown = only?.find((part) => !all.some(({ name }) => name.includes(part)));
if (unknown !== undefined) {
  console.error(`--only ${unknown}: there is no such trial. There are ${all.map(({ name }) => name).join(', ')}.`);
  process.exit(2);
}
const trials = all.filter(({ name }) => !only || only.some((part) => name.includes(part)));
// The results that are committed are those of all trials in full.
const out = values.out ?? (quick || only ? undefined : fileURLToPath(new URL('./results/', import.meta.url)));
/** Takes the place of the line before. */
const progress = process.stderr.isTTY ? (text: string) => process.stderr.write(`\r\x1b[K${text}`) : () => false;

const started = performance.now();
const loadBefore = loadavg()[0] as number;
await buildPrograms();
await using server = await startBenchServer();
await using far = await startNetwork(server, 50);
const bench: Bench = { quick, server, far };
const results: Result[] = [];
let facts: string[] = [];
for (const trial of trials) {
  const begun = performance.now();
  results.push(...(await run(trial, bench, (round, rounds) => progress(`${trial.name}: round ${round} of ${rounds}`))));
  progress('');
  process.stderr.write(`${trial.name}: ${((performance.now() - begun) / 1000).toFixed(0)} s\n`);
  facts = whatIsKnown();
  // After each, so that a run that is stopped has not been for nothing.
  if (out !== undefined) await save(out);
}
console.log(`\n${facts.join('\n')}\n\n${terminal(results)}`);

async function save(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  await writeFile(join(directory, 'results.json'), `${JSON.stringify({ facts, results }, undefined, 2)}\n`);
  await writeFile(join(directory, 'results.md'), markdown(results, facts));
  await writeFile(join(directory, 'results.svg'), plot(results));
  if (results.some(({ point }) => point)) await writeFile(join(directory, 'growth.svg'), growthPlot(results));
}

function whatIsKnown(): string[] {
  const commit = execFileSync('git', ['describe', '--always', '--dirty'], { encoding: 'utf8' }).trim();
  const [cpu] = cpus();
  return [
    `Node ${process.versions.node}, Linux ${release().split('.', 2).join('.')}, ${cpus().length} × ${cpu?.model.trim()}, ${Math.round(totalmem() / 2 ** 30)} GiB; commit ${commit}, ${new Date().toISOString().slice(0, 10)}; ` +
      `${quick ? 'quick' : 'full'} run of ${Math.round((performance.now() - started) / 1000)} s. Load of the machine before and after: ${loadBefore.toFixed(1)}, ${(loadavg()[0] as number).toFixed(1)}.`,
    'Medians of rounds in which all take turns in random order; the ratio is of ours to the bare SDK within each round. All against one real server in a process of its own.',
  ];
}
