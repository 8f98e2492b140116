import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { TestProject } from 'vitest/node';
import { freePort } from './ports.ts';
import { waitFor } from './wait.ts';

declare module 'vitest' {
  interface ProvidedContext {
    /** Where the tests find a Redis of their own; `''` when there is none. */
    redisUrl: string;
  }
}

/** A Redis server that can be started. */
interface Binary {
  readonly path: string;
  /** Where its libraries are, unless the system knows. */
  readonly libraries?: string;
}

const run = promisify(execFile);
const CACHE = fileURLToPath(new URL('../../node_modules/.cache/redis', import.meta.url));
const PACKAGES = ['redis-server', 'redis-tools', 'libjemalloc2', 'liblzf1'];

/** Vitest's global setup: a real Redis for the tests of the Redis store. */
export default async function setup(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  try {
    const redis = await startRedis();
    project.provide('redisUrl', redis.url);
    return redis.stop;
  } catch (error) {
    if (process.env['CI'] === 'true') throw new Error('The tests of the Redis store need a Redis.', { cause: error });
    console.warn(`\n!!! NO REDIS: THE TESTS OF THE REDIS STORE ARE SKIPPED. Install redis-server, or set REDIS_URL. (${(error as Error).message.trim()})\n`);
    project.provide('redisUrl', '');
    return undefined;
  }
}

/**
 * A real Redis: the one of `REDIS_URL`, else `redis-server` or `valkey-server` from the PATH, else, on Debian, from its packages, which
 * are only unpacked and not installed.
 */
export async function startRedis(): Promise<{ readonly url: string; stop(): Promise<void> }> {
  const given = process.env['REDIS_URL'];
  if (given) return { url: given, stop: async () => {} };
  return start((await fromPath()) ?? (await unpacked()) ?? (await fromDebian()));
}

async function start({ path, libraries }: Binary): Promise<{ url: string; stop: () => Promise<void> }> {
  const port = await freePort();
  const settings = ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', tmpdir()];
  // A server of its own would outlive a killed test run. This shell stops it as soon as nobody holds the other end of its input.
  const guard = 'exec 3<&0; "$@" 3<&- & redis=$!; { cat <&3 >/dev/null; kill "$redis"; } 2>/dev/null & wait "$redis"';
  const shell = spawn('sh', ['-c', guard, 'sh', path, ...settings], {
    env: { ...process.env, ...(libraries !== undefined && { LD_LIBRARY_PATH: libraries }) },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let output = '';
  shell.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  const gone = once(shell, 'exit');
  const failed = gone.then(() => Promise.reject(new Error(`Redis did not start: ${output.slice(-500)}`)));
  await Promise.race([failed, waitFor(() => answers(port), { what: 'a Redis that answers' })]);
  return { url: `redis://127.0.0.1:${port}`, stop: () => stop(shell, gone) };
}

async function stop(shell: ChildProcess, gone: Promise<unknown>): Promise<void> {
  shell.stdin?.end();
  await gone;
}

async function answers(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  try {
    socket.write('PING\r\n');
    const [reply] = (await once(socket, 'data')) as [Buffer];
    return reply.toString() === '+PONG\r\n';
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

async function fromPath(): Promise<Binary | undefined> {
  const directories = (process.env['PATH'] ?? '').split(delimiter);
  return firstOf(['redis-server', 'valkey-server'].flatMap((name) => directories.map((directory) => ({ path: join(directory, name) }))));
}

/** What {@link fromDebian} has left behind. */
async function unpacked(): Promise<Binary | undefined> {
  const libraries = join(CACHE, 'usr/lib');
  const platform = (await readdir(libraries).catch(() => [])).find((name) => name.includes('-linux-')) ?? '.';
  return firstOf([{ path: join(CACHE, 'usr/bin/redis-server'), libraries: join(libraries, platform) }]);
}

async function fromDebian(): Promise<Binary> {
  await mkdir(join(CACHE, '..'), { recursive: true });
  const directory = await mkdtemp(`${CACHE}-`);
  try {
    const download = () => run('apt-get', ['download', ...PACKAGES], { cwd: directory });
    // A fresh system or container has no lists of packages yet.
    await download().catch(() => run('apt-get', ['update']).then(download));
    for (const name of await readdir(directory)) await run('dpkg-deb', ['-x', join(directory, name), join(directory, 'root')]);
    // In one step, for a run beside this one.
    await rename(join(directory, 'root'), CACHE).catch(() => undefined);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
  const binary = await unpacked();
  if (!binary) throw new Error('The packages have no redis-server.');
  return binary;
}

async function firstOf(candidates: readonly Binary[]): Promise<Binary | undefined> {
  for (const candidate of candidates) {
    const found = await access(candidate.path).then(() => true, () => false);
    if (found) return candidate;
  }
  return undefined;
}
