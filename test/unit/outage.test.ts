import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { UnreachableError } from '../../src/errors.ts';
import { DEFAULTS } from '../../src/options.ts';
import { callsOf, Place, type Watched, watch } from './parts.ts';

const CALLS = 1000;
/** How long the time of a call is, in ms. */
const { call: TIMEOUT } = DEFAULTS.timeout;

/** A clock for a crowd of timers: that of Vitest looks through all of them for each that fires. */
class Clock {
  #now = 0;
  readonly #due = new Map<number, Set<() => void>>();

  constructor() {
    vi.stubGlobal('performance', { now: () => this.#now });
    vi.stubGlobal('setTimeout', (task: () => void, delay: number) => {
      const at = this.#now + Math.max(1, Math.ceil(delay));
      const tasks = this.#due.get(at) ?? new Set();
      this.#due.set(at, tasks.add(task));
      return () => tasks.delete(task);
    });
    vi.stubGlobal('clearTimeout', (stop?: () => void) => stop?.());
  }

  async advance(time: number): Promise<void> {
    for (const end = this.#now + time; this.#now < end; this.#now++) {
      const tasks = this.#due.get(this.#now);
      this.#due.delete(this.#now);
      if (!tasks || tasks.size === 0) continue;
      for (const task of tasks) {
        tasks.delete(task);
        task();
      }
      await new Promise(setImmediate);
    }
  }

  get timers(): number {
    return [...this.#due.values()].reduce((sum, { size }) => sum + size, 0);
  }
}

/** A server for many clients, and what they send there. */
class Server extends Place {
  requests = 0;
  most = 0;
  #now = 0;

  readonly send = async (): Promise<unknown> => {
    this.requests++;
    this.most = Math.max(this.most, ++this.#now);
    // As long as a connection on the same machine takes.
    await new Promise((resolve) => setTimeout(resolve, 2));
    this.#now--;
    if (!this.there) throw new UnreachableError('no connection');
    return { content: [] };
  };
}

describe.each([
  ['all at once', 50, 0],
  ['within a minute', 10, 60],
  ['within ten minutes', 10, 600],
])('clients with 1,000 calls each, made %s', (_, clients, gap) => {
  let clock: Clock;
  let server: Server;
  let results: Watched<unknown>[];

  beforeEach(() => {
    clock = new Clock();
    server = new Server();
    // Of so many errors they cost more than all the rest.
    Error.stackTraceLimit = 0;
    results = [];
  });
  afterEach(() => {
    Error.stackTraceLimit = 10;
    vi.unstubAllGlobals();
  });

  async function call(count: number, by: number): Promise<void> {
    const callers = Array.from({ length: by }, () => callsOf(server));
    for (let i = 0; i < count; i++) {
      for (const { run } of callers) results.push(watch(run({ send: server.send })));
      await clock.advance(gap);
    }
  }

  it('add at most 10 % to their requests in an outage, pings included, once the bucket is spent', { timeout: 120_000 }, async () => {
    await call(CALLS, clients);
    await clock.advance(TIMEOUT + 1000);
    // Every call has asked once, and every client has spent its bucket.
    const expected = results.length + clients * DEFAULTS.budget.tokens;
    expect(server.requests).toBeGreaterThanOrEqual(expected);
    expect((server.requests + server.pings.length - expected) / results.length).toBeLessThanOrEqual(0.1);
    expect(results.every(({ error }) => (error as { code?: unknown })?.code === 'DEADLINE')).toBe(true);
    expect(clock.timers).toBe(0);
  });

  it('are all answered when the server comes back, with no more at a time than they may, and without further requests', async () => {
    await call(gap === 0 ? CALLS : 30_000 / gap, 5);
    if (gap === 0) await clock.advance(30_000);
    const waiting = results.filter(({ at }) => at === undefined).length;
    expect(waiting).toBe(results.length);
    server.there = true;
    const { requests } = server;
    server.most = 0;
    await clock.advance(3000);
    expect(results.filter(({ value }) => value === undefined)).toEqual([]);
    // One that was under way when the server came back needs no other.
    expect(server.requests).toBeLessThanOrEqual(requests + waiting);
    expect(server.most).toBeLessThanOrEqual(5 * DEFAULTS.concurrency.most);
    await clock.advance(TIMEOUT);
    expect(clock.timers).toBe(0);
  });
});
