import { getEventListeners } from 'node:events';
import * as fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Attempt, CallSpec } from '../../src/calls/calls.ts';
import { Deadline, type DeadlineOptions, type Over } from '../../src/calls/deadline.ts';
import { Flight, type Waiter } from '../../src/calls/flight.ts';
import { onAbort } from '../../src/signals.ts';
import { OutcomeUnknownError, UnreachableError } from '../../src/errors.ts';
import { after, afterIdle, backoffDelay, expiring, LONGEST_TIMER, sleep, within } from '../../src/timers.ts';
import { callOf, callsOf, onFakeClock, Place, settle, watch, WHAT } from './parts.ts';

const listenersOf = (signal: AbortSignal): number => getEventListeners(signal, 'abort').length;

function deadlineOf(options: Partial<DeadlineOptions>) {
  const overs: (Over & { at: number })[] = [];
  const deadline = new Deadline({ call: 1000, total: 10_000, ...options }, (over) => overs.push({ ...over, at: performance.now() }));
  return { deadline, overs, start: performance.now() };
}

describe('a deadline', () => {
  onFakeClock();

  it('G4 is over once, exactly when its time is', async () => {
    const { overs, start } = deadlineOf({ call: 1000 });
    await vi.advanceTimersByTimeAsync(999);
    expect(overs).toEqual([]);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(overs).toEqual([{ by: 'call', limit: 1000, at: start + 1000 }]);
  });

  it('G4 gets its time anew by progress, and never more than the total', async () => {
    const { deadline, overs, start } = deadlineOf({ call: 1000, total: 3000 });
    for (let i = 0; i < 5; i++) {
      await vi.advanceTimersByTimeAsync(500);
      deadline.progress();
      expect(deadline.left).toBe(Math.min(1000, start + 3000 - performance.now()));
    }
    await vi.advanceTimersByTimeAsync(60_000);
    expect(overs).toEqual([{ by: 'total', limit: 3000, at: start + 3000 }]);
  });

  it('G4 ends between its last progress plus its own time, and the total, whenever progress comes', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 1000 }), fc.integer({ min: 1, max: 3000 }), fc.array(fc.nat(1200), { maxLength: 10 }), async (call, total, steps) => {
        const { deadline, overs, start } = deadlineOf({ call, total });
        let due = start + Math.min(call, total);
        for (const step of steps) {
          await vi.advanceTimersByTimeAsync(step);
          if (overs.length === 0) due = Math.min(performance.now() + call, start + total);
          deadline.progress();
        }
        await vi.advanceTimersByTimeAsync(5000);
        expect(overs.map(({ at }) => at)).toEqual([due]);
        expect(vi.getTimerCount()).toBe(0);
      }),
    );
  });

  it('names the limit that passed: the total only where it is another', async () => {
    const same = deadlineOf({ call: 1000, total: 1000 });
    const shorter = deadlineOf({ call: 1000, total: 500 });
    await vi.advanceTimersByTimeAsync(100);
    same.deadline.progress();
    await vi.advanceTimersByTimeAsync(1000);
    expect(same.overs).toMatchObject([{ by: 'call', limit: 1000 }]);
    expect(shorter.overs).toMatchObject([{ by: 'total', limit: 500 }]);
  });

  it('is over with the reason of the caller\'s signal, and then neither by time nor again', async () => {
    const caller = new AbortController();
    const { deadline, overs, start } = deadlineOf({ signal: caller.signal });
    await vi.advanceTimersByTimeAsync(10);
    caller.abort('no longer wanted');
    expect(overs).toEqual([{ by: 'signal', reason: 'no longer wanted', at: start + 10 }]);
    deadline.progress();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(overs).toHaveLength(1);
    expect(listenersOf(caller.signal)).toBe(0);
  });

  it('is over at once, but not before it is there, where the signal has aborted already', async () => {
    const { overs } = deadlineOf({ signal: AbortSignal.abort('too late') });
    expect(overs).toEqual([]);
    await settle();
    expect(overs).toMatchObject([{ by: 'signal', reason: 'too late' }]);
  });

  it('G9 lets go of timer and signal when it is not needed any more, for good', async () => {
    const caller = new AbortController();
    const { deadline, overs } = deadlineOf({ signal: caller.signal });
    deadline.dispose();
    // Progress that was on its way.
    deadline.progress();
    expect(vi.getTimerCount()).toBe(0);
    expect(listenersOf(caller.signal)).toBe(0);
    caller.abort();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(overs).toEqual([]);
  });
});

