import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm, utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { build } from 'esbuild';
import { fileStore } from '../../src/storage/file-store.ts';

/**
 * Processes that write and lock in one directory, and are killed at any moment. Run by the tests, and by hand for longer:
 * `npm run stress -- --kills 1000 --writes 2000`.
 */
export interface StressOptions {
  /** How many processes are killed in all. */
  readonly kills: number;
  /** How many read-modify-writes are acknowledged at least, by each of those that write. */
  readonly writes: number;
  readonly writers: number;
  readonly lockers: number;
}

/** What there must be none of, and how much was done. */
export interface StressReport {
  readonly damaged: string[];
  /** Acknowledged writes that are not there, or writes that nobody made. */
  readonly wrong: string[];
  /** Locks that two had at a time, or numbers that did not grow. */
  readonly overlaps: string[];
  /** What is left in the directory after a sweep. */
  readonly orphans: string[];
  readonly failures: string[];
  readonly kills: number;
  readonly counted: number;
  readonly locked: number;
}

interface Hold {
  readonly fence: number;
  readonly from: number;
  until?: number;
}

class Stress {
  readonly #options: StressOptions;
  readonly #directory: string;
  readonly #script: string;
  /** By the name of a process and a key: the number that it said last. */
  readonly #acknowledged = new Map<string, number>();
  readonly #holds = new Map<number, Hold>();
  readonly #running = new Set<ChildProcess>();
  readonly #seats: number[];
  readonly damaged: string[] = [];
  readonly overlaps: string[] = [];
  readonly failures: string[] = [];
  kills = 0;
  locked = 0;

  constructor(options: StressOptions, directory: string, script: string) {
    this.#options = options;
    this.#directory = directory;
    this.#script = script;
    this.#seats = Array.from({ length: options.writers }, () => 0);
  }

  get #done(): boolean {
    return this.failures.length > 0 || (this.kills >= this.#options.kills && this.#seats.every((counted) => counted >= this.#options.writes));
  }

