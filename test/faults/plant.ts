import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Catch, PlantedBug } from './planted-bugs.ts';

/** What came of a run: `failed` names what failed, `undefined` where all passed. */
interface Run {
  readonly failed: string | undefined;
  readonly seconds: number;
  /** What the program said. */
  readonly said: string;
}

interface HuntOptions {
  readonly proved?: boolean;
  onFound?(found: Found): void;
}

export interface Found extends Run {
  readonly bug: PlantedBug;
}

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
/** What a copy consists of, beside the dependencies, which are linked. */
const COPIED = ['src', 'test', 'package.json', 'tsconfig.json', 'vitest.bare.config.ts'];
/** After this time, in ms, a program has not caught anything: it hangs. */
const LONGEST = 600_000;

/** The text of a file with a bug in it. Throws where what is to be replaced is not there exactly once: the list is out of date. */
export function planted({ name, file, edits }: PlantedBug, text: string): string {
  let result = text;
  for (const [find, plant] of edits) {
    const [before = '', ...after] = result.split(find);
    if (after.length !== 1) throw new Error(`the bug "${name}" cannot be planted: src/${file} has ${after.length} places with: ${find}`);
    result = before + plant + after.join();
  }
  return result;
}

/** The source as it stands. */
export function sourceOf({ file }: PlantedBug): Promise<string> {
  return readFile(join(ROOT, 'src', file), 'utf8');
}

/**
 * Plants one bug after another in copies of the source, and runs what must catch it.
 *
 * @param copies - how many are worked on at a time
 * @param options - `proved`: what must catch them is known to pass without a bug. Otherwise that is looked at first: what fails then
 *   catches nothing.
 */
export async function hunt(bugs: readonly PlantedBug[], copies: number, { proved = false, onFound = () => {} }: HuntOptions = {}): Promise<Found[]> {
  const found: Found[] = [];
  const traps = new Map(bugs.map(({ caughtBy }) => [JSON.stringify(caughtBy), caughtBy]));
  const home = await mkdtemp(join(tmpdir(), 'mcp-reprise-planted-'));
  try {
    const places = await Promise.all(Array.from({ length: copies }, (_, i) => copyTo(join(home, String(i)))));
    const useless: string[] = [];
    await shared(proved ? [] : [...traps.values()], places, async (trap, place) => {
      const failed = await run(trap, place).then((ran) => ran.failed, (error: Error) => error.message);
      if (failed !== undefined) useless.push(`${describe(trap)}: ${failed}`);
    });
    if (useless.length > 0) throw new Error(`without a bug it must pass, and does not:\n${useless.join('\n')}`);
    await shared(bugs, places, async (bug, place) => {
      const path = join(place, 'src', bug.file);
      const text = await readFile(path, 'utf8');
      await writeFile(path, planted(bug, text));
      const result = { bug, ...(await run(bug.caughtBy, place)) };
      await writeFile(path, text);
      found.push(result);
      onFound(result);
    });
  } finally {
    await rm(home, { recursive: true, force: true });
  }
  return found;
}

export function describe(trap: Catch): string {
  return 'program' in trap ? trap.program.join(' ') : `${trap.files.join(' ')}${trap.named === undefined ? '' : ` -t "${trap.named}"`}`;
}

async function copyTo(place: string): Promise<string> {
  await mkdir(place);
  await Promise.all(COPIED.map((name) => cp(join(ROOT, name), join(place, name), { recursive: true })));
  await symlink(join(ROOT, 'node_modules'), join(place, 'node_modules'), 'dir');
  return place;
}

/** Each place takes the next task as soon as it is free. */
async function shared<T>(tasks: readonly T[], places: readonly string[], work: (task: T, place: string) => Promise<void>): Promise<void> {
  const waiting = [...tasks];
  const takeNext = async (place: string): Promise<void> => {
    for (let task = waiting.shift(); task !== undefined; task = waiting.shift()) await work(task, place);
  };
  // Where one fails the others are still at work: nothing may be cleaned up before they are done.
  const ended = await Promise.allSettled(places.map(takeNext));
  for (const each of ended) if (each.status === 'rejected') throw each.reason;
}

async function run(trap: Catch, place: string): Promise<Run> {
  const start = performance.now();
  const report = join(place, 'report.json');
  await rm(report, { force: true });
  const { failed: exit, said } = await node('program' in trap ? trap.program : vitest(trap, report), place);
  const failed = 'program' in trap ? exit : await failedTest(report, exit, said);
  return { failed, said, seconds: (performance.now() - start) / 1000 };
}

function vitest({ files, named }: Exclude<Catch, { program: unknown }>, report: string): string[] {
  const output = ['--reporter=json', `--outputFile=${report}`, '--bail=1', '--maxWorkers=1'];
  return ['node_modules/vitest/vitest.mjs', 'run', '--config', 'vitest.bare.config.ts', ...output, ...(named === undefined ? [] : ['-t', named]), ...files];
}

/** The first test that failed. A file that cannot be read, or tests that are not there, are no catch but a mistake in the list. */
async function failedTest(report: string, exit: string | undefined, said: string): Promise<string | undefined> {
  const text = await readFile(report, 'utf8').catch(() => {
    throw new Error(`Vitest made no report (${exit}):\n${said}`);
  });
  const { testResults } = JSON.parse(text) as { testResults: { name: string; message: string; assertionResults: { status: string; fullName: string }[] }[] };
  const tests = testResults.flatMap(({ assertionResults }) => assertionResults);
  const failed = tests.find(({ status }) => status === 'failed')?.fullName;
  if (failed !== undefined) return failed;
  const unread = testResults.find(({ message }) => message !== '');
  if (unread) throw new Error(`Vitest could not run ${unread.name}: ${unread.message}`);
  if (!tests.some(({ status }) => status === 'passed')) throw new Error(`no test was run (${exit ?? 'none has such a name'}):\n${said}`);
  return exit;
}

function node(args: readonly string[], cwd: string): Promise<{ failed: string | undefined; said: string }> {
  // Where this is a test itself, its Vitest must not look like the other's, and its bundles (support/bundles.ts) have no bug in them.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('VITEST') && name !== 'TEST_BUNDLES'));
  return new Promise((resolve, reject) => {
    execFile(process.execPath, args, { cwd, env, timeout: LONGEST, killSignal: 'SIGKILL', maxBuffer: 64 * 1024 * 1024 }, (error, stdout, stderr) => {
      if (error?.killed === true) reject(new Error(`${args.join(' ')} did not end within ${LONGEST / 1000} s\n${stdout}${stderr}`));
      else resolve({ failed: error ? `exit code ${error.code}` : undefined, said: stdout + stderr });
    });
  });
}