describe('a flight', () => {
  const waiterOf = (left: number, progress: (progress: unknown) => void = () => {}): Waiter => ({ left, progress });
  /** An attempt that ends when it is aborted, as the SDK's does. */
  const hanging = (signal: AbortSignal): Promise<never> => new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('Request timed out'))));

  it('has the time of its most patient waiter', () => {
    const flight = new Flight(WHAT);
    expect(flight.wanted).toBe(false);
    const patient = waiterOf(9000);
    for (const each of [waiterOf(100), patient, waiterOf(5000)]) flight.join(each);
    expect(flight.left).toBe(9000);
    flight.leave(patient, 'x');
    expect(flight.left).toBe(5000);
  });

  it('goes on for the others when one leaves, and ends with the last, for its reason', async () => {
    const flight = new Flight(WHAT);
    const [a, b] = [waiterOf(1), waiterOf(2)];
    flight.join(a);
    flight.join(b);
    let reason: unknown;
    const attempt = flight.attempt((signal) => {
      signal.addEventListener('abort', () => (reason = signal.reason));
      return hanging(signal);
    });
    expect(flight.leave(a, 'A is tired')).toBe('unknown');
    expect([flight.signal.aborted, flight.wanted]).toEqual([false, true]);
    expect(flight.leave(b, 'B is tired')).toBe('unknown');
    expect([flight.signal.reason, reason]).toEqual(['B is tired', 'B is tired']);
    await expect(attempt).rejects.toThrow('Request timed out');
  });

  it('makes every attempt under a signal of its own, and none once it has ended', async () => {
    const flight = new Flight(WHAT);
    const waiter = waiterOf(1);
    flight.join(waiter);
    const signals: AbortSignal[] = [];
    for (let i = 0; i < 2; i++) await flight.attempt(async (signal) => signals.push(signal));
    expect(new Set([...signals, flight.signal]).size).toBe(3);
    expect(flight.attempts).toBe(2);
    flight.leave(waiter, new Error('over'));
    await expect(flight.attempt(async () => {})).rejects.toThrow('over');
    expect(flight.attempts).toBe(2);
    expect(signals.some(({ aborted }) => aborted)).toBe(false);
  });

  it('tells its last waiter that it was not sent where the session below knows it', async () => {
    for (const [sent, said] of [['not-sent', 'not-sent'], ['sent', 'unknown'], [undefined, 'unknown']] as const) {
      const flight = new Flight(WHAT, (abort) => (abort(), sent));
      const waiter = waiterOf(1);
      flight.join(waiter);
      const attempt = flight.attempt(hanging).catch(() => {});
      expect(flight.leave(waiter, 'x')).toBe(said);
      await attempt;
    }
  });

  it('G2 says unknown for good once an attempt may have run', async () => {
    const flight = new Flight(WHAT, (abort) => (abort(), 'not-sent'));
    const waiter = waiterOf(1);
    flight.join(waiter);
    expect(flight.outcome).toBe('not-sent');
    flight.note('unknown', new OutcomeUnknownError('cut'));
    flight.note('not-sent', new UnreachableError('gone'));
    expect(flight.outcome).toBe('unknown');
    const attempt = flight.attempt(hanging).catch(() => {});
    expect(flight.leave(waiter, 'x')).toBe('unknown');
    await attempt;
    flight.restart();
    expect([flight.outcome, flight.mayHaveRun]).toEqual(['not-sent', false]);
  });

  it('G3 stays unknown when the attempt that was given up says so itself, whatever the SDK calls that', async () => {
    for (const [sent, said] of [['sent', 'unknown'], ['not-sent', 'not-sent']] as const) {
      const caller = new AbortController();
      const { flight, settled } = callOf((_, signal) => hanging(signal), { giveUp: (abort) => (abort(), sent), signal: caller.signal });
      await vi.waitFor(() => expect(flight.attempts).toBe(1));
      caller.abort(new Error('no longer wanted'));
      await expect(settled).rejects.toThrow('Request timed out');
      expect(flight.outcome).toBe(said);
    }
  });

  it('knows whether the server was told that it is cancelled', async () => {
    for (const [how, sent, told] of [['tell', 'sent', true], ['detach', 'sent', false], ['tell', 'not-sent', false]] as const) {
      let asked: unknown;
      const flight = new Flight(WHAT, (abort, leaving) => {
        asked = leaving;
        abort();
        return sent;
      });
      const waiter = waiterOf(1);
      flight.join(waiter);
      const attempt = flight.attempt(hanging).catch(() => {});
      flight.leave(waiter, 'x', how);
      await attempt;
      expect([asked, flight.cancelled]).toEqual([how, told]);
    }
  });

  it('gives progress to every waiter, also where one of them throws (G11)', () => {
    const flight = new Flight(WHAT);
    const heard: unknown[] = [];
    flight.join(waiterOf(1, () => {
      throw new Error('a fault of the user\'s');
    }));
    flight.join(waiterOf(1, (progress) => heard.push(progress)));
    expect(() => flight.progress({ progress: 1 })).toThrow('a fault of the user\'s');
    expect(heard).toEqual([{ progress: 1 }]);
  });

  it('gives no progress to a waiter whom another\'s progress made leave', () => {
    const flight = new Flight(WHAT);
    const heard: string[] = [];
    const left = waiterOf(1, () => heard.push('one who left'));
    flight.join(waiterOf(1, () => void flight.leave(left, 'x')));
    flight.join(left);
    // It would hear of its own request for ever.
    flight.join(waiterOf(1, () => void (heard.length < 10 && flight.join(waiterOf(1, () => heard.push('newcomer'))))));
    flight.progress(1);
    expect(heard).toEqual([]);
  });

  it('is told of its landing once for each waiter, and not for those who left', () => {
    const flight = new Flight(WHAT);
    const [a, b] = [waiterOf(1), waiterOf(1)];
    flight.join(a);
    flight.join(b);
    flight.leave(a, 'x');
    expect([flight.leaves(a), flight.leaves(b), flight.leaves(b)]).toEqual([false, true, false]);
    expect(flight.signal.aborted).toBe(false);
  });
});

