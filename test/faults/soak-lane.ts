import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Child } from '../support/child.ts';
import { freePort } from '../support/ports.ts';
import { FaultProxy } from './fault-proxy.ts';
import { type Figures, type Oracle, Tail, type Violation } from './oracle.ts';
import { type Disaster, type Fault, GROUP, planDisaster, planLife } from './plan.ts';
import type { Life, Line } from './soak-contract.ts';

/** A life that says nothing new for this long hangs, in ms: no call may take half as long. */
const SILENCE = 40_000;
/** A process that has closed everything ends within this time, in ms. */
const EXIT = 3000;
/** Durable calls are looked for in so many lives at most. */
const MOST_SEARCHES = 5;

export interface LaneOptions {
  readonly seed: number;
  readonly lane: number;
  readonly lanes: number;
  readonly calls: number;
  readonly clients: number;
  readonly window: number;
  readonly patience: number;
  readonly mode: 'sse' | 'json';
  readonly eventStore: boolean;
  readonly directory: string;
  /** The server's program, and that of the clients. */
  readonly programs: { readonly server: string; readonly client: string };
  readonly oracle: Oracle;
  readonly figures: Figures;
  onFault(fault: Fault): void;
  onViolation(violation: Violation): void;
}

/** One server, the bad network before it, and one process of clients after another. */
export class Lane {
  readonly #options: LaneOptions;
  readonly disasters: Record<string, number> = {};
  readonly ends: Record<string, number> = {};
  requests = 0;
  proxy!: FaultProxy;
  #server: Child | undefined;
  #serverPort = 0;
  #client: Child | undefined;
  #journal!: Tail;
  #said: Tail | undefined;
  #lifeName = '';
  #heardAt = 0;
  #leftAt: number | undefined;
  #nextGroup: number;
  #disasters = 0;
  #next: Disaster;
  #turn: Promise<void> = Promise.resolve();
  #stopped = false;
  /** Durable calls whose answer is still to be had. */
  readonly #wanted = new Set<number>();

  constructor(options: LaneOptions) {
    this.#options = options;
    this.#nextGroup = options.lane;
    this.#next = planDisaster(options.seed, options.lane, 0);
  }

