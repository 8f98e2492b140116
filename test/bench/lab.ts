import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { typescriptFlags } from '../support/child.ts';
import type { ClientControls } from './client.process.ts';
import type { ContenderName } from './contender.ts';
import type { DelayControls } from './delay.process.ts';
import { Remote } from './remote.ts';
import type { ServerControls } from './server.process.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const built = `${root}.bench/`;

/** Everything that is measured runs as a user's program would: JavaScript, and the library as it is published. */
export async function buildPrograms(): Promise<void> {
  const bench = fileURLToPath(new URL('./', import.meta.url));
  await build({
    absWorkingDir: root,
    entryPoints: { server: `${bench}server.process.ts`, delay: `${bench}delay.process.ts`, client: `${bench}client.process.ts` },
    outdir: built,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    splitting: true,
    packages: 'external',
    platform: 'node',
    format: 'esm',
    target: 'node20',
    logLevel: 'warning',
  });
}

export interface BenchServer extends AsyncDisposable {
  readonly url: string;
  readonly port: number;
  readonly remote: Remote<ServerControls>;
}

export async function startBenchServer(): Promise<BenchServer> {
  const remote = new Remote<ServerControls>(`${built}server.mjs`);
  const { port } = await remote.ask('listen', 0);
  return { url: `http://127.0.0.1:${port}/mcp`, port, remote, [Symbol.asyncDispose]: () => remote[Symbol.asyncDispose]() };
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

export interface ClientSettings {
  readonly flags?: string[];
  /** From the sources, for a profile that names them. */
  readonly sources?: boolean;
}

export function startClient(name: ContenderName, { flags = [], sources = false }: ClientSettings = {}): Remote<ClientControls> {
  const file = sources ? fileURLToPath(new URL('./client.process.ts', import.meta.url)) : `${built}client.mjs`;
  return new Remote<ClientControls>(file, { args: [name], flags: [...(sources ? typescriptFlags : []), ...flags] });
}