describe('a call whose time is over', () => {
  onFakeClock();
  const gone = async (): Promise<never> => {
    throw new UnreachableError('no connection', { advice: 'It was not sent.' });
  };
  const hanging = ({ signal }: Attempt): Promise<never> => new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));

  it.each<[string, Partial<CallSpec>, string, string]>([
    ['while nobody is there', { send: gone }, 'not-sent', 'within 1000 ms (timeout.call). It was not sent: it waited for another attempt. The last attempt failed: no connection'],
    ['while the server works', { send: hanging }, 'unknown', 'within 1000 ms (timeout.call). It was sent and may or may not have run; the server is told that it is cancelled.'],
    ['in all', { call: 2000, total: 1000, send: hanging }, 'unknown', 'within 1000 ms (timeout.total). It was sent'],
    ['in the handshake', { method: 'initialize', send: gone }, 'not-sent', 'within 1000 ms (timeout.connect). No call was sent'],
  ])('G4 fails in that very moment, and says what became of it: %s', async (_, spec, outcome, words) => {
    const { calls, run } = callsOf(new Place());
    const start = performance.now();
    const result = watch(run({ call: 1000, total: 5000, ...spec }));
    await vi.advanceTimersByTimeAsync(60_000);
    expect(result.at).toBe(start + 1000);
    expect(result.error).toMatchObject({ code: 'DEADLINE', outcome, timeout: 1000, message: expect.stringContaining(`${WHAT} was not answered ${words}`) });
    expect(calls.metrics()).toMatchObject({ calls: { pending: 0 }, inFlight: 0, queueLength: 0 });
  });

  it('G4 waited for its turn until then, which was no part of anything else', async () => {
    const { calls, run } = callsOf(new Place(), { concurrency: 1 });
    const first = watch(run({ call: 5000, send: hanging }));
    const queued = watch(run({ call: 1000, send: hanging }));
    await vi.advanceTimersByTimeAsync(1000);
    expect(queued.error).toMatchObject({ code: 'DEADLINE', outcome: 'not-sent', message: expect.stringContaining('It was not sent: it waited for its turn (1 in flight).') });
    expect([first.at, calls.metrics().queueLength]).toEqual([undefined, 0]);
    await vi.advanceTimersByTimeAsync(4000);
  });

  it('settles once, also where the progress of one caller makes another one leave', async () => {
    const { calls, run } = callsOf(new Place());
    let progress = (_: unknown): void => {};
    const send = (attempt: Attempt): Promise<never> => {
      progress = (its) => attempt.onprogress?.(its);
      return hanging(attempt);
    };
    const other = new AbortController();
    const heard: string[] = [];
    const shared = { shareKey: 'the same', send, call: 1000 };
    const one = watch(run({ ...shared, onprogress: () => other.abort('enough') }));
    const two = watch(run({ ...shared, onprogress: () => heard.push('after it had left'), signal: other.signal }));
    await settle();
    progress({ progress: 1 });
    await vi.advanceTimersByTimeAsync(60_000);
    expect([two.error, heard]).toEqual(['enough', []]);
    expect(one.error).toMatchObject({ code: 'DEADLINE' });
    expect(calls.metrics().calls).toMatchObject({ unknown: 2, pending: 0 });
    expect(calls.history()).toHaveLength(2);
  });
});