  async start(): Promise<void> {
    const { seed, lane, calls, onFault, onViolation } = this.#options;
    this.#serverPort = await freePort();
    this.#journal = new Tail(this.#journalPath);
    this.proxy = new FaultProxy({ seed, lane, calls, port: this.#serverPort, onRequest: () => this.#onRequest(), onFault, onViolation: (what) => onViolation({ what: `${what} (lane ${lane})` }) });
    await this.#startServer();
    await this.proxy.accept();
  }

  /** One life after another, until every call of this lane was made and every durable one is answered or given up. */
  async run(): Promise<void> {
    const { seed, lane, lanes, calls } = this.#options;
    let searches = 0;
    for (let life = 0; !this.#stopped; life++) {
      const plan = planLife(seed, lane, life);
      const left = Math.ceil((calls / GROUP - this.#nextGroup) / lanes);
      if (left <= 0 && (this.#wanted.size === 0 || searches++ === MOST_SEARCHES)) break;
      const groups = Array.from({ length: Math.max(0, Math.min(plan.groups, left)) }, (_, i) => this.#nextGroup + i * lanes);
      await this.#live(life, groups, left <= plan.groups ? 'drain' : plan.end);
    }
    await this.#turn;
    await this.proxy.rules.settled();
    this.pump();
  }

  /** Takes in what the clients said and then what the server did, so that of every answer the execution has been heard of. */
  pump(): void {
    this.#said?.read((line) => this.#hear(JSON.parse(line) as Line));
    this.#journal.read((line) => this.#options.oracle.ran(Number(line)));
    this.#options.oracle.check();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all([this.#client?.kill(), this.#server?.kill()]);
    await this.#turn.catch(() => {});
    await this.#server?.kill();
    this.proxy.stop();
    this.#journal.close();
  }

  async #live(life: number, groups: readonly number[], end: Life['end']): Promise<void> {
    const { seed, lane, lanes, clients, window, patience, directory, programs, onViolation } = this.#options;
    const out = join(directory, `life-${lane}-${life}`);
    const what: Life = { seed, seat: lane, seats: lanes, life, url: this.proxy.url, store: join(directory, `store-${lane}`), out, clients, window, patience, groups, again: [...this.#wanted], end };
    this.#said = new Tail(out);
    this.#lifeName = `${lane}.${life}`;
    this.#leftAt = undefined;
    this.#heardAt = performance.now();
    const client = new Child(programs.client, { args: [JSON.stringify(what)], flags: ['--enable-source-maps'] });
    this.#client = client;
    let over = false;
    void client.exit.then(() => (over = true));
    while (!over) {
      await Promise.race([client.exit, sleep(50)]);
      this.pump();
      const now = performance.now();
      const hangs = now - this.#heardAt > SILENCE * patience ? 'a process of clients hangs' : this.#leftAt !== undefined && now - this.#leftAt > EXIT ? `a process of clients does not end within ${EXIT} ms of the last close()` : undefined;
      if (!hangs || over) continue;
      onViolation({ what: hangs, more: { life: what.life, lane, open: this.#unsettled(groups).slice(0, 20), stderr: client.stderr.slice(-2000) } });
      await client.kill();
    }
    const { code, signal } = await client.exit;
    this.pump();
    const asPlanned = end === 'kill' ? signal === 'SIGKILL' : code === 0 && this.#leftAt !== undefined;
    if (!asPlanned && !this.#stopped) onViolation({ what: `a process of clients ended with ${signal ?? code} instead of ${end}`, more: { lane, life, stderr: client.stderr.slice(-4000) } });
    this.ends[end] = (this.ends[end] ?? 0) + 1;
    for (const nonce of this.#unsettled(groups)) if (this.#options.oracle.kindOf(nonce) === 'durable') this.#wanted.add(nonce);
    this.#said.close();
    this.#said = undefined;
    if (asPlanned) await rm(out);
  }

  #unsettled(groups: readonly number[]): number[] {
    return groups.flatMap((group) => this.#options.oracle.open(group * GROUP, (group + 1) * GROUP));
  }

  #hear(line: Line): void {
    const { oracle, figures, lanes, onViolation } = this.#options;
    if (line.type !== 'stats') this.#heardAt = performance.now();
    if (line.type === 'group') {
      oracle.begin(line.group * GROUP, (line.group + 1) * GROUP);
      this.#nextGroup = line.group + lanes;
    } else if (line.type === 'settled') {
      oracle.settle(line);
      // Its own time was over, and the call goes on: whoever makes it again may still have its answer.
      if (line.code === 'DEADLINE' && line.outcome === 'unknown' && oracle.kindOf(line.nonce) === 'durable') this.#wanted.add(line.nonce);
    } else if (line.type === 'again') {
      this.#wanted.delete(line.nonce);
      oracle.durable.madeAgain++;
      if (line.outcome === 'answered') oracle.durable.answeredAgain++;
    } else if (line.type === 'stats') figures.hear(this.#lifeName, line);
    else if (line.type === 'left') this.#leftAt = performance.now();
    else onViolation({ what: line.what, ...(line.nonce < 0 ? {} : { nonce: line.nonce }), more: { life: this.#lifeName, more: line.more } });
  }

  // ── The server ────────────────────────────────────────────────────────────────────────────────────────────────────

  get #journalPath(): string {
    return join(this.#options.directory, `executions-${this.#options.lane}`);
  }

  async #startServer(): Promise<void> {
    const { mode, eventStore, programs } = this.#options;
    await new Promise<void>((resolve, reject) => {
      const args = [JSON.stringify({ mode, eventStore, journal: this.#journalPath, port: this.#serverPort })];
      const server = new Child(programs.server, { args, flags: [], onMessage: () => resolve() });
      this.#server = server;
      void server.obituary().then(reject);
    });
  }

  #onRequest(): void {
    this.requests++;
    const { seed, lane } = this.#options;
    const disaster = this.#next;
    if (this.requests < disaster.at) return;
    this.#next = planDisaster(seed, lane, ++this.#disasters);
    this.#turn = this.#turn.then(() => this.#strike(disaster)).catch((error: unknown) => this.#options.onViolation({ what: `the server of lane ${lane} cannot be started: ${String(error)}` }));
  }

  /** A server that dies takes its connections with it, and nobody is there until it is back. */
  async #strike({ what, ms }: Disaster): Promise<void> {
    if (this.#stopped) return;
    this.disasters[what] = (this.disasters[what] ?? 0) + 1;
    if (what === 'forget') {
      this.#server?.send('forget');
      return;
    }
    this.proxy.refuse();
    if (what !== 'outage') await this.#server?.kill(what === 'kill' ? 'SIGKILL' : 'SIGTERM');
    await sleep(ms);
    if (this.#stopped) return;
    if (what !== 'outage') await this.#startServer();
    await this.proxy.accept();
  }
}
