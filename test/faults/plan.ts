import { Dice } from './dice.ts';

/*
 * What a run does, as a pure function of its seed: which call is made by whom and how, what happens to which request, when a server or a
 * client dies. Nothing here depends on what happened before.
 */

// ── Calls ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Calls are made in groups of so many; a group is one client's. */
export const GROUP = 8;

export type CallKind = 'safe' | 'unsafe' | 'progress' | 'durable' | 'list' | 'ping' | 'bad' | 'aborted';
const KINDS: Readonly<Record<CallKind, number>> = { safe: 30, unsafe: 34, progress: 8, durable: 5, list: 7, ping: 7, bad: 3, aborted: 6 };

export interface CallPlan {
  /** What tells its executions: its number. */
  readonly nonce: number;
  readonly kind: CallKind;
  /** Its deadline, in ms. */
  readonly timeout: number;
  /** How long its tool takes, in ms, and in how many steps. */
  readonly ms: number;
  readonly steps: number;
  /** The tool also says something on the session's own stream. */
  readonly note: boolean;
  /** When its caller gives it up, in ms. */
  readonly abortAfter: number;
  /** It is made once more when it is answered. */
  readonly twice: boolean;
}

function planCall(seed: number, nonce: number): CallPlan {
  const dice = new Dice(seed, 'call', nonce);
  const kind = dice.weighted(KINDS);
  const timeout = kind === 'durable' ? dice.int(1500, 2500) : dice.int(1000, 2000);
  const steps = kind === 'progress' ? dice.int(2, 4) : 1;
  return { nonce, kind, timeout, ms: dice.chance(0.25) ? dice.int(1, 60) : 0, steps, note: dice.chance(0.05), abortAfter: dice.int(0, 40), twice: dice.chance(0.3) };
}

export const groupOf = (nonce: number): number => Math.floor(nonce / GROUP);

export interface GroupPlan {
  /** Which of its seat's clients makes it. */
  readonly client: number;
  /** As one batch, and how; otherwise one by one. */
  readonly batch: 'array' | 'single' | undefined;
  /** All at the same time, or one after another. */
  readonly together: boolean;
}

export function planGroup(seed: number, group: number, clients: number): GroupPlan {
  const dice = new Dice(seed, 'group', group);
  const client = dice.int(0, clients - 1);
  return { client, batch: dice.chance(0.12) ? dice.pick(['array', 'single'] as const) : undefined, together: dice.chance(0.7) };
}

/** A client of a seat. Those with a store come in pairs that share a session. */
export interface ClientPlan {
  readonly session: string | undefined;
  readonly listen: boolean;
  readonly replays: boolean;
  readonly budget: false | { readonly tokens: number; readonly ratio: number };
  readonly concurrency: number;
}

export function planClient(seed: number, seat: number, client: number): ClientPlan {
  const dice = new Dice(seed, 'client', seat, client);
  return {
    session: client % 8 < 5 ? `s${client >> 1}` : undefined,
    listen: dice.chance(0.8),
    replays: dice.chance(0.9),
    budget: dice.chance(0.8) ? false : { tokens: 50, ratio: 0.3 },
    concurrency: dice.pick([8, 64, 64]),
  };
}

/** A call as it is made by its client: without a store none is durable. */
export function planCallOf(seed: number, nonce: number, seats: number, clients: number): CallPlan {
  const plan = planCall(seed, nonce);
  const group = groupOf(nonce);
  const { session } = planClient(seed, group % seats, planGroup(seed, group, clients).client);
  return plan.kind === 'durable' && session === undefined ? { ...plan, kind: 'unsafe' } : plan;
}

/** Its notification streams are ended at once, each time. */
export function isFlapping(client: number): boolean {
  return client % 8 === 7;
}

// ── Lives ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** One process of clients: how many groups it begins, and how it ends. `kill`: SIGKILL; `close`: with calls in flight; `drain`: without. */
export interface LifePlan {
  readonly groups: number;
  readonly end: 'kill' | 'close' | 'drain';
}

export function planLife(seed: number, seat: number, life: number): LifePlan {
  const dice = new Dice(seed, 'life', seat, life);
  // The first ones are short, so that a short run has all kinds of ends.
  const groups = life < 4 ? dice.int(60, 180) : dice.int(200, 1000);
  return { groups, end: life === 0 ? 'kill' : dice.weighted({ kill: 55, close: 20, drain: 25 }) };
}

/** What happens to the whole server, and at its how-many-th request. */
export interface Disaster {
  readonly at: number;
  readonly what: 'kill' | 'stop' | 'forget' | 'outage';
  /** How long nobody is there, in ms. */
  readonly ms: number;
}

const DISASTERS: readonly Disaster['what'][] = ['kill', 'stop', 'forget', 'outage'];