describe('listeners on a shared signal', () => {
  const warnings: Error[] = [];
  const onWarning = (warning: Error): void => void warnings.push(warning);

  beforeEach(() => {
    warnings.length = 0;
    process.on('warning', onWarning);
  });
  afterEach(() => void process.off('warning', onWarning));

  async function expectNoTrace({ signal }: AbortController, added: { mock: { calls: unknown[] } }, most: number): Promise<void> {
    // Process warnings are told in the next turn of the event loop.
    await new Promise((resolve) => setImmediate(resolve));
    expect(warnings).toEqual([]);
    expect(listenersOf(signal)).toBe(0);
    expect(added.mock.calls.length).toBeLessThanOrEqual(most);
  }

  it('are none after 10,000 calls, one after another', async () => {
    const caller = new AbortController();
    const added = vi.spyOn(caller.signal, 'addEventListener');
    for (let i = 0; i < 10_000; i++) {
      const { settled } = callOf(async () => listenersOf(caller.signal), { signal: caller.signal });
      expect(await settled).toBe(1);
    }
    await expectNoTrace(caller, added, 10_000);
  });

  it('are one during 10,000 calls at once, and none after them', async () => {
    const caller = new AbortController();
    const added = vi.spyOn(caller.signal, 'addEventListener');
    let answer = (): void => {};
    const answered = new Promise<void>((resolve) => (answer = resolve));
    const calls = Array.from({ length: 10_000 }, () => callOf(() => answered, { signal: caller.signal }));
    expect(listenersOf(caller.signal)).toBe(1);
    answer();
    await Promise.all(calls.map(({ settled }) => settled));
    await expectNoTrace(caller, added, 1);
  });

  it('are none after 10,000 calls at once were aborted, each with the signal\'s reason', async () => {
    const caller = new AbortController();
    const added = vi.spyOn(caller.signal, 'addEventListener');
    const calls = Array.from({ length: 10_000 }, () =>
      callOf((_, signal) => new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason))), { signal: caller.signal }),
    );
    const reason = new Error('all of them');
    caller.abort(reason);
    for (const each of await Promise.allSettled(calls.map(({ settled }) => settled))) expect(each).toMatchObject({ reason });
    await expectNoTrace(caller, added, 1);
  });

  it('hear of the abort once, in order, and at once where it was before', () => {
    const caller = new AbortController();
    const heard: number[] = [];
    const releases = [1, 2, 3].map((n) => onAbort(caller.signal, () => heard.push(n)));
    releases[1]?.();
    caller.abort();
    for (const release of releases) release();
    expect(heard).toEqual([1, 3]);
    onAbort(caller.signal, () => heard.push(4))();
    expect(heard).toEqual([1, 3, 4]);
    expect(listenersOf(caller.signal)).toBe(0);
  });

  it('hear nothing when they were released, also by one who heard before them', () => {
    const caller = new AbortController();
    const heard: string[] = [];
    onAbort(caller.signal, () => {
      heard.push('first');
      release();
      onAbort(caller.signal, () => heard.push('came later'));
    });
    const release = onAbort(caller.signal, () => heard.push('released'));
    onAbort(caller.signal, () => heard.push('last'));
    caller.abort();
    expect(heard).toEqual(['first', 'came later', 'last']);
  });

  it('come and go in any order, and are there exactly while one is needed', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(5), { maxLength: 40 }), (steps) => {
        const { signal } = new AbortController();
        const releases: (() => void)[] = [];
        for (const step of steps) {
          if (step > 2) releases.push(onAbort(signal, () => {}));
          else {
            const [release] = releases.splice(step % Math.max(1, releases.length), 1);
            release?.();
            // Once more does nothing, and nothing to others.
            release?.();
          }
          expect(listenersOf(signal)).toBe(releases.length > 0 ? 1 : 0);
        }
      }),
    );
  });
});

