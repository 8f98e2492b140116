import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type EverythingProcess, startEverything } from '../support/everything.ts';
import { startExample } from './run-example.ts';

/** The README's code is the code of the examples (which the compiler checks), and the examples run as printed, on the build. */

const root = new URL('../../', import.meta.url);
const readme = readFileSync(new URL('README.md', root), 'utf8');
const blocks = [...readme.matchAll(/<!-- (examples\/\S+) -->\n```ts\n(.*?)```/gs)].map(([, file = '', code = '']) => ({ file, code }));

describe('the README', () => {
  it('shows only code that comes from an example', () => {
    expect(readme.match(/```ts/g)).toHaveLength(blocks.length);
    expect(blocks.length).toBeGreaterThan(0);
  });

  it.each(blocks)('shows $file as it is', ({ file, code }) => {
    expect(code).toBe(readFileSync(new URL(file, root), 'utf8'));
  });

  it('names every option', () => {
    const source = readFileSync(new URL('src/options.ts', root), 'utf8');
    const names = [...source.matchAll(/^ {2}readonly (\w+)\?:/gm)].map(([, name = '']) => name);
    const missing = names.filter((name) => !readme.includes(name));
    expect(missing).toEqual([]);
  });
});

describe('the examples run as they are printed', () => {
  let everything: EverythingProcess;
  let directory: string;
  beforeAll(async () => {
    everything = await startEverything();
    directory = await mkdtemp(join(tmpdir(), 'reprise-docs-'));
  });
  afterAll(async () => {
    await everything.stop();
    await rm(directory, { recursive: true, force: true });
  });

  const run = (file: string) => startExample(file, { directory, env: { MCP_URL: everything.url.href } }).ended;

  it('first.ts starts, and goes on when it is run again', async () => {
    expect(await run('examples/first.ts')).toEqual({ code: 0, output: expect.stringMatching(/^started with \d+ tools\n.*Hello again/s) });
    expect(await run('examples/first.ts')).toEqual({ code: 0, output: expect.stringMatching(/^went on with \d+ tools\n.*Hello again/s) });
  });

  it('outcome.ts is answered', async () => {
    expect(await run('examples/outcome.ts')).toEqual({ code: 0, output: 'answered\n' });
  });

  it('batch.ts settles each of its requests', async () => {
    expect(await run('examples/batch.ts')).toEqual({ code: 0, output: expect.stringMatching(/^\d+ tools\n.*one of many.*not found/s) });
  });

  it('durable.ts follows its call, and has the answer when it is run again', async () => {
    expect(await run('examples/durable.ts')).toEqual({ code: 0, output: expect.stringMatching(/^step 1 of 5\n.*step 5 of 5\n.*operation completed/s) });
    expect(await run('examples/durable.ts')).toEqual({ code: 0, output: expect.stringMatching(/^\[.*operation completed/s) });
  });

  it('one-off.ts says how the server is, and calls', async () => {
    expect(await run('examples/one-off.ts')).toEqual({ code: 0, output: expect.stringMatching(/^speaks 2025-11-25, (new|resumed) session, \d+ ms\n.*just this/s) });
  });

  it('demo.ts shows that everything holds', async () => {
    const { code, output } = await run('examples/demo.ts');
    expect(output).toContain('Everything held. 15 passed, 0 failed');
    expect(code).toBe(0);
  });

  it('any-client.ts calls the tool over the SDK\'s own client', async () => {
    expect(await run('examples/any-client.ts')).toEqual({ code: 0, output: expect.stringContaining('Hello') });
  });
});