  async run(): Promise<void> {
    const { writers, lockers } = this.#options;
    const places = [...Array.from({ length: writers }, (_, seat) => this.#occupy('write', seat)), ...Array.from({ length: lockers }, (_, seat) => this.#occupy('lock', seat))];
    await Promise.all(places);
  }

  /** One process after another, until there were enough. */
  async #occupy(work: 'write' | 'lock', seat: number): Promise<void> {
    for (let life = 0; !this.#done; life++) {
      const name = `${work} ${seat} ${life}`;
      const child = spawn(process.execPath, [this.#script, this.#directory, name, work], { stdio: ['ignore', 'pipe', 'pipe'] });
      this.#running.add(child);
      let errors = '';
      child.stderr.on('data', (data: Buffer) => (errors += data.toString()));
      const lines = createInterface({ input: child.stdout });
      // Killed only once it got somewhere: those that wait for a dead one's claim have to live long enough to break it.
      let doomed = false;
      lines.on('line', (line) => {
        this.#hear(line, name, work === 'write' ? seat : undefined);
        if (this.#done) this.#stop();
        if (doomed || this.kills >= this.#options.kills) return;
        doomed = true;
        setTimeout(() => this.#kill(child), Math.random() * 100);
      });
      const closed = once(lines, 'close');
      const [code] = (await once(child, 'close')) as [number | null];
      await closed;
      this.#running.delete(child);
      if (code !== null) this.failures.push(`${name} ended with ${code}: ${errors}`);
    }
    this.#stop();
  }

  #hear(line: string, name: string, seat: number | undefined): void {
    const [what, ...words] = line.split(' ') as [string, ...string[]];
    if (what === 'damaged') this.damaged.push(line);
    if (what === 'counted') {
      this.#acknowledged.set(`${words.slice(0, -1).join(' ')}: ${name}`, Number(words.at(-1)));
      if (seat !== undefined) this.#seats[seat] = (this.#seats[seat] ?? 0) + 1;
    }
    const [fence, at] = words.map(Number) as [number, number];
    if (what === 'locked') {
      if (this.#holds.has(fence)) this.overlaps.push(`two have the number ${fence}`);
      this.#holds.set(fence, { fence, from: at });
      this.locked++;
    }
    const hold = this.#holds.get(fence);
    if (what === 'unlocks' && hold) hold.until = at;
  }

  #kill(child: ChildProcess): void {
    if (this.kills >= this.#options.kills || !child.kill('SIGKILL')) return;
    this.kills++;
  }

  #stop(): void {
    for (const child of this.#running) child.kill('SIGKILL');
  }

  async report(): Promise<StressReport> {
    await this.#age();
    const store = fileStore(this.#directory, { onDamaged: ({ reason }) => this.damaged.push(reason) });
    const wrong: string[] = [];
    let counted = 0;
    for await (const key of store.keys('')) {
      const counts = JSON.parse((await store.get(key))?.value ?? '{}') as Record<string, number>;
      for (const [name, count] of Object.entries(counts)) {
        const said = this.#acknowledged.get(`${key}: ${name}`) ?? 0;
        this.#acknowledged.delete(`${key}: ${name}`);
        counted += said;
        // The last one may have been written and not be acknowledged any more.
        if (count !== said && count !== said + 1) wrong.push(`${key}: ${name} has ${count}, and said ${said}`);
      }
    }
    for (const [place, said] of this.#acknowledged) wrong.push(`${place} is gone, and said ${said}`);
    await store.close();
    const holds = [...this.#holds.values()].sort((a, b) => a.fence - b.fence);
    for (const [index, { fence, until }] of holds.entries()) {
      const next = holds[index + 1];
      if (next && until !== undefined && next.from < until) this.overlaps.push(`${next.fence} began ${until - next.from} ms before the end of ${fence}`);
      if (next && next.from < (holds[index]?.from ?? 0)) this.overlaps.push(`${next.fence} began before ${fence}`);
    }
    const { damaged, overlaps, failures, kills, locked } = this;
    return { damaged, wrong, overlaps, orphans: await this.#orphans(), failures, kills, counted, locked };
  }

  /** What no store clears away. Each has the time of its close for it, and where that is too little the next one goes on. */
  async #orphans(): Promise<string[]> {
    for (let before = Number.POSITIVE_INFINITY; ; ) {
      const store = fileStore(this.#directory);
      await store.get('');
      // It sweeps the directory of the locks too.
      await (await store.lock('lock', { ttl: 1_000 })).release();
      await store.close();
      const left = await this.#leftovers();
      if (left.length === 0 || left.length >= before) return left;
      before = left.length;
    }
  }

  /** Makes what was left behind old enough to be swept. */
  async #age(): Promise<void> {
    const old = new Date(Date.now() - 10 * 60_000);
    for (const path of await this.#paths()) await utimes(path, old, old);
  }

  async #leftovers(): Promise<string[]> {
    return (await this.#paths()).filter((path) => !/[\\/](?:[0-9a-f]{64}|locks)$/.test(path));
  }

  async #paths(): Promise<string[]> {
    const within = async (directory: string): Promise<string[]> => (await readdir(directory).catch(() => [])).map((name) => join(directory, name));
    return [...(await within(this.#directory)), ...(await within(join(this.#directory, 'locks')))];
  }
}

export async function stress(options: StressOptions): Promise<StressReport> {
  const home = await mkdtemp(join(tmpdir(), 'mcp-reprise-stress-'));
  try {
    // Plain JavaScript in one file: hundreds of processes are started.
    const script = join(home, 'process.mjs');
    await build({
      entryPoints: [fileURLToPath(new URL('file-stress.process.ts', import.meta.url))],
      outfile: script,
      bundle: true,
      platform: 'node',
      format: 'esm',
    });
    const run = new Stress(options, join(home, 'store'), script);
    await run.run();
    return await run.report();
  } finally {
    await rm(home, { recursive: true, force: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: { kills: { type: 'string', default: '1000' }, writes: { type: 'string', default: '500' }, writers: { type: 'string', default: '8' }, lockers: { type: 'string', default: '2' } },
  });
  const report = await stress({ kills: Number(values.kills), writes: Number(values.writes), writers: Number(values.writers), lockers: Number(values.lockers) });
  console.log(report);
  const { damaged, wrong, overlaps, orphans, failures } = report;
  process.exitCode = [damaged, wrong, overlaps, orphans, failures].every((list) => list.length === 0) ? 0 : 1;
}
