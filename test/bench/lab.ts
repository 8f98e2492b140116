import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { build, type BuildOptions } from 'esbuild';
import type { ClientControls } from './client.process.ts';
import type { ContenderName } from './contender.ts';
import type { DelayControls } from './delay.process.ts';
import { Remote } from './remote.ts';
import type { ServerControls } from './server.process.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const here = fileURLToPath(new URL('./', import.meta.url));
const built = `${root}.bench/`;
const HOW: BuildOptions = {
  absWorkingDir: root,
  outdir: built,
  outExtension: { '.js': '.mjs' },
  bundle: true,
  packages: 'external',
  platform: 'node',
  format: 'esm',
  target: 'node20',
  logLevel: 'warning',
};

/** Everything that is measured runs as a user's program would: JavaScript, and the library as it is published. */
export async function buildPrograms(): Promise<void> {
  await build({ ...HOW, entryPoints: { server: `${here}server.process.ts`, delay: `${here}delay.process.ts`, client: `${here}client.process.ts`, once: `${here}once.process.ts` }, splitting: true });
}

/** The client with the library's sources in it, and a map to them. Not by tsx: what it adds to each function would be in the profile. */
export async function buildForProfile(): Promise<string> {
  const alias = { 'mcp-reprise/node': `${root}src/node.ts`, 'mcp-reprise/redis': `${root}src/redis.ts`, 'mcp-reprise': `${root}src/index.ts` };
  await build({ ...HOW, entryPoints: { profiled: `${here}client.process.ts` }, alias, conditions: ['mcp-reprise-source'], sourcemap: true });
  return `${built}profiled.mjs`;
}

export interface BenchServer extends AsyncDisposable {
  readonly url: string;
  readonly port: number;
  /** When it began to listen, Unix time in ms. */
  readonly since: number;
  readonly remote: Remote<ServerControls>;
}

/** @param at - the port; 0: any */
export async function startBenchServer(at = 0): Promise<BenchServer> {
  const remote = new Remote<ServerControls>(`${built}server.mjs`);
  const { port, at: since } = await remote.ask('listen', at);
  return { url: `http://127.0.0.1:${port}/mcp`, port, since, remote, [Symbol.asyncDispose]: () => remote[Symbol.asyncDispose]() };
}

export interface Network extends AsyncDisposable {
  readonly url: string;
  readonly remote: Remote<DelayControls>;
}

/** The same server, so many ms away. */
export async function startNetwork(server: BenchServer, roundTrip: number): Promise<Network> {
  const remote = new Remote<DelayControls>(`${built}delay.mjs`);
  const port = await remote.ask('listen', { target: server.port, roundTrip });
  return { url: `http://127.0.0.1:${port}/mcp`, remote, [Symbol.asyncDispose]: () => remote[Symbol.asyncDispose]() };
}

/** @param file - another than the usual one, see {@link buildForProfile} */
export function startClient(name: ContenderName, flags: string[] = [], file = `${built}client.mjs`): Remote<ClientControls> {
  return new Remote<ClientControls>(file, { args: [name], flags });
}

/** A program that makes one call and ends: how long that takes from its start to its exit, in ms. */
export async function runOnce(name: ContenderName, url: string): Promise<number> {
  const start = performance.now();
  const { status, stderr } = await new Promise<{ status: number | null; stderr: string }>((resolve) => {
    execFile(process.execPath, [`${built}once.mjs`, name, url], (error, _, said) => resolve({ status: error ? Number(error.code ?? 1) : 0, stderr: said }));
  });
  if (status !== 0) throw new Error(`${name}: exit code ${status}\n${stderr}`);
  return performance.now() - start;
}
