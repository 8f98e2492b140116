import * as fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Deadline } from '../../src/calls/deadline.ts';
import { retrying } from '../../src/calls/retry.ts';
import { isSafeMethod, type Outcome, outcomeOf, VERDICTS } from '../../src/calls/verdict.ts';
import { BadServerError, ClosedError, DeadlineError, OutcomeUnknownError, RefusedError, SessionLostError, UnreachableError } from '../../src/errors.ts';
import { backoffDelay } from '../../src/timers.ts';

const retry = { retries: Number.POSITIVE_INFINITY, minTimeout: 100, maxTimeout: 2000, factor: 2 };
const deadlineOf = (call: number, total = call, signal?: AbortSignal) => new Deadline({ what: 'tools/call "x"', setBy: 'timeout.call', call, total, signal });

describe('the verdict table', () => {
  it('G2 never sends again what is not safe and may have run', () => {
    expect(VERDICTS.unknown.unsafe).toBe('fail');
  });

  it('sends again whatever did not run for want of a connection or of time at the server', () => {
    for (const outcome of ['not-sent', 'busy'] as const) expect(VERDICTS[outcome]).toMatchObject({ safe: 'again', unsafe: 'again' });
  });

  it('hands over every answer', () => {
    for (const outcome of ['other', 'refused', 'lost'] as const) expect(VERDICTS[outcome]).toMatchObject({ safe: 'fail', unsafe: 'fail' });
  });

  it.each<[unknown, Outcome]>([
    [new UnreachableError('x'), 'not-sent'],
    [new OutcomeUnknownError('x'), 'unknown'],
    [new RefusedError('x', { status: 429 }), 'busy'],
    [new RefusedError('x', { status: 400 }), 'refused'],
    [new SessionLostError('x'), 'lost'],
    [new ClosedError('x', { outcome: 'unknown' }), 'other'],
    [new DeadlineError('x', { outcome: 'not-sent', timeout: 1 }), 'other'],
    [new BadServerError('x', { outcome: 'refused' }), 'other'],
    // The SDK's timeout, many a server's lost session: the number proves nothing.
    [Object.assign(new Error('MCP error -32001: Request timed out'), { code: -32001 }), 'other'],
    ['not an error', 'other'],
  ])('judges %o by where it arose', (error, outcome) => {
    expect(outcomeOf(error)).toBe(outcome);
  });

  it('knows what is safe by name, and nothing else', () => {
    for (const method of ['ping', 'tools/list', 'resources/read', 'prompts/get', 'completion/complete', 'logging/setLevel', 'resources/subscribe']) {
      expect(isSafeMethod(method)).toBe(true);
    }
    for (const method of ['tools/call', 'tasks/cancel', 'whatever/new', '__proto__', 'constructor']) expect(isSafeMethod(method)).toBe(false);
  });
});

describe('backoff', () => {
  it('stays within its bounds, whatever is drawn', () => {
    fc.assert(
      fc.property(fc.nat(2000), fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), fc.constantFrom(0, 0.5), (attempt, drawn, floor) => {
        const delay = backoffDelay({ min: 100, max: 2000, factor: 2, floor }, attempt, () => drawn);
        const whole = Math.min(2000, 100 * 2 ** attempt);
        return delay >= whole * floor && delay <= whole;
      }),
    );
  });
});

