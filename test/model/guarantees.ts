import { getEventListeners } from 'node:events';
import { expect } from 'vitest';
import type { StateName } from '../../src/session/state.ts';
import type { Asked, Peer } from './peer.ts';
import type { World } from './world.ts';

/** What holds in every world, whatever happened in it (design §3). Each check names its guarantee. */

/** In ms, after a deadline. */
const PATIENCE = 250;
/** How long each answer of a store is waited for, in ms. */
const STORE = 3000;

const MAY_BECOME: Readonly<Record<StateName, readonly StateName[]>> = {
  idle: ['loading', 'closing'],
  loading: ['resuming', 'negotiating', 'closing'],
  negotiating: ['resuming', 'ready', 'lost', 'failed', 'closing'],
  resuming: ['ready', 'lost', 'closing'],
  ready: ['degraded', 'lost', 'closing'],
  degraded: ['ready', 'lost', 'closing'],
  lost: ['negotiating', 'backoff', 'closing'],
  backoff: ['negotiating', 'closing'],
  authorizing: [],
  failed: ['loading', 'closing'],
  closing: ['closed'],
  closed: ['idle'],
};

/** What has become of each call, once everything has settled. */
export function checkCalls(world: World): void {
  const { server, asked } = world;
  expect(server.wrongs, 'what no client may do').toEqual([]);
  for (const [nonce, runs] of server.runs) {
    if (!nonce.startsWith('safe')) expect(runs, `G2 runs of ${nonce}`).toBe(1);
  }
  for (const each of asked) {
    const who = `${each.peer.name}'s ${each.what}`;
    // Where the session is there when the time is over, and only the store has still to say so, it has its own time for that.
    const due = each.what === 'connect' ? (world.store?.waitedFrom(each.dueAt, each.peer.name, STORE) ?? each.dueAt) : each.dueAt;
    expect(each.settledAt, `G4 ${who} is late by ${(each.settledAt ?? 0) - due} ms`).toBeLessThanOrEqual(due + PATIENCE);
    expect(getEventListeners(each.abort.signal, 'abort'), `G9 listeners that ${who} left on its signal`).toHaveLength(0);
    if (each.call) checkCall(world, each, each.call);
  }
  for (const peer of world.peers) checkLines(world, peer);
}

function checkCall({ server, setting, asked }: World, { peer, error, value, abort, what, startedAt, settledAt, dueAt }: Asked, { nonce, kind }: NonNullable<Asked['call']>): void {
  const who = `${peer.name}'s ${what}`;
  const runs = server.runs.get(nonce) ?? 0;
  if (!error) {
    expect(value, `the answer to ${who}`).toMatch(new RegExp(`^${nonce} run \\d+$`));
    expect(runs, `runs of ${who}, which was answered`).toBeGreaterThanOrEqual(1);
    return;
  }
  if (abort.signal.aborted && error === abort.signal.reason) return;
  const { outcome, code } = error;
  if (isTooLong({ error, settledAt, dueAt })) {
    expect(runs, `runs of ${who}, which was to be made later`).toBe(0);
    return;
  }
  if (kind === 'durable') expect(['DEADLINE', 'CLOSED', 'OUTCOME_UNKNOWN', 'STORE', 'SESSION_LOST'], `${who}: ${error.message}`).toContain(code);
  else expect(code, `G8 ${who} failed for its store: ${error.message}`).not.toBe('STORE');
  if (kind === 'unsafe') expect(['DEADLINE', 'CLOSED', 'OUTCOME_UNKNOWN', 'SESSION_LOST'], `${who}: ${error.message}`).toContain(code);
  // It is tried until its deadline; only its own client, or a session that is lost again and again, ends it before.
  const during = (at: number | undefined): boolean => at !== undefined && at >= startedAt && at <= (settledAt ?? 0);
  const left = asked.some((other) => other.peer === peer && (/^(close|end)$/.test(other.what) ? during(other.startedAt) : other.what === 'connect' && other.error && during(other.settledAt)));
  const because = (error.cause as { code?: unknown } | undefined)?.code;
  const losable = setting.lost === 'fail' || server.forgotten + server.deleted > 1;
  if (outcome === 'unknown' && code === 'CLOSED') expect(left, `${who} was closed: ${error.message}`).toBe(true);
  // Where an attempt before may have run, the outcome is unknown, and what ended it is the cause.
  const ended = code === 'OUTCOME_UNKNOWN' && ((left && because === 'CLOSED') || (losable && because === 'SESSION_LOST'));
  if (kind === 'safe' && !ended) expect(['DEADLINE', 'CLOSED', ...(losable ? ['SESSION_LOST'] : [])], `G1 ${who}: ${error.message}`).toContain(code);
  if ((outcome === 'not-sent' || outcome === 'refused') && kind !== 'durable') expect(runs, `runs of ${who}, which is ${outcome}`).toBe(0);
}

/** G5 Whoever is to wait for longer than he can is told at once. */
function isTooLong({ error, settledAt, dueAt }: { readonly [P in 'error' | 'settledAt' | 'dueAt']?: Asked[P] | undefined }): boolean {
  return error?.code === 'RATE_LIMITED' && (settledAt ?? 0) + (error.retryAfter ?? 0) > (dueAt ?? 0);
}

