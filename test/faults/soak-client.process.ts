import { openSync, writeSync } from 'node:fs';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { ResilientClient } from '../../src/client.ts';
import { fileStore } from '../../src/node.ts';
import { Dice } from './dice.ts';
import { LoopLag } from './loop-lag.ts';
import { type CallPlan, GROUP, groupOf, planCallOf, planClient, planGroup } from './plan.ts';
import { type CallsHost, type Settled, SoakCalls } from './soak-calls.ts';
import type { Life, LifeStats, Line } from './soak-contract.ts';

/*
 * One life of a seat: many clients in one process, until it is killed or has nothing more to do. What it says goes into a file, line by
 * line, so that a SIGKILL loses none of it.
 */
const life = JSON.parse(process.argv[2] ?? '{}') as Life;
const { seed, seat, seats, clients: count, patience } = life;
const out = openSync(life.out, 'a');
const say = (line: Line): void => void writeSync(out, `${JSON.stringify(line)}\n`);
const violation: CallsHost['violation'] = (what, nonce, more) => say({ type: 'violation', what, nonce, more });

process.on('unhandledRejection', (error) => violation(`an unhandled rejection: ${(error as Error)?.stack ?? String(error)}`, -1));
process.on('uncaughtException', (error) => violation(`an uncaught exception: ${error.stack}`, -1));
process.on('warning', (warning) => violation(`a warning of Node: ${warning.stack}`, -1));

// Nobody is left to hear of it.
process.on('disconnect', () => process.exit());
process.channel?.unref();

/** How long a handshake may take, in ms. */
const CONNECT = 1500 * patience;
const lag = new LoopLag();
const store = fileStore(life.store);
const totals: LifeStats = { retries: 0, resets: 0, resumed: 0, warnings: {}, connects: 0, failedConnects: 0, dropped: 0, heap: 0 };

interface Member {
  readonly client: ResilientClient;
  readonly calls: SoakCalls;
  readonly ready: Promise<void>;
}

/** The last calls, and how many of them ended by their deadline. */
const pace = { settled: 0, late: 0 };

function note(settled: Settled): void {
  say({ type: 'settled', ...settled });
  pace.settled++;
  if (settled.code === 'DEADLINE') pace.late++;
}

const host: CallsHost = {
  seed,
  lag,
  violation,
  settled: note,
  get warned() {
    return Object.keys(totals.warnings).length > 0;
  },
};

const members: Member[] = Array.from({ length: count }, (_, index) => {
  const plan = planClient(seed, seat, index);
  const client = new ResilientClient(life.url, {
    headers: { 'x-client': `${seat}.${index}.${life.life}` },
    ...(plan.session === undefined ? {} : { store, session: plan.session, ttl: 600_000 }),
    listen: plan.listen,
    onSessionLost: plan.replays ? 'replay' : 'fail',
    concurrency: plan.concurrency,
    timeout: { connect: CONNECT, call: 2000 * patience, total: 20_000 * patience },
    retry: { budget: plan.budget },
    history: { size: 0, payloads: true },
    on: { warning: ({ message }) => void (totals.warnings[message.slice(0, 300).replace(life.store, '')] = (totals.warnings[message.slice(0, 300).replace(life.store, '')] ?? 0) + 1) },
  });
  const calls = new SoakCalls(client, plan, host);
  return { client, calls, ready: connect(client, calls) };
});

/** A server that is not there, or refuses the handshake, is asked again. */
async function connect(client: ResilientClient, calls: SoakCalls): Promise<void> {
  while (!calls.closing) {
    totals.connects++;
    const from = performance.now();
    try {
      await client.connect();
      return;
    } catch (error) {
      totals.failedConnects++;
      const late = performance.now() - from - CONNECT;
      if (late > 250 && late - lag.between(from + CONNECT, performance.now()) > 250) violation(`connect() failed ${Math.round(late)} ms after its deadline: ${(error as Error).message}`, -1);
      // The next one would wait for the close that follows a failed one, on top of its own time.
      await client.close();
      await sleep(20);
    }
  }
}

// ── Calls ───────────────────────────────────────────────────────────────────────────────────────────────────────────

function planned(nonce: number): CallPlan {
  const plan = planCallOf(seed, nonce, seats, count);
  return { ...plan, timeout: plan.timeout * patience };
}

const memberOf = (group: number): Member => members[planGroup(seed, group, count).client] as Member;
let begun = 0;

