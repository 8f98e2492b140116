import { readdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import type { TestProject } from 'vitest/node';

const SCRIPT = /([.-]process|-script|stdio-server)\.ts$/;
const OUT = fileURLToPath(new URL('../../node_modules/.cache/test-bundles/', import.meta.url));

/**
 * Vitest's global setup: each script that tests run in a process of its own becomes one file of plain JavaScript, with all that it needs
 * of the SDK and of our source. Hundreds of processes are started, and to translate and load it all each time is most of what that costs.
 * While files are watched they are run as they are.
 */
export default async function setup({ config }: TestProject): Promise<void> {
  if (config.watch) return;
  const root = fileURLToPath(new URL('..', import.meta.url));
  await build({
    entryPoints: (await readdir(root, { recursive: true })).filter((file) => SCRIPT.test(file)).map((file) => root + file),
    outbase: root,
    outdir: OUT,
    outExtension: { '.js': '.mjs' },
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    conditions: ['mcp-reprise-source'],
    external: ['redis', 'ioredis'],
    sourcemap: 'inline',
    sourcesContent: false,
    // For the CommonJS packages among them.
    banner: { js: "import { createRequire as toRequire } from 'node:module'; const require = toRequire(import.meta.url);" },
    logLevel: 'error',
  });
  process.env['TEST_BUNDLES'] = OUT;
}