describe('a call and its deadline, on a clock of our own', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it('G1 is tried until the deadline, and then fails with what the last attempt said', async () => {
    const deadline = deadlineOf(10_000);
    let attempts = 0;
    const call = retrying(() => Promise.reject(new UnreachableError(`no connection ${++attempts}`)), { deadline, safe: false, retry, onRetry: () => {} }).catch((error: unknown) => error);
    await vi.advanceTimersByTimeAsync(10_000);
    const error = await call;
    expect(error).toBeInstanceOf(DeadlineError);
    expect(error).toMatchObject({ outcome: 'not-sent', timeout: 10_000, message: expect.stringContaining(`no connection ${attempts}`) });
    expect(attempts).toBeGreaterThan(5);
    deadline.dispose();
    expect(vi.getTimerCount()).toBe(0);
  });

  it('G2 is not tried again where it may have run', async () => {
    const deadline = deadlineOf(10_000);
    let attempts = 0;
    const attempt = () => {
      attempts++;
      return Promise.reject(new OutcomeUnknownError('cut'));
    };
    await expect(retrying(attempt, { deadline, safe: false, retry, onRetry: () => {} })).rejects.toThrow(OutcomeUnknownError);
    expect(attempts).toBe(1);
    deadline.dispose();
  });

  it('says unknown for good once an attempt may have run, whatever became of the later ones', async () => {
    const deadline = deadlineOf(60_000);
    let attempts = 0;
    const attempt = () => Promise.reject(++attempts === 1 ? new OutcomeUnknownError('cut') : new UnreachableError('gone'));
    const settled = retrying(attempt, { deadline, safe: true, retry: { ...retry, retries: 3 }, onRetry: () => {} }).catch((error: unknown) => error);
    await vi.advanceTimersByTimeAsync(30_000);
    expect(await settled).toMatchObject({ code: 'OUTCOME_UNKNOWN', message: expect.stringContaining('gone') });
    expect(attempts).toBe(4);
    deadline.dispose();
  });

  it('G5 takes Retry-After as a lower bound', async () => {
    const deadline = deadlineOf(60_000);
    const delays: number[] = [];
    let attempts = 0;
    const attempt = () => (++attempts < 3 ? Promise.reject(new RefusedError('busy', { status: 429, retryAfter: 5000 })) : Promise.resolve('done'));
    const call = retrying(attempt, { deadline, safe: false, retry, onRetry: ({ delay }) => delays.push(delay) });
    await vi.advanceTimersByTimeAsync(15_000);
    expect(await call).toBe('done');
    expect(delays.every((delay) => delay >= 5000)).toBe(true);
    deadline.dispose();
  });

  it('G5 fails at once, saying so, where Retry-After lies beyond the deadline', async () => {
    const deadline = deadlineOf(10_000);
    const attempt = () => Promise.reject(new RefusedError('busy', { status: 429, retryAfter: 3_600_000 }));
    const error = await retrying(attempt, { deadline, safe: true, retry, onRetry: () => {} }).catch((each: unknown) => each);
    expect(error).toMatchObject({ code: 'REFUSED', status: 429, outcome: 'refused', message: expect.stringMatching(/wait 3600000 ms.*10000 ms left/) });
    deadline.dispose();
  });

  it('G4 gets its time anew by progress, and never more than the total', async () => {
    const deadline = deadlineOf(1000, 3000);
    for (let i = 0; i < 5; i++) {
      await vi.advanceTimersByTimeAsync(500);
      deadline.progress();
    }
    expect(deadline.signal.aborted).toBe(false);
    await vi.advanceTimersByTimeAsync(500);
    expect(deadline.signal.aborted).toBe(true);
    expect(() => deadline.throwIfOver()).toThrow(/timeout\.total/);
    deadline.dispose();
  });

  it('is given up at once with the reason of the caller\'s signal, and leaves no listener there', async () => {
    const controller = new AbortController();
    const removed = vi.spyOn(controller.signal, 'removeEventListener');
    const deadline = deadlineOf(10_000, 10_000, controller.signal);
    const call = retrying(() => Promise.reject(new UnreachableError('x')), { deadline, safe: true, retry, onRetry: () => {} });
    const settled = call.catch((error: unknown) => error);
    await vi.advanceTimersByTimeAsync(50);
    controller.abort(new Error('no longer wanted'));
    expect(await settled).toMatchObject({ message: 'no longer wanted' });
    deadline.dispose();
    expect(removed).toHaveBeenCalledOnce();
    expect(vi.getTimerCount()).toBe(0);
  });

  it('is tried as often as the user said, and not at all with retry: false', async () => {
    for (const [setting, expected] of [[{ ...retry, retries: 2 }, 3], [false, 1]] as const) {
      const deadline = deadlineOf(60_000);
      let attempts = 0;
      const attempt = () => {
        attempts++;
        return Promise.reject(new UnreachableError('x'));
      };
      const settled = retrying(attempt, { deadline, safe: true, retry: setting, onRetry: () => {} }).catch((error: unknown) => error);
      await vi.advanceTimersByTimeAsync(30_000);
      expect(await settled).toBeInstanceOf(UnreachableError);
      expect(attempts).toBe(expected);
      deadline.dispose();
    }
  });
});