describe('timers', () => {
  onFakeClock();

  it('never fire early, however long or broken the delay is, and not at all once they are stopped', async () => {
    const fired: string[] = [];
    const stops = [after(Number.POSITIVE_INFINITY, () => fired.push('never')), afterIdle(2 ** 40, () => fired.push('never')), after(10, () => fired.push('stopped'))];
    after(-5, () => fired.push('at once'));
    stops[2]?.();
    const whole = watch(sleep(10.2, new AbortController().signal));
    await vi.advanceTimersByTimeAsync(10);
    expect(whole.at).toBeUndefined();
    await vi.advanceTimersByTimeAsync(LONGEST_TIMER - 11);
    expect(fired).toEqual(['at once']);
    for (const stop of stops) stop();
  });

  it('sleep until their time, or until the signal aborts, and leave no listener', async () => {
    const caller = new AbortController();
    const slept = watch(sleep(1000, caller.signal));
    const woken = watch(sleep(5000, caller.signal));
    await vi.advanceTimersByTimeAsync(1000);
    expect([slept.at !== undefined, slept.error, listenersOf(caller.signal)]).toEqual([true, undefined, 1]);
    caller.abort('enough');
    await settle();
    expect(woken.error).toBe('enough');
    await expect(sleep(1, caller.signal)).rejects.toBe('enough');
    expect(listenersOf(caller.signal)).toBe(0);
  });

  it('end the wait for a task that takes too long, and stop with one that does not', async () => {
    expect(await within(Promise.resolve('done'), 1000)).toBe('done');
    expect(vi.getTimerCount()).toBe(0);
    const late = watch(within(new Promise(() => {}), 1000));
    await vi.advanceTimersByTimeAsync(1000);
    expect(late.error).toMatchObject({ message: 'no answer within 1000 ms' });
  });

  it('make a signal that is not aborted yet, however long', () => {
    for (const delay of [1000, 1000.5, 2 ** 40, Number.POSITIVE_INFINITY]) expect(expiring(delay).aborted).toBe(false);
  });
});

describe('backoff', () => {
  it('stays within its bounds, whatever is drawn', () => {
    fc.assert(
      fc.property(fc.nat(5000), fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), fc.constantFrom(0, 0.5), (attempt, drawn, floor) => {
        const delay = backoffDelay({ min: 100, max: 2000, factor: 2, floor }, attempt, () => drawn);
        const whole = Math.min(2000, 100 * 2 ** attempt);
        return delay >= whole * floor && delay <= whole;
      }),
    );
  });
});
