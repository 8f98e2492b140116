import { describe, expect, test } from 'vitest';
import type { WireEntry } from '../support/contract.ts';
import { type ClientProcess, runScript } from '../support/client-process.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { kinds } from '../storage/redis-clients.ts';
import { type AtEnd, newPrefix, proxyToRedis, redisUrl, removeAll, storeOf } from '../storage/redis-parts.ts';
import { wireOf } from './clients.ts';
import type { Said, Settled, Told } from './fleet-redis.process.ts';

/**
 * Worker processes that share one session through Redis, each calling without a pause, while workers are killed and replaced and the
 * server forgets, restarts or is gone. What is asserted is what the server saw: each of its requests says which worker sent it.
 */

const WORKERS = 5;
/** So long whatever is waited for may take, in ms, on a machine that has other things to do. */
const LONG = 60_000;

class Worker {
  readonly name: string;
  readonly settled: Settled[] = [];
  readonly heard: string[] = [];
  readonly told: { event: string; text: string }[] = [];
  rounds = 0;
  ready = false;
  connected: { id: string | undefined; resumed: boolean } | undefined;
  /** How many calls it made, once it makes no more. */
  asked: number | undefined;
  killed = false;
  failure: Error | undefined;
  readonly #process: ClientProcess<Said, Told>;

  constructor(name: string, args: string[], atEnd: AtEnd) {
    this.name = name;
    this.#process = runScript<Said, Told>(new URL('./fleet-redis.process.ts', import.meta.url), [name, ...args]);
    atEnd(async () => void (await this.#process.kill()));
    void this.#hear();
  }

  send(message: Told): void {
    this.#process.send(message);
  }

  /** Resolves when all that it said until then has been heard. */
  async kill(): Promise<void> {
    this.killed = true;
    await this.#process.kill('SIGKILL');
  }

  toldOf(event: string): string[] {
    return this.told.filter((each) => each.event === event).map(({ text }) => text);
  }

  async #hear(): Promise<void> {
    try {
      for (;;) this.#take(await this.#process.next());
    } catch (error) {
      if (!this.killed && this.asked === undefined) this.failure = error as Error;
    }
  }

  #take(said: Said): void {
    if (said.type === 'ready') this.ready = true;
    else if (said.type === 'connected') this.connected = said;
    else if (said.type === 'settled') this.settled.push(said);
    else if (said.type === 'heard') this.heard.push(said.text);
    else if (said.type === 'told') this.told.push(said);
    else if (said.type === 'round') this.rounds = said.number;
    else this.asked = said.asked;
  }
}

/** The workers of one test, the dead ones too, and what every process of its server has seen. */
class Fleet {
  readonly workers: Worker[] = [];
  readonly server: FixtureProcess;
  readonly prefix = newPrefix();
  readonly #atEnd: AtEnd;
  /** The requests that server processes saw that are gone. */
  readonly #journals: WireEntry[][] = [];

  constructor(server: FixtureProcess, atEnd: AtEnd) {
    this.server = server;
    this.#atEnd = atEnd;
    atEnd(() => removeAll(this.prefix));
  }

  /** So many workers, which start at the same moment, and have all had answers. */
  static async launch(server: FixtureProcess, atEnd: AtEnd, count = WORKERS): Promise<Fleet> {
    const fleet = new Fleet(server, atEnd);
    await Promise.all(Array.from({ length: count }, () => fleet.start()));
    await fleet.go();
    return fleet;
  }

  get alive(): Worker[] {
    return this.workers.filter(({ killed }) => !killed);
  }

