import { getEventListeners } from 'node:events';
import * as fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { Budget } from '../../src/calls/buckets.ts';
import { Gate } from '../../src/calls/gate.ts';
import { Reachability } from '../../src/calls/reachability.ts';
import { ClosedError, CircuitOpenError, DeadlineError, OutcomeUnknownError, RefusedError, UnreachableError } from '../../src/errors.ts';
import { BACKOFF, draw, onFakeClock, Place, settle, watch, WHAT } from './parts.ts';

const FOREVER = Number.POSITIVE_INFINITY;

/** Those who want to enter, as a call does: they leave when they are let go, whatever their signal says by then. */
function crowdAt(gate: Gate) {
  const inside = new Set<number>();
  const entered: number[] = [];
  const times: number[] = [];
  const refused: unknown[] = [];
  let most = 0;
  let count = 0;
  const visitors: { abort: (reason?: unknown) => void; leave: () => void }[] = [];
  return {
    inside,
    /** In which order they came in, and when. */
    entered,
    times,
    /** By what the others were refused. */
    refused,
    visitors,
    /** How many were in at once. */
    get most() {
      return most;
    },
    async come(left = FOREVER): Promise<void> {
      const n = count++;
      const signal = new AbortController();
      let leave = (): void => {};
      const visit = new Promise<void>((resolve) => (leave = resolve));
      visitors.push({ abort: (reason) => signal.abort(reason), leave });
      try {
        if (!gate.tryEnter()) await gate.enter(signal.signal, left, WHAT);
      } catch (error) {
        refused.push(error);
        return;
      }
      inside.add(n);
      entered.push(n);
      times.push(performance.now());
      most = Math.max(most, inside.size);
      await visit;
      inside.delete(n);
      gate.leave();
    },
  };
}

describe('the gate', () => {
  onFakeClock();

  it('lets in as many as it may, and the others in the order in which they came', async () => {
    const gate = new Gate(3);
    const crowd = crowdAt(gate);
    for (let i = 0; i < 10; i++) void crowd.come();
    await settle();
    expect([gate.inside, gate.waiting, crowd.entered]).toEqual([3, 7, [0, 1, 2]]);
    for (const { leave } of crowd.visitors) {
      leave();
      await settle();
    }
    expect(crowd.entered).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect([crowd.most, gate.inside, gate.waiting]).toEqual([3, 0, 0]);
  });

  it('lets nobody pass those who wait', async () => {
    const gate = new Gate(1);
    const crowd = crowdAt(gate);
    void crowd.come();
    void crowd.come();
    gate.leave();
    // The second is in now, though it does not know yet.
    expect([gate.inside, gate.waiting, gate.tryEnter()]).toEqual([1, 0, false]);
    crowd.visitors[1]?.leave();
    await settle();
  });

  it('is never fuller than it may be and loses no place, whoever comes, goes or gives up, and when', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 4 }), fc.array(fc.tuple(fc.constantFrom('come', 'leave', 'abort', 'settle'), fc.nat(30)), { maxLength: 60 }), async (concurrency, steps) => {
        const gate = new Gate(concurrency);
        const crowd = crowdAt(gate);
        const { visitors } = crowd;
        for (const [step, n] of steps) {
          if (step === 'come') void crowd.come();
          else if (step === 'settle') await settle();
          else visitors[n % Math.max(1, visitors.length)]?.[step]();
          expect(gate.inside).toBeLessThanOrEqual(concurrency);
          expect(gate.waiting === 0 || gate.inside === concurrency).toBe(true);
        }
        await settle();
        expect(crowd.inside.size).toBe(gate.inside);
        expect(crowd.entered).toEqual([...crowd.entered].sort((a, b) => a - b));
        for (const { leave } of visitors) leave();
        // Each who leaves lets in another.
        for (let i = 0; i < visitors.length; i++) await settle();
        expect([crowd.most <= concurrency, gate.inside, gate.waiting]).toEqual([true, 0, 0]);
        expect(crowd.entered.length + crowd.refused.length).toBe(visitors.length);
        expect(Array.from({ length: concurrency + 1 }, () => gate.tryEnter()).filter(Boolean)).toHaveLength(concurrency);
      }),
      { numRuns: 300 },
    );
  });

  it('loses no place to one whose signal aborts in the very moment of admission', async () => {
    for (const order of ['abort first', 'leave first'] as const) {
      const gate = new Gate(1);
      gate.tryEnter();
      const caller = new AbortController();
      const waiting = watch(gate.enter(caller.signal, FOREVER, WHAT));
      if (order === 'abort first') caller.abort('x');
      gate.leave();
      caller.abort('x');
      await settle();
      // Who got in knows it and leaves; who did not, is told so, and takes no place.
      if (waiting.error === undefined) gate.leave();
      expect([order, waiting.error, gate.inside, gate.waiting]).toEqual([order, order === 'abort first' ? 'x' : undefined, 0, 0]);
    }
  });

  it('G9 leaves no listener on the signal of those who are in', async () => {
    const gate = new Gate(1);
    gate.tryEnter();
    const { signal } = new AbortController();
    const waiting = [watch(gate.enter(signal, FOREVER, WHAT)), watch(gate.enter(signal, FOREVER, WHAT))];
    expect(getEventListeners(signal, 'abort')).toHaveLength(1);
    gate.leave();
    gate.leave();
    expect(getEventListeners(signal, 'abort')).toEqual([]);
    await settle();
    expect(waiting.every(({ at }) => at !== undefined)).toBe(true);
  });

  it('refuses one whose signal has aborted already, and nobody else', async () => {
    const gate = new Gate(1);
    const refused = watch(gate.enter(AbortSignal.abort('x'), FOREVER, WHAT));
    await settle();
    expect([refused.error, gate.inside, gate.tryEnter()]).toEqual(['x', 0, true]);
  });

  it('G4 does not take a deadline that has just passed for a limit', async () => {
    const gate = new Gate(1);
    gate.tryEnter();
    const waiting = watch(gate.enter(new AbortController().signal, -5, WHAT));
    await settle();
    expect([waiting.at, gate.waiting]).toEqual([undefined, 1]);
  });
});