export function planDisaster(seed: number, lane: number, n: number): Disaster {
  let at = 0;
  for (let i = 0; i <= n && i < 4; i++) at += new Dice(seed, 'gap', lane, i).int(500, 1500);
  // Beyond the first few each has its own stretch of requests.
  if (n >= 4) at = 6000 + (n - 4) * 4000 + new Dice(seed, 'gap', lane, n).int(0, 2500);
  const dice = new Dice(seed, 'disaster', lane, n);
  // The first ones are one of each kind, so that a short run has them all.
  const what = n < DISASTERS.length ? (DISASTERS[(lane + n) % DISASTERS.length] as Disaster['what']) : dice.weighted({ kill: 40, stop: 15, forget: 30, outage: 15 });
  return { at, what, ms: dice.int(20, 250) };
}

// ── Faults ──────────────────────────────────────────────────────────────────────────────────────────────────────────

type FaultKind = 'reset' | 'cut' | 'half-open' | 'delay' | 'trickle' | 'duplicate' | 'reorder' | 'truncate' | 'garbage' | 'status' | 'hint';
/** `request`: it came, and is not let through; `forwarded`: it was let through, and nothing comes back; `headers`, `event`, `after`: before, in and after the answer. */
type Phase = 'connect' | 'request' | 'forwarded' | 'headers' | 'event' | 'after';

export interface Fault {
  readonly kind: FaultKind;
  readonly phase: Phase;
  /** For a delay. */
  readonly ms: number;
  readonly status: number;
  /** The `Retry-After` that goes with a status, in s, or the `retry:` of a hint, in ms. */
  readonly wait: number | undefined;
  /** It hits the first event of a stream, not the one with the answer. */
  readonly first: boolean;
  /** How much of the event has passed by then, 0…1. */
  readonly part: number;
}

const PHASES: Readonly<Record<FaultKind, readonly Phase[]>> = {
  reset: ['connect', 'request', 'forwarded', 'headers', 'event', 'after'],
  cut: ['connect', 'request', 'forwarded', 'headers', 'event', 'after'],
  'half-open': ['connect', 'request', 'forwarded', 'headers', 'event', 'after'],
  delay: ['connect', 'request', 'headers', 'event', 'after'],
  trickle: ['headers', 'event'],
  duplicate: ['event', 'after'],
  reorder: ['event'],
  truncate: ['headers', 'event'],
  garbage: ['headers', 'event', 'after'],
  status: ['request', 'forwarded'],
  hint: ['event'],
};
const WEIGHTS: Readonly<Record<FaultKind, number>> = { reset: 18, cut: 16, 'half-open': 7, delay: 14, trickle: 8, duplicate: 8, reorder: 6, truncate: 7, garbage: 8, status: 16, hint: 4 };
/** Some of these say that the call did not run: they are never the answer to a request that was let through. */
const REFUSALS = [429, 429, 429, 404, 404, 401, 403, 400] as const;
const FAILURES = [500, 502, 503, 503, 504] as const;
/** In s: none, at once, soon, later, never. */
const WAITS = [undefined, 0, 0.2, 0.5, 1, 3600, 31_536_000] as const;
const HINTS = [0, 1, 50, 2 ** 32, 1e15] as const;

/** What happens to a request, if anything. `share`: how many of them are hit. */
export function planFault(seed: number, key: string, share: number): Fault | undefined {
  const dice = new Dice(seed, 'fault', key);
  if (!dice.chance(share)) return undefined;
  const kind = dice.weighted(WEIGHTS);
  return faultOf(dice, kind, dice.pick(PHASES[kind].filter((phase) => phase !== 'connect')));
}

/** What happens to a connection before anything went over it. */
export function planConnection(seed: number, lane: number, n: number): Fault | undefined {
  const dice = new Dice(seed, 'connection', lane, n);
  if (!dice.chance(0.06)) return undefined;
  return faultOf(dice, dice.weighted({ reset: 35, cut: 25, 'half-open': 10, delay: 30 }), 'connect');
}

function faultOf(dice: Dice, kind: FaultKind, phase: Phase): Fault {
  // Most delays are short; some are beyond every deadline.
  const ms = dice.chance(0.1) ? dice.int(800, 3000) : dice.int(1, 120);
  const status = dice.pick(phase === 'request' && dice.chance(0.5) ? REFUSALS : FAILURES);
  // Elsewhere `Retry-After` has no meaning.
  const waits = kind === 'hint' ? HINTS : status === 429 || status >= 500 ? WAITS : [undefined];
  const wait = dice.pick<number | undefined>(waits);
  return { kind, phase, ms, status, wait, first: dice.chance(0.4), part: dice.next() };
}