async function makeGroup(group: number): Promise<void> {
  say({ type: 'group', group });
  begun++;
  const { batch, together } = planGroup(seed, group, count);
  const { calls, ready } = memberOf(group);
  await ready;
  const plans = Array.from({ length: GROUP }, (_, i) => planned(group * GROUP + i));
  if (batch) await calls.batch(plans, batch);
  else if (together) await Promise.all(plans.map((plan) => calls.make(plan)));
  else for (const plan of plans) await calls.make(plan);
}

/** The durable calls of an earlier life: their answers are still to be had. */
async function makeAgain(nonce: number): Promise<void> {
  const { calls, ready } = memberOf(groupOf(nonce));
  await ready;
  const outcome = await calls.once({ ...planned(nonce), timeout: 12_000 * patience }, true);
  say({ type: 'again', nonce, outcome });
}

/**
 * As many groups at a time as fit: where most calls end by their deadline, the machine has no time for so many, and there is little to be
 * learnt from them.
 */
async function work(): Promise<void> {
  const again = life.again.map(makeAgain);
  const running = new Set<Promise<void>>();
  let window = Math.min(4, life.window);
  for (const group of life.groups) {
    while (running.size >= window) await Promise.race(running);
    const late = pace.late / Math.max(1, pace.settled);
    if (pace.settled >= 50) {
      window = late > 0.25 ? Math.max(1, window >> 1) : Math.min(life.window, window + 4);
      Object.assign(pace, { settled: 0, late: 0 });
    }
    const making = makeGroup(group).finally(() => running.delete(making));
    running.add(making);
  }
  await Promise.all([...again, ...running]);
}

// ── The end ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const reporting = setInterval(report, 500);

function report(): void {
  const stats: LifeStats = { ...totals, heap: process.memoryUsage().heapUsed };
  for (const { client } of members) {
    const { retries, resets, resumes, droppedMessages } = client.metrics();
    stats.retries += retries;
    stats.resets += resets;
    stats.resumed += resumes;
    stats.dropped += droppedMessages;
  }
  say({ type: 'stats', stats });
}

/** Polls for a while, for what is let go of a turn later. */
async function soon(holds: () => boolean): Promise<boolean> {
  const from = performance.now();
  while (!holds()) {
    const now = performance.now();
    if (now - from - lag.between(from, now) > 500) return false;
    await sleep(5);
  }
  return true;
}

/** What the SDK keeps of requests that are under way. */
function entries(client: ResilientClient): Record<string, number> {
  const { _responseHandlers, _progressHandlers, _timeoutInfo } = client as unknown as Record<string, Map<unknown, unknown> | undefined>;
  const { inFlight, queueLength } = client.metrics();
  return { inFlight, queueLength, handlers: _responseHandlers?.size ?? 0, progress: _progressHandlers?.size ?? 0, timeouts: _timeoutInfo?.size ?? 0 };
}

const none = (counts: Record<string, number>): boolean => Object.values(counts).every((number) => number === 0);

async function leave(): Promise<void> {
  if (life.end === 'drain') {
    // One that had no call may still be connecting.
    await Promise.all(members.map(({ ready }) => ready));
    for (const { client } of members) {
      if (!(await soon(() => none(entries(client))))) violation(`all calls are settled, and their client still has ${JSON.stringify(entries(client))}`, -1);
    }
  }
  for (const { calls } of members) calls.closing = true;
  await Promise.all(members.map(({ client }) => client.close()));
  if (!(await soon(() => settled))) violation('every client is closed, and there are calls that are not settled', -1);
  for (const { client, calls } of members) {
    if (!none(entries(client)) || !(await soon(() => client.metrics().openStreams === 0))) violation(`a closed client has ${JSON.stringify(entries(client))} and ${client.metrics().openStreams} open streams`, -1);
    if (calls.listeners > 0) violation(`${calls.listeners} listeners are left on the signal that a client's calls had`, -1);
  }
  await store.close();
  report();
  clearInterval(reporting);
  const rest = (): string[] => process.getActiveResourcesInfo().filter((name) => !/^(TTYWrap|PipeWrap|FSReqPromise|Immediate)$/.test(name));
  // The look at the event loop is a timer, and so is the wait in between.
  if (!(await soon(() => rest().length <= 1))) violation(`every client is closed, and there is ${rest().join(', ')}`, -1);
  lag.stop();
  await turn();
  if (rest().length > 0) violation(`every client is closed, and the process is kept alive by ${rest().join(', ')}`, -1);
  say({ type: 'left', at: Date.now() });
}

let settled = false;
const working = work().then(() => (settled = true));
if (life.end === 'drain') await working;
else {
  const { length } = life.groups;
  while (begun < length && !settled) await sleep(5);
  await sleep(new Dice(seed, 'last', seat, life.life).int(0, 60));
  if (life.end === 'kill') process.kill(process.pid, 'SIGKILL');
}
await leave();