describe('the rate limit', () => {
  onFakeClock();

  it('lets out a burst, and then so many a second, for a minute', async () => {
    const gate = new Gate(FOREVER, { perSecond: 10, burst: 5 });
    const crowd = crowdAt(gate);
    const start = performance.now();
    for (let i = 0; i < 605; i++) void crowd.come();
    await settle();
    expect(crowd.entered).toHaveLength(5);
    for (let second = 1; second <= 60; second++) {
      await vi.advanceTimersByTimeAsync(1000);
      expect(crowd.entered).toHaveLength(5 + 10 * second);
    }
    expect(crowd.times.slice(5).map((time, i) => Math.round(time - start - (i + 1) * 100))).toEqual(Array.from({ length: 600 }, () => 0));
    expect(crowd.entered).toEqual([...crowd.entered].sort((a, b) => a - b));
    expect(vi.getTimerCount()).toBe(0);
  });

  it('fills up to its burst in a pause, and no further', async () => {
    const gate = new Gate(FOREVER, { perSecond: 10, burst: 5 });
    const most = (): number => Array.from({ length: 20 }, () => gate.tryEnter()).filter(Boolean).length;
    expect(most()).toBe(5);
    await vi.advanceTimersByTimeAsync(300);
    expect(most()).toBe(3);
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(most()).toBe(5);
  });

  it('holds in every stretch of time, and makes nobody wait longer than it must', async () => {
    const arrivals = fc.array(fc.nat(2000), { minLength: 1, maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(fc.double({ min: 0.5, max: 200, noNaN: true }), fc.integer({ min: 1, max: 8 }), arrivals, async (perSecond, burst, gaps) => {
        const gate = new Gate(FOREVER, { perSecond, burst });
        const crowd = crowdAt(gate);
        const came: number[] = [];
        for (const gap of gaps) {
          // Most come together.
          await vi.advanceTimersByTimeAsync(gap > 1000 ? gap : 0);
          came.push(performance.now());
          void crowd.come();
        }
        await vi.advanceTimersByTimeAsync(100_000);
        const { times } = crowd;
        expect(times).toHaveLength(gaps.length);
        times.forEach((time, j) => {
          for (let i = 0; i <= j; i++) expect(j - i + 1).toBeLessThanOrEqual(burst + ((time - (times[i] as number)) * perSecond) / 1000 + 1e-6);
        });
        // As by a bucket that is looked at all the time; a timer rounds each wait up, to a whole millisecond.
        let tokens = burst;
        let at = came[0] as number;
        came.forEach((time, i) => {
          tokens = Math.min(burst, tokens + (Math.max(0, time - at) * perSecond) / 1000);
          at = Math.max(at, time);
          const wait = Math.max(0, ((1 - tokens) * 1000) / perSecond);
          tokens = tokens + (wait * perSecond) / 1000 - 1;
          at += wait;
          expect(times[i]).toBeGreaterThanOrEqual(at - 1e-6);
          expect(times[i]).toBeLessThanOrEqual(at + i + 1);
        });
        expect(vi.getTimerCount()).toBe(0);
      }),
      { numRuns: 50 },
    );
  });

  it('refuses at once one who would wait longer than there is time, and says how long', async () => {
    const gate = new Gate(FOREVER, { perSecond: 1, burst: 1 });
    const crowd = crowdAt(gate);
    for (let i = 0; i < 5; i++) void crowd.come();
    void crowd.come(3000);
    void crowd.come(5000);
    await settle();
    expect(crowd.refused).toEqual([expect.objectContaining({ code: 'RATE_LIMITED', outcome: 'not-sent', retryAfter: 5000 })]);
    expect(String(crowd.refused[0])).toMatch(/tools\/call "x" would have to wait 5000 ms .*`rateLimit`.*only 3000 ms.*It was not sent/);
    await vi.advanceTimersByTimeAsync(5000);
    expect(crowd.entered).toEqual([0, 1, 2, 3, 4, 6]);
  });

  it('spends nothing on those who give up, and leaves no timer when all have', async () => {
    const gate = new Gate(FOREVER, { perSecond: 1, burst: 1 });
    const crowd = crowdAt(gate);
    for (let i = 0; i < 4; i++) void crowd.come();
    crowd.visitors[1]?.abort('x');
    crowd.visitors[2]?.abort('x');
    await vi.advanceTimersByTimeAsync(1000);
    expect([crowd.entered, crowd.refused]).toEqual([[0, 3], ['x', 'x']]);
    void crowd.come();
    expect(vi.getTimerCount()).toBe(1);
    crowd.visitors[4]?.abort('x');
    expect(vi.getTimerCount()).toBe(0);
  });

  it('admits nobody by a signal that has aborted, where one signal is that of many', async () => {
    const gate = new Gate(FOREVER, { perSecond: 1, burst: 1 });
    gate.tryEnter();
    const caller = new AbortController();
    const waiting = [1, 2, 3].map(() => watch(gate.enter(caller.signal, FOREVER, WHAT)));
    // A token is there, and the timer that would hand it out is not yet due.
    vi.spyOn(performance, 'now').mockReturnValue(performance.now() + 1000);
    caller.abort('x');
    await settle();
    const admitted = waiting.filter(({ error }) => error === undefined).length;
    expect([gate.inside, gate.waiting]).toEqual([1 + admitted, 0]);
  });

  it('lets nobody pass those who wait, though there is a token', async () => {
    const gate = new Gate(FOREVER, { perSecond: 1, burst: 1 });
    const crowd = crowdAt(gate);
    for (let i = 0; i < 2; i++) void crowd.come();
    // The timer of the one who waits is not yet due.
    const now = vi.spyOn(performance, 'now').mockReturnValue(performance.now() + 1000);
    expect(gate.tryEnter()).toBe(false);
    now.mockRestore();
    await vi.advanceTimersByTimeAsync(1000);
    expect(crowd.entered).toEqual([0, 1]);
  });

  it('has no timer while the gate is full: whoever leaves lets the next in', async () => {
    const gate = new Gate(1, { perSecond: 1000, burst: 1 });
    const crowd = crowdAt(gate);
    void crowd.come();
    void crowd.come();
    await vi.advanceTimersByTimeAsync(1000);
    expect([crowd.entered, vi.getTimerCount()]).toEqual([[0], 0]);
    crowd.visitors[0]?.leave();
    await settle();
    expect(crowd.entered).toEqual([0, 1]);
  });
});

describe('the retry budget', () => {
  it('begins full, gives its tokens, and gets a part of one back by each call, to its size', () => {
    const budget = new Budget({ tokens: 3, ratio: 0.1 });
    const spend = (): number => {
      let spent = 0;
      for (; budget.available; spent++) budget.take();
      return spent;
    };
    expect([spend(), spend()]).toEqual([3, 0]);
    for (let i = 0; i < 9; i++) budget.deposit();
    expect(budget.available).toBe(false);
    // Ten times 0.1 is a little less than 1 on a computer.
    budget.deposit();
    expect(spend()).toBe(1);
    for (let i = 0; i < 1000; i++) budget.deposit();
    expect(spend()).toBe(3);
  });

  it('never gives more than it held and was given, in whatever order', () => {
    fc.assert(
      fc.property(fc.nat(20), fc.constantFrom(0, 0.01, 0.1, 0.25, 1, 3), fc.array(fc.boolean(), { maxLength: 500 }), (tokens, ratio, calls) => {
        const budget = new Budget({ tokens, ratio });
        let spent = 0;
        let deposits = 0;
        for (const call of calls) {
          if (call) {
            budget.deposit();
            deposits++;
          } else if (budget.available) {
            budget.take();
            spent++;
          }
          expect(spent).toBeLessThanOrEqual(tokens + deposits * ratio + 1e-6);
        }
      }),
    );
  });

  it('is without end where it is off', () => {
    const budget = new Budget({ tokens: Number.POSITIVE_INFINITY, ratio: 0 });
    for (let i = 0; i < 10_000; i++) budget.take();
    expect(budget.available).toBe(true);
  });
});

describe('reachability', () => {
  onFakeClock();

  const gone = new UnreachableError('no connection', { advice: 'It was not sent.' });
  const reachabilityOf = (failures: number) => {
    const place = new Place();
    return { place, reachability: new Reachability({ failures, backoff: BACKOFF }, place) };
  };
  const never = new AbortController().signal;

  it('opens the circuit after so many failures in a row, and once', () => {
    const { place, reachability } = reachabilityOf(3);
    for (const run of [2, 2]) {
      reachability.up();
      for (let i = 0; i < run; i++) reachability.down(gone);
    }
    expect([reachability.circuitOpen, place.circuit]).toEqual([false, []]);
    reachability.check(WHAT);
    reachability.down(gone);
    reachability.down(gone);
    expect([reachability.circuitOpen, place.circuit]).toEqual([true, ['open: no connection']]);
    expect(() => reachability.check(WHAT)).toThrow(CircuitOpenError);
    expect(() => reachability.check(WHAT)).toThrow(/4 times in a row \(no connection\)\. tools\/call "x" was not sent/);
    reachability.close();
  });

  it('closes it when a call that was under way gets through, and asks no more', () => {
    const { place, reachability } = reachabilityOf(1);
    reachability.down(gone);
    expect(vi.getTimerCount()).toBe(1);
    reachability.up();
    expect([reachability.circuitOpen, place.circuit.length, vi.getTimerCount()]).toEqual([false, 2, 0]);
  });

  it('never opens it without a circuit breaker, and asks nobody unless somebody waits', async () => {
    const { place, reachability } = reachabilityOf(Number.POSITIVE_INFINITY);
    for (let i = 0; i < 10_000; i++) reachability.down(gone);
    await vi.advanceTimersByTimeAsync(60_000);
    expect([reachability.circuitOpen, place.pings]).toEqual([false, []]);
  });

  it('asks by pings, one at a time and ever less often, until the server answers', async () => {
    draw(1);
    const { place, reachability } = reachabilityOf(1);
    const start = performance.now();
    reachability.down(gone);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(place.pings.map((at) => at - start)).toEqual([100, 300, 700, 1500, 3100, 5100, 7100, 9100]);
    place.there = true;
    await vi.advanceTimersByTimeAsync(2000);
    expect([reachability.circuitOpen, place.circuit.at(-1)]).toEqual([false, 'closed: the server answers again']);
    reachability.check(WHAT);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(place.pings).toHaveLength(9);
    // And then begins anew.
    const again = performance.now();
    place.there = false;
    reachability.down(gone);
    await vi.advanceTimersByTimeAsync(300);
    expect(place.pings.slice(9).map((at) => at - again)).toEqual([100, 300]);
    reachability.close();
  });

  it('sends no ping while another is under way, however long that takes', async () => {
    const { place, reachability } = reachabilityOf(1);
    let fail = (_: Error): void => {};
    place.answer = () => new Promise((_, reject) => (fail = reject));
    reachability.down(gone);
    const parked = watch(reachability.park(never));
    await vi.advanceTimersByTimeAsync(60_000);
    reachability.down(gone);
    const other = watch(reachability.park(never));
    await vi.advanceTimersByTimeAsync(60_000);
    expect(place.pings).toHaveLength(1);
    place.answer = undefined;
    fail(gone);
    place.there = true;
    await vi.advanceTimersByTimeAsync(2000);
    expect([place.pings.length, parked.at === undefined, other.at === undefined]).toEqual([2, false, false]);
  });

  it.each([
    ['a refusal', new RefusedError('no', { status: 401 }), true],
    ['an error of the server', Object.assign(new Error('MCP error -32603'), { code: -32603 }), true],
    ['silence', new DeadlineError('late', { outcome: 'unknown', timeout: 1 }), false],
    ['a connection that breaks off', new OutcomeUnknownError('cut'), false],
    ['nobody', gone, false],
    ['our own end', new ClosedError('closed', { outcome: 'not-sent' }), false],
  ])('takes for a sign of life whatever the server says: %s', async (_, error, alive) => {
    const { place, reachability } = reachabilityOf(1);
    place.answer = () => Promise.reject(error);
    reachability.down(gone);
    const parked = watch(reachability.park(never));
    await vi.advanceTimersByTimeAsync(100);
    expect([reachability.circuitOpen, parked.at !== undefined]).toEqual([!alive, alive]);
    reachability.up();
    await settle();
  });

  it('keeps its pings apart, whatever is drawn', async () => {
    draw(0);
    const { place, reachability } = reachabilityOf(1);
    reachability.down(gone);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(place.pings.length).toBeGreaterThan(50);
    expect(place.pings.length).toBeLessThan(65);
    reachability.close();
  });

  it('needs no ping where calls ask themselves, and asks as soon as they do not', async () => {
    draw(0);
    const { place, reachability } = reachabilityOf(Number.POSITIVE_INFINITY);
    const parked = watch(reachability.park(never));
    expect(reachability.awaited).toBe(true);
    for (let i = 0; i < 1000; i++) {
      reachability.down(gone);
      await vi.advanceTimersByTimeAsync(40);
    }
    expect(place.pings).toEqual([]);
    place.there = true;
    await vi.advanceTimersByTimeAsync(2000);
    expect([place.pings.length, parked.at !== undefined, reachability.awaited]).toEqual([1, true, false]);
  });

  it('wakes whoever waits when a call gets through, and asks no more', async () => {
    const { place, reachability } = reachabilityOf(2);
    const parked = [1, 2, 3].map(() => watch(reachability.park(never)));
    const paused = watch(reachability.pause(5000, never));
    await settle();
    reachability.up();
    await settle();
    expect([...parked, paused].every(({ at, error }) => at !== undefined && error === undefined)).toBe(true);
    expect(vi.getTimerCount()).toBe(0);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(place.pings).toEqual([]);
  });

  it('lets a pause end by its time', async () => {
    const { reachability } = reachabilityOf(2);
    const start = performance.now();
    const paused = watch(reachability.pause(5000, never));
    await vi.advanceTimersByTimeAsync(10_000);
    expect(paused.at).toBe(start + 5000);
  });

  it('stops asking when nobody waits any more: each may give up', async () => {
    const { place, reachability } = reachabilityOf(Number.POSITIVE_INFINITY);
    const callers = [1, 2].map(() => new AbortController());
    const waits = callers.flatMap(({ signal }) => [watch(reachability.park(signal)), watch(reachability.pause(50_000, signal))]);
    await vi.advanceTimersByTimeAsync(5000);
    callers[0]?.abort('one');
    await settle();
    const { length } = place.pings;
    expect(length).toBeGreaterThan(1);
    await vi.advanceTimersByTimeAsync(5000);
    expect(place.pings.length).toBeGreaterThan(length);
    callers[1]?.abort('two');
    await settle();
    expect(waits.map(({ error }) => error)).toEqual(['one', 'one', 'two', 'two']);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('G9 is at rest once closed, also if a ping was under way', async () => {
    const { place, reachability } = reachabilityOf(1);
    reachability.down(gone);
    reachability.close();
    expect(vi.getTimerCount()).toBe(0);
    reachability.open();
    reachability.down(gone);
    let fail = (_: Error): void => {};
    place.answer = () => new Promise((_, reject) => (fail = reject));
    await vi.advanceTimersByTimeAsync(100);
    expect(place.pings).toHaveLength(1);
    reachability.close();
    fail(new ClosedError('closed', { outcome: 'unknown' }));
    await settle();
    expect(vi.getTimerCount()).toBe(0);
    reachability.down(gone);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('begins anew with each connection, and says so where the circuit was open', async () => {
    const { place, reachability } = reachabilityOf(2);
    reachability.down(gone);
    reachability.down(gone);
    reachability.close();
    reachability.open();
    expect([reachability.circuitOpen, place.circuit.length, place.circuit[1]]).toEqual([false, 2, expect.stringMatching(/^closed/)]);
    reachability.check(WHAT);
    reachability.down(gone);
    expect(reachability.circuitOpen).toBe(false);
    await settle();
  });
});