/** What a client's own books say. */
function checkLines({ server, asked }: World, { name, client, heard }: Peer): void {
  const lines = new Map<string, number>();
  for (const { method, outcome, params, attempts } of client.history()) {
    const nonce = method === 'tools/call' ? String((params as { arguments?: { nonce?: string } }).arguments?.nonce) : undefined;
    if (nonce === undefined) continue;
    lines.set(nonce, (lines.get(nonce) ?? 0) + 1);
    if (nonce.startsWith('durable')) continue;
    if (outcome === 'not-sent' || outcome === 'refused') expect(server.runs.get(nonce) ?? 0, `runs of ${name}'s ${nonce}, which is ${outcome} after ${attempts} attempts`).toBe(0);
    if (outcome === 'answered') expect(server.runs.get(nonce) ?? 0, `runs of ${name}'s ${nonce}, which was answered`).toBeGreaterThan(0);
  }
  for (const { call, peer, value } of asked) {
    if (!call || peer.name !== name || call.kind === 'durable') continue;
    expect(lines.get(call.nonce) ?? 0, `G4 how often ${name}'s ${call.nonce} settled`).toBe(value === undefined && !lines.has(call.nonce) ? 0 : 1);
  }
  expect(client.metrics().calls.pending, `calls of ${name} that its books have open`).toBe(0);
  expect([client.metrics().inFlight, client.metrics().queueLength], `turns that ${name} has not given back`).toEqual([0, 0]);
  expect(heard.circuit, 'no circuit breaker was asked for').toEqual([]);
}

/** One answer for all who made the same durable call (G3). */
export function checkDurable({ asked, server, setting, troubles, store }: World): void {
  const answers = new Map<string, Set<unknown>>();
  const givenUp = new Set(asked.filter(({ abort }) => abort.signal.aborted).map(({ call }) => call?.nonce));
  for (const each of asked) {
    const { call, value, error } = each;
    if (call?.kind !== 'durable' || isTooLong(each)) continue;
    if (value !== undefined) answers.set(call.nonce, (answers.get(call.nonce) ?? new Set()).add(value));
    else if (setting.events && troubles.size === 0 && !store?.failures && server.forgotten === 0) {
      // Without an event to go on from, or after a cancellation, nobody can say what became of it.
      const joinable = server.heard.has(call.nonce) && !givenUp.has(call.nonce);
      expect(['DEADLINE', 'CLOSED', undefined, ...(joinable ? [] : ['OUTCOME_UNKNOWN'])], `G3 ${call.nonce}: ${error?.message}`).toContain(error?.code);
    }
  }
  for (const [nonce, each] of answers) expect(each.size, `G3 answers to ${nonce}: ${[...each].join(', ')}`).toBe(1);
}

/** What happened to the sessions. */
export function checkSessions(world: World): void {
  const { server, peers, troubles, setting } = world;
  const gone = server.forgotten + server.deleted;
  for (const { name, heard, resetTo, dead } of peers) {
    expect(heard.reset.length, `G6 resets of ${name}, after ${gone} losses`).toBeLessThanOrEqual(gone + (troubles.size > 0 ? heard.state.length : 0));
    const had = resetTo.filter((id) => id !== undefined);
    expect(new Set(had).size, `G6 ${name} was reset to a session that it had before: ${had.join(', ')}`).toBe(had.length);
    let state: StateName = 'idle';
    for (const { from, to } of heard.state) {
      expect(from, `${name}'s states are one after the other`).toBe(state);
      expect(MAY_BECOME[from], `what ${name} may become after ${from}`).toContain(to);
      state = to;
    }
    // What a process sees that was killed nobody hears.
    if (!troubles.has('late') && !dead) checkWarnings(world, name, heard.warning);
  }
  if (setting.stored && setting.lost === 'replay' && troubles.size === (troubles.has('ended') ? 1 : 0) && !world.store?.failures) {
    const handshakes = server.arrivals.filter(({ what }) => what === 'initialize');
    const most = 1 + server.forgotten + world.ends + server.wasted + world.leftEarly;
    expect(handshakes.length, `G6 handshakes (${handshakes.map(({ from }) => from).join(', ')}) after ${server.forgotten} losses, ${world.ends} ends, ${server.wasted} wasted`).toBeLessThanOrEqual(most);
  }
}

function checkWarnings({ store }: World, name: string, warnings: readonly Error[]): void {
  const failures = warnings.filter(({ message }) => message.includes('the store failed'));
  expect(failures.length, `G8 warnings of ${name}: ${failures.map(({ message }) => message).join('; ')}`).toBeLessThanOrEqual(store?.failures ?? 0);
}

/** G7 No session id is in what people read. */
export function checkSecrets({ peers, asked }: World): void {
  const texts: string[] = [];
  for (const { error } of asked) for (let each: unknown = error; each instanceof Error; each = each.cause) texts.push(each.message);
  for (const { heard } of peers) {
    texts.push(...heard.warning.map(({ message }) => message));
    for (const list of [heard.reset, heard.degraded, heard.cursorLost, heard.retry, heard.call]) texts.push(JSON.stringify(list));
  }
  for (const text of texts) expect(text, 'G7 a session id').not.toMatch(/session-\d/);
}