  /** Another worker, which does nothing yet. Every other one has the other kind of Redis client, unless it is said which. */
  async start({ redis = redisUrl, kind = kinds[this.workers.length % kinds.length] as string } = {}): Promise<Worker> {
    const worker = new Worker(`w${this.workers.length}`, [kind, redis, this.prefix, this.server.url.href], this.#atEnd);
    this.workers.push(worker);
    await this.until(() => worker.ready, `${worker.name} to be ready`);
    return worker;
  }

  async go(): Promise<void> {
    const waiting = this.alive.filter(({ connected }) => !connected);
    for (const worker of waiting) worker.send({ type: 'go' });
    await this.until(() => waiting.every(({ connected }) => connected), 'workers to be connected');
    await this.round();
  }

  /** Until every worker has had answers to calls that it made after now. */
  async round(workers = this.alive): Promise<void> {
    const rounds = workers.map((worker) => ({ worker, next: worker.rounds + 1 }));
    for (const { worker } of rounds) worker.send({ type: 'round' });
    await this.until(() => rounds.every(({ worker, next }) => worker.killed || worker.rounds >= next), 'every worker to be answered');
  }

  /** Until so many more calls are settled: a moment that the fleet's own work decides, not a clock. */
  async calls(count: number): Promise<void> {
    const settled = (): number => this.workers.reduce((sum, worker) => sum + worker.settled.length, 0);
    const end = settled() + count;
    await this.until(() => settled() >= end, `${count} more calls`);
  }

  /** Kills one, and has another in its place. That one is ready before: nothing but the killing is waited for in between. */
  async replace(victim: Worker): Promise<Worker> {
    const next = await this.start();
    await victim.kill();
    next.send({ type: 'go' });
    await this.until(() => next.connected, `${next.name} to be connected`);
    return next;
  }

  /** The server is gone from now on, and forgets everything. */
  async killServer(): Promise<void> {
    this.#journals.push(await this.server.requests());
    await this.server.kill();
  }

  /** What each of the server's processes has seen. */
  async journals(): Promise<WireEntry[][]> {
    return [...this.#journals, await this.server.requests()];
  }

  /** Who sent an `initialize` to the present server after request number `n`. */
  async handshakesSince(n: number): Promise<string[]> {
    return (await wireOf(this.server, 'initialize')).filter((entry) => entry.n > n).map(workerOf);
  }

  /** The session's stream, as soon as somebody has it. */
  async stream(): Promise<WireEntry> {
    return (await this.until(async () => streamsIn(await this.server.requests()).find(isOpen), 'an open stream')) as WireEntry;
  }

  async lastRequest(): Promise<number> {
    return (await this.server.requests()).at(-1)?.n ?? 0;
  }

  /** No new calls; those that there are come to an end. */
  async stop(): Promise<void> {
    for (const worker of this.alive) worker.send({ type: 'stop' });
    await this.until(() => this.alive.every(({ asked }) => asked !== undefined), 'the last calls to end');
  }

  async until<T>(predicate: () => T | Promise<T>, what: string, timeout = LONG): Promise<T> {
    return waitFor(
      async () => {
        for (const { failure } of this.workers) if (failure) throw failure;
        return predicate();
      },
      { what, timeout, interval: 50 },
    ) as Promise<T>;
  }
}

const workerOf = ({ headers }: WireEntry): string => headers['x-worker'] ?? '';

/** The same numbers in every run: which worker is killed, and after how many calls. */
function seeded(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return (state >>> 16) % below;
  };
}

// ── What must hold ──────────────────────────────────────────────────────────────────────────────────────────────────

/** Every answer was the call's own, each call came to one end, no call that must not run twice did. `losses`: how often a call can have been cut off. */
async function expectEachItsOwnAnswer({ workers, server }: Fleet, losses: number): Promise<void> {
  for (const { name, settled, asked, killed } of workers) {
    expect(settled.filter(({ nonce, answer }) => answer !== undefined && answer !== `done:${nonce}`)).toEqual([]);
    expect(new Set(settled.map(({ nonce }) => nonce)).size).toBe(settled.length);
    if (!killed) expect([name, settled.length]).toEqual([name, asked]);
    // One that may be repeated is always answered (G1); the other may have been running just when it was lost (G2), and no error says less.
    const failed = settled.filter(({ answer }) => answer === undefined);
    expect(failed.filter(({ tool, code, outcome }) => tool !== 'work' || code !== 'OUTCOME_UNKNOWN' || outcome !== 'unknown')).toEqual([]);
    expect(failed.length).toBeLessThanOrEqual(losses);
  }
  const runs = (await server.executions()).filter(({ tool }) => tool === 'work').map(({ nonce }) => nonce);
  expect(runs.length).toBeGreaterThan(workers.length);
  expect(runs.filter((nonce, i) => runs.indexOf(nonce) !== i)).toEqual([]);
}

/** The GETs of a session's own stream; others resume a call's. */
const streamsIn = (journal: readonly WireEntry[]): WireEntry[] =>
  journal.filter(({ http, lastEventId = '_GET_stream' }) => http === 'GET' && lastEventId.startsWith('_GET_stream'));

const isOpen = ({ status, until }: WireEntry): boolean => status === 200 && until === undefined;

/** No worker so much as asked for the stream of a session while another one had it: a server that refuses the second is not to be relied on. */
async function expectOneStreamAtATime(fleet: Fleet): Promise<void> {
  const together: string[] = [];
  for (const journal of await fleet.journals()) {
    const streams = streamsIn(journal).filter(({ status }) => status !== 404);
    for (const one of streams.filter(({ status }) => status === 200)) {
      for (const { n, status, sessionId, headers } of streams) {
        const during = n > one.n && n <= (one.until ?? Number.POSITIVE_INFINITY) && sessionId === one.sessionId;
        // Who goes on from an event asks twice itself, because some servers do not listen on after a replay; of those one gets it.
        const itself = headers['x-worker'] === workerOf(one) && status === 409;
        if (during && !itself) together.push(`${headers['x-worker']} got ${status} in ${n} while ${workerOf(one)} had ${one.n} to ${one.until}`);
      }
    }
  }
  expect(together).toEqual([]);
}

/** Reads where the next listener of a fleet would go on. */
function cursorIn({ prefix }: Fleet, atEnd: AtEnd): () => Promise<string | undefined> {
  const store = storeOf('ioredis', { prefix, atEnd });
  return async () => {
    for await (const key of store.keys('')) return (JSON.parse((await store.get(key))?.value ?? '{}') as { cursor?: string }).cursor;
    return undefined;
  };
}

// ── Tests ───────────────────────────────────────────────────────────────────────────────────────────────────────────

describe.skipIf(!redisUrl)('A fleet that shares its session through Redis', { timeout: 3 * LONG }, () => {
  test('makes one handshake for each loss and none for a new worker, and each call gets its own answer, while workers are killed (G1, G2, G6)', async ({ onTestFinished }) => {
    await using server = await startServer({ eventStore: true });
    const random = seeded(20_261_121);
    const fleet = await Fleet.launch(server, onTestFinished);
    expect(await fleet.handshakesSince(0)).toHaveLength(1);
    expect(fleet.workers.map(({ connected }) => connected?.id)).toEqual(Array(WORKERS).fill((await server.sessions())[0]));

    /** Kills somebody at some moment; in his place comes one that takes the session up. */
    const replaceOne = async (): Promise<void> => {
      await fleet.calls(random(30));
      const { connected, name } = await fleet.replace(fleet.alive[random(WORKERS)] as Worker);
      expect([name, connected?.resumed]).toEqual([name, true]);
    };
    const forget = async (): Promise<void> => server.forget();
    const restart = async (): Promise<void> => {
      await fleet.killServer();
      await server.restart();
    };
    /** It is away for as long as a worker takes to start, and another one is killed meanwhile. */
    const outage = async (): Promise<void> => {
      await fleet.killServer();
      const next = await fleet.start();
      await fleet.alive[random(WORKERS)]?.kill();
      next.send({ type: 'go' });
      await fleet.until(() => next.connected, 'a worker that takes up the session of a server that is away');
      await server.restart();
    };

    const losses = [forget, restart, outage, forget];
    for (const lose of losses) {
      const before = await fleet.lastRequest();
      await replaceOne();
      await fleet.round();
      expect(await fleet.handshakesSince(before)).toEqual([]);
      await fleet.calls(random(30));
      await lose();
      await fleet.round();
      expect(await fleet.handshakesSince(lose === forget ? before : 0), lose.name).toHaveLength(1);
      expect(await server.sessions()).toHaveLength(1);
    }
    await fleet.stop();
    await expectEachItsOwnAnswer(fleet, losses.length);
    await expectOneStreamAtATime(fleet);
    expect(fleet.workers.flatMap((worker) => worker.toldOf('warning'))).toEqual([]);
    // Nobody came late.
    const journals = await fleet.journals();
    expect(journals.flatMap((journal) => journal.filter(({ rpc }) => rpc[0]?.method === 'initialize'))).toHaveLength(1 + losses.length);
    expect(journals.flatMap((journal) => journal.filter(({ http }) => http === 'DELETE'))).toEqual([]);
  });
});

// Side by side, because they wait for locks to expire.
describe.skipIf(!redisUrl).concurrent('A fleet that shares its session through Redis', { timeout: 3 * LONG }, () => {
  test('goes on when the worker that makes the new session is killed at it: one other makes it (G6)', async ({ onTestFinished }) => {
    await using server = await startServer({ eventStore: true });
    const fleet = await Fleet.launch(server, onTestFinished, 3);
    const before = await fleet.lastRequest();
    await server.behave({ hang: { onlyMethod: 'initialize', times: 1 } });
    await server.forget();
    const [name] = await fleet.until(async () => {
      const names = await fleet.handshakesSince(before);
      return names.length > 0 && names;
    }, 'a handshake') as string[];
    const victim = fleet.alive.find((worker) => worker.name === name) as Worker;
    await victim.kill();
    await fleet.round();
    const handshakes = await fleet.handshakesSince(before);
    expect(handshakes).toHaveLength(2);
    expect(handshakes[1]).not.toBe(name);
    await fleet.stop();
    await expectEachItsOwnAnswer(fleet, 1);
    await expectOneStreamAtATime(fleet);
  });

  test('has one stream at a time, and the next one goes on where the killed one was: what came meanwhile is heard once (G10)', async ({ onTestFinished }) => {
    await using server = await startServer({ eventStore: true });
    const fleet = await Fleet.launch(server, onTestFinished, 4);
    const [id] = await server.sessions();
    const storedCursor = cursorIn(fleet, onTestFinished);
    let sent = 0;
    const notify = async (): Promise<string> => {
      await server.notify(`message ${++sent}`);
      return `message ${sent}`;
    };
    const timesHeard = (text: string): number => fleet.workers.flatMap(({ heard }) => heard).filter((each) => each === text).length;
    const heard = (text: string): Promise<boolean> => fleet.until(() => timesHeard(text) > 0, text);
    const once: string[] = [];
    for (const round of [1, 2]) {
      const stream = await fleet.stream();
      await notify();
      await heard(await notify());
      // It is written down at most once in a second, but then it is, though nothing comes after it; not only with a use, once in a minute.
      await fleet.until(async () => (await storedCursor()) === `_GET_stream::${sent}`, 'the newest event in the store', LONG / 3);
      const victim = fleet.alive.find(({ name }) => name === workerOf(stream)) as Worker;
      await fleet.replace(victim);
      const meanwhile = [await notify(), await notify(), await notify()];
      once.push(...meanwhile);
      const next = await fleet.stream();
      expect(workerOf(next), `round ${round}`).not.toBe(victim.name);
      expect(next).toMatchObject({ sessionId: id, lastEventId: `_GET_stream::${sent - meanwhile.length}` });
      once.push(await notify());
      await heard(once.at(-1) as string);
      expect(fleet.alive.filter(({ heard }) => heard.includes(once.at(-1) as string)).map(({ name }) => name)).toEqual([workerOf(next)]);
      expect(once.map(timesHeard), `round ${round}`).toEqual(once.map(() => 1));
    }
    await fleet.round();
    await fleet.stop();
    expect(fleet.workers.flatMap((worker) => worker.toldOf('cursorLost'))).toEqual([]);
    expect(await fleet.handshakesSince(0)).toHaveLength(1);
    await expectEachItsOwnAnswer(fleet, 0);
    await expectOneStreamAtATime(fleet);
  });

  test('loses no call of a worker whose Redis hangs or is lost: that one goes on by itself, or as before (G1, G2, G8)', async ({ onTestFinished }) => {
    await using server = await startServer({ eventStore: true });
    const [flaky, hanging] = await Promise.all([proxyToRedis(), proxyToRedis()]);
    onTestFinished(() => flaky.stop());
    onTestFinished(() => hanging.stop());
    const fleet = new Fleet(server, onTestFinished);
    const [cut, alone] = await Promise.all([
      fleet.start({ kind: 'ioredis', redis: flaky.url.href }),
      fleet.start({ kind: 'node-redis', redis: hanging.url.href }),
      fleet.start(),
    ]);
    await fleet.go();

    flaky.cut();
    await fleet.round();
    let before = await fleet.lastRequest();
    await server.forget();
    await fleet.round();
    expect(await fleet.handshakesSince(before)).toHaveLength(1);
    expect(cut?.toldOf('warning')).toEqual([]);

    hanging.blackhole(true);
    await fleet.round();
    before = await fleet.lastRequest();
    await server.forget();
    await fleet.round();
    const [first, second, ...more] = (await fleet.handshakesSince(before)).map((name) => name === alone?.name).sort();
    expect([first, second, more]).toEqual([false, true, []]);
    await fleet.stop();
    expect(alone?.toldOf('warning')).toHaveLength(1);
    await expectEachItsOwnAnswer(fleet, 2);
  });
});
