/**
 * Where the time and the memory of a call go: `npm run bench:profile`, with `-- --contender sdk` for another's, `--in-flight 64`,
 * `--count 3000`. By function, by file, and by who pays: the nearest file of ours, or package, that called what took it.
 */
import { readFile } from 'node:fs/promises';
import type { HeapProfiler, Profiler } from 'node:inspector/promises';
import { SourceMap } from 'node:module';
import { parseArgs } from 'node:util';
import type { ContenderName } from './contender.ts';
import { buildForProfile, buildPrograms, startBenchServer, startClient } from './lab.ts';

const { values } = parseArgs({
  options: { contender: { type: 'string', default: 'ours' }, 'in-flight': { type: 'string', default: '1' }, count: { type: 'string', default: '3000' }, top: { type: 'string', default: '40' } },
});
const [count, inFlight, top] = [Number(values.count), Number(values['in-flight']), Number(values.top)];

type Frame = Profiler.Profile['nodes'][number]['callFrame'];
/** From the one at the top of the stack on. */
type Stack = readonly Frame[];

await buildPrograms();
const file = await buildForProfile();
const map = new SourceMap(JSON.parse(await readFile(`${file}.map`, 'utf8')));

/** Ours one by one, packages and Node's own modules as they are. */
function place({ url, functionName, lineNumber, columnNumber }: Frame): { readonly file: string; readonly line: number } {
  const inPackage = /node_modules\/((?:@[^/]+\/)?[^/]+)\/(.*)$/.exec(url);
  if (inPackage) return { file: `${inPackage[1]} ${(inPackage[2] ?? '').split('/').slice(-2).join('/')}`, line: lineNumber + 1 };
  if (!url.endsWith('profiled.mjs')) return { file: url || functionName || '(engine)', line: lineNumber + 1 };
  const at = map.findEntry(lineNumber, columnNumber) as { originalSource?: string; originalLine?: number };
  return { file: (at.originalSource ?? 'bundle').replace(/^(\.\.\/)+/, ''), line: (at.originalLine ?? 0) + 1 };
}

const pays = (file: string): boolean => /^(src|test)\/|^[@a-z]/.test(file) && !file.startsWith('node:') && file !== 'dispatch';

class Sums {
  readonly #by = { function: new Map<string, number>(), file: new Map<string, number>(), 'who pays': new Map<string, number>() };

  add(stack: Stack, value: number): void {
    const [self] = stack;
    // The profiler's own work.
    if (!self || value <= 0 || self.functionName === '(idle)' || stack.some(({ functionName }) => functionName === 'dispatch')) return;
    const { file, line } = place(self);
    const payer = stack.find((frame) => frame.url !== '' && pays(place(frame).file));
    const to = (sums: Map<string, number>, name: string): void => void sums.set(name, (sums.get(name) ?? 0) + value);
    to(this.#by.function, `${self.functionName || '(anonymous)'} ${file}:${line}`);
    to(this.#by.file, file);
    to(this.#by['who pays'], payer ? `${place(payer).file} (${payer.functionName || 'anonymous'}:${place(payer).line})` : '(nobody of these)');
  }

  print(what: string, unit: (value: number) => string): void {
    for (const [by, sums] of Object.entries(this.#by)) {
      const total = [...sums.values()].reduce((a, b) => a + b, 0);
      console.log(`\n${what} by ${by} (all: ${unit(total)} per call)`);
      for (const [name, value] of [...sums].sort(([, a], [, b]) => b - a).slice(0, top)) {
        console.log(`${((100 * value) / total).toFixed(1).padStart(6)} %  ${unit(value).padStart(10)}  ${name}`);
      }
    }
  }
}

function showCpu({ nodes, samples = [], timeDeltas = [] }: Profiler.Profile): void {
  const stacks = new Map<number, Stack>();
  const parents = new Map(nodes.flatMap(({ id, children = [] }) => children.map((child) => [child, id] as const)));
  const frames = new Map(nodes.map(({ id, callFrame }) => [id, callFrame]));
  const stackOf = (id: number): Stack => {
    const known = stacks.get(id);
    if (known) return known;
    const parent = parents.get(id);
    const stack = [frames.get(id) as Frame, ...(parent === undefined ? [] : stackOf(parent))];
    stacks.set(id, stack);
    return stack;
  };
  const sums = new Sums();
  for (const [i, id] of samples.entries()) sums.add(stackOf(id), timeDeltas[i] ?? 0);
  sums.print('CPU', (micros) => `${(micros / count).toFixed(1)} µs`);
}

function showHeap({ head }: HeapProfiler.SamplingHeapProfile): void {
  const sums = new Sums();
  const visit = (node: HeapProfiler.SamplingHeapProfileNode, above: Stack): void => {
    const stack = [node.callFrame, ...above];
    sums.add(stack, node.selfSize);
    for (const child of node.children) visit(child, stack);
  };
  visit(head, []);
  sums.print('allocated', (bytes) => `${Math.round(bytes / count).toLocaleString('en-US')} B`);
}

await using server = await startBenchServer();
await using client = startClient(values.contender as ContenderName, [], file);
await client.ask('connect', { url: server.url });
await client.ask('load', { count: 15_000, inFlight });
const { cpu, heap } = await client.ask('profile', { count, inFlight });
showCpu(cpu as Profiler.Profile);
showHeap(heap as HeapProfiler.SamplingHeapProfile);
