import * as fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { Budget } from '../../src/calls/buckets.ts';
import { Flight } from '../../src/calls/flight.ts';
import { Gate } from '../../src/calls/gate.ts';
import { Reachability } from '../../src/calls/reachability.ts';
import { BadServerError, CircuitOpenError, ClosedError, OutcomeUnknownError, RateLimitedError, RefusedError, SessionLostError, UnreachableError } from '../../src/errors.ts';
import { BACKOFF, callOf, draw, onFakeClock, Place, RETRY, settle, watch, WHAT } from './parts.ts';

const gone = (n: number | string = ''): UnreachableError => new UnreachableError(`no connection ${n}`.trim(), { advice: 'It was not sent.' });
const cut = (): OutcomeUnknownError => new OutcomeUnknownError('The connection broke off.', { advice: 'Look first.' });
const busy = (retryAfter?: number): RateLimitedError => new RateLimitedError('It answered 429.', { outcome: 'refused', retryAfter });
const empty = (): Budget => new Budget({ tokens: 0, ratio: 0 });
const reachabilityOf = (place: Place): Reachability => new Reachability({ failures: Number.POSITIVE_INFINITY, backoff: BACKOFF }, place);

/** Fails by these errors, one after another and the last again and again; `undefined` is success. */
const failing =
  (...failures: readonly (Error | undefined)[]) =>
  async (attempt: number): Promise<string> => {
    const failure = failures[Math.min(attempt, failures.length) - 1];
    if (failure) throw failure;
    return 'done';
  };

describe('a call that fails', () => {
  onFakeClock();

  it.each([
    ['not sent', true, gone()],
    ['not sent', false, gone()],
    ['busy', false, busy()],
    ['unknown', true, cut()],
  ])('G1 is tried until its deadline: %s, safe: %s', async (_, safe, error) => {
    const { flight, result, told } = callOf(failing(error), { safe, call: 30_000 });
    await vi.advanceTimersByTimeAsync(29_999);
    expect(result.at).toBeUndefined();
    // The longest delay is 2 s.
    expect(flight.attempts).toBeGreaterThanOrEqual(15);
    expect(told).toHaveLength(flight.attempts);
    expect(flight.lastFailure).toBe(error);
    await vi.advanceTimersByTimeAsync(1);
    expect(result.error).toMatchObject({ message: 'Request timed out' });
    const { attempts } = flight;
    await vi.advanceTimersByTimeAsync(30_000);
    expect(flight.attempts).toBe(attempts);
  });

  it('G1 is answered by the first attempt that succeeds', async () => {
    const { flight, result } = callOf(failing(gone(), cut(), busy(), undefined));
    await vi.advanceTimersByTimeAsync(10_000);
    expect([result.value, flight.attempts]).toEqual(['done', 4]);
  });

  it('G2 is not sent again where it may have run and is not safe, and says what to do', async () => {
    const { flight, result, told } = callOf(failing(cut()), { safe: false });
    await settle();
    expect(result.error).toMatchObject({ code: 'OUTCOME_UNKNOWN', reason: 'The connection broke off.', message: expect.stringMatching(/may or may not have run.*`safe`/) });
    expect((result.error as Error).message).not.toContain('Look first');
    expect([flight.attempts, told]).toEqual([1, []]);
  });

  it('G2 is sent again while it surely did not run, and not once it may have', async () => {
    const { flight, result } = callOf(failing(gone(), busy(), gone(), cut(), undefined), { safe: false });
    await vi.advanceTimersByTimeAsync(30_000);
    expect([flight.attempts, result.error]).toEqual([4, expect.any(OutcomeUnknownError)]);
  });

  it.each([
    ['gone for good', new UnreachableError('no TLS there', { permanent: true })],
    ['refused', new RefusedError('no', { status: 403 })],
    ['lost', new SessionLostError('lost')],
    ['closed', new ClosedError('closed', { outcome: 'not-sent' })],
    ['a bad server', new BadServerError('bad', { outcome: 'refused' })],
    ['the circuit', new CircuitOpenError('open')],
    ['our own rate limit', new RateLimitedError('later', { outcome: 'not-sent', retryAfter: 5 })],
    ['the server\'s error', Object.assign(new Error('MCP error -32001: Request timed out'), { code: -32001 })],
    ['the server\'s refusal', Object.assign(new Error('MCP error -32601: no such method'), { code: -32601 })],
    ['bad input', new TypeError('not a schema')],
  ])('is not sent again where that cannot help, and fails by the very error: %s', async (_, error) => {
    const { flight, result, told } = callOf(failing(error, undefined));
    await settle();
    expect(result.error).toBe(error);
    expect([flight.attempts, told]).toEqual([1, []]);
  });

  it('tells of each repetition: which attempt failed, when the next comes, and why', async () => {
    draw(0.5);
    const { result, told } = callOf(failing(gone(1), busy(5000), cut(), undefined));
    await vi.advanceTimersByTimeAsync(6000);
    expect(result.value).toBe('done');
    expect(told).toEqual([
      { attempt: 1, delay: 50, reason: 'no connection 1' },
      { attempt: 2, delay: 5000, reason: 'It answered 429.' },
      { attempt: 3, delay: 200, reason: 'The connection broke off.' },
    ]);
  });

  it.each([
    [0, [0, 0, 0, 0, 0, 0, 0]],
    [0.5, [50, 100, 200, 400, 800, 1000, 1000]],
    [1, [100, 200, 400, 800, 1600, 2000, 2000]],
  ])('waits longer each time, by full jitter (%d of it)', async (part, delays) => {
    draw(part);
    const { told } = callOf(failing(...delays.map(() => cut()), undefined));
    await vi.advanceTimersByTimeAsync(20_000);
    expect(told.map(({ delay }) => delay)).toEqual(delays);
  });

  it('waits as its own settings say', async () => {
    draw(1);
    const { told } = callOf(failing(cut()), { retry: { retries: 4, minTimeout: 10, maxTimeout: 300, factor: 5 } });
    await vi.advanceTimersByTimeAsync(20_000);
    expect(told.map(({ delay }) => delay)).toEqual([10, 50, 250, 300]);
  });

  it.each([
    [{ ...RETRY, retries: 2 }, 3],
    [{ ...RETRY, retries: 0 }, 1],
    [false as const, 1],
  ])('is sent again as often as its setting allows, and then fails by the last error: %o', async (retry, attempts) => {
    for (const error of [gone(), busy(), cut()]) {
      const { flight, result } = callOf(failing(error), { retry });
      await vi.advanceTimersByTimeAsync(59_000);
      expect([flight.attempts, result.error]).toEqual([attempts, error]);
    }
  });

  it('with retry: false does not wait for the server either', async () => {
    const place = new Place();
    const { result } = callOf(failing(gone()), { retry: false, budget: empty(), reachability: reachabilityOf(place) });
    await settle();
    expect([result.error, place.pings]).toEqual([expect.any(UnreachableError), []]);
  });
});

describe('what is unknown', () => {
  onFakeClock();

  it.each([
    ['cannot be reached', gone('later')],
    ['is busy', busy()],
    ['refuses', new RefusedError('said later', { status: 403 })],
    ['is behind an open circuit', new CircuitOpenError('later')],
    ['lost the session', new SessionLostError('later')],
  ])('stays unknown for good, when the server then %s', async (_, later) => {
    const { flight, result } = callOf(failing(cut(), later), { retry: { ...RETRY, retries: 3 } });
    await vi.advanceTimersByTimeAsync(30_000);
    expect(result.error).toMatchObject({ code: 'OUTCOME_UNKNOWN', cause: later, message: expect.stringContaining(later.message) });
    expect([flight.outcome, flight.mayHaveRun]).toEqual(['unknown', true]);
  });

  it('stays unknown at the deadline, though the last attempts were not sent', async () => {
    const { flight, result } = callOf(failing(cut(), gone()), { call: 5000 });
    await vi.advanceTimersByTimeAsync(5000);
    expect(result.at).toBeDefined();
    expect([flight.outcome, flight.attempts > 2]).toEqual(['unknown', true]);
  });

  it('ends with an answer, also one that is an error of the server\'s', async () => {
    const answer = Object.assign(new Error('MCP error -32603: broken'), { code: -32603 });
    const failed = callOf(failing(cut(), answer));
    const succeeded = callOf(failing(cut(), gone(), undefined));
    await vi.advanceTimersByTimeAsync(5000);
    expect([failed.result.error, succeeded.result.value]).toEqual([answer, 'done']);
  });

  it('is what became of a call exactly when some attempt of it may have run, whatever the order', async () => {
    const kinds = { gone, busy, cut, lost: () => new SessionLostError('lost'), refused: () => new RefusedError('no', { status: 403 }) };
    await fc.assert(
      fc.asyncProperty(fc.array(fc.constantFrom(...(Object.keys(kinds) as (keyof typeof kinds)[])), { minLength: 1, maxLength: 6 }), fc.boolean(), async (order, safe) => {
        const errors = order.map((kind) => kinds[kind]());
        const { flight, result } = callOf(failing(...errors), { safe, retry: { ...RETRY, retries: order.length - 1 } });
        await vi.advanceTimersByTimeAsync(59_000);
        const made = errors.slice(0, flight.attempts);
        const expected = made.some((error) => error instanceof OutcomeUnknownError) ? 'unknown' : made.at(-1)?.outcome;
        expect((result.error as OutcomeUnknownError).outcome).toBe(expected);
      }),
      { numRuns: 200 },
    );
  });
});

describe('Retry-After', () => {
  onFakeClock();

  it.each([
    ['429', busy(5000), false],
    ['a server that is not there yet', new UnreachableError('503', { retryAfter: 5000 }), false],
    ['a server that is sick', new OutcomeUnknownError('503', { retryAfter: 5000 }), true],
  ])('G5 is a lower bound: %s', async (_, error, safe) => {
    const { flight, result, told } = callOf(failing(error, error, undefined), { safe });
    await vi.advanceTimersByTimeAsync(4999);
    expect(flight.attempts).toBe(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(flight.attempts).toBe(2);
    await vi.advanceTimersByTimeAsync(5000);
    expect(result.value).toBe('done');
    expect(told.map(({ delay }) => delay)).toEqual([5000, 5000]);
  });

  it('G5 does not shorten a backoff that is longer', async () => {
    draw(1);
    const { told } = callOf(failing(busy(50)), { retry: { ...RETRY, retries: 3 } });
    await vi.advanceTimersByTimeAsync(10_000);
    expect(told.map(({ delay }) => delay)).toEqual([100, 200, 400]);
  });

  it('G5 is waited out, though the server is heard of meanwhile', async () => {
    const reachability = reachabilityOf(new Place());
    const { flight } = callOf(failing(new UnreachableError('503', { retryAfter: 5000 }), undefined), { reachability });
    await settle();
    reachability.up();
    await vi.advanceTimersByTimeAsync(4999);
    expect(flight.attempts).toBe(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(flight.attempts).toBe(2);
  });

  it('G5 is waited out by pings too, where the budget is empty', async () => {
    draw(0.5);
    const place = new Place();
    const { flight, result } = callOf(failing(new UnreachableError('503', { retryAfter: 5000 }), undefined), { reachability: reachabilityOf(place), budget: empty() });
    await vi.advanceTimersByTimeAsync(4999);
    expect([place.pings, flight.attempts]).toEqual([[], 1]);
    place.there = true;
    await vi.advanceTimersByTimeAsync(1000);
    expect([place.pings.length, result.value]).toEqual([1, 'done']);
  });

  it.each([
    [busy(3_600_000), { code: 'RATE_LIMITED', outcome: 'refused', retryAfter: 3_600_000 }],
    [new UnreachableError('503.', { retryAfter: 3_600_000 }), { code: 'UNREACHABLE', outcome: 'not-sent', retryAfter: 3_600_000 }],
    [new OutcomeUnknownError('503.', { retryAfter: 3_600_000 }), { code: 'OUTCOME_UNKNOWN', outcome: 'unknown', retryAfter: 3_600_000 }],
  ])('G5 fails at once, saying so, where it lies beyond the deadline: %o', async (error, expected) => {
    for (const budget of [undefined, empty()]) {
      const { flight, result, told } = callOf(failing(error), { call: 10_000, ...(budget ? { budget } : {}) });
      await settle();
      expect(result.error).toMatchObject({ ...expected, cause: error, message: expect.stringMatching(/wait 3600000 ms.*only 10000 ms left/) });
      expect([flight.attempts, told]).toEqual([1, []]);
    }
  });

  it('is not to blame where it was not given', async () => {
    // The deadline is over, and its timer has not fired yet: the process was busy.
    const { result } = callOf(async () => {
      vi.spyOn(performance, 'now').mockReturnValue(performance.now() + 20_000);
      throw gone();
    }, { call: 10_000 });
    await settle();
    expect(result.error).toMatchObject({ message: expect.not.stringContaining('asks to wait') });
  });
});

describe('an empty budget', () => {
  onFakeClock();

  it('takes a token for each repetition, of all calls together', async () => {
    const budget = new Budget({ tokens: 5, ratio: 0 });
    const calls = Array.from({ length: 3 }, () => callOf(failing(busy()), { budget }));
    await vi.advanceTimersByTimeAsync(59_000);
    expect(calls.reduce((sum, { told }) => sum + told.length, 0)).toBe(5);
    for (const { result } of calls) expect(result.error).toMatchObject({ code: 'RATE_LIMITED', outcome: 'refused', message: expect.stringContaining('`retry.budget`') });
  });

  it.each([
    ['429', busy(), 'RATE_LIMITED'],
    ['5xx', cut(), 'OUTCOME_UNKNOWN'],
  ])('fails at once what a server failed or put off (%s), saying so', async (_, error, code) => {
    const { flight, result, told } = callOf(failing(error), { budget: empty() });
    await settle();
    expect(result.error).toMatchObject({ code, cause: error, outcome: error.outcome, message: expect.stringContaining('the retry budget is empty') });
    expect([flight.attempts, told]).toEqual([1, []]);
  });

  it('does not blame itself for a call that would not have been sent again anyway', async () => {
    const { result } = callOf(failing(cut()), { budget: empty(), safe: false });
    const refused = callOf(failing(gone()), { budget: empty(), retry: { ...RETRY, retries: 0 } });
    await settle();
    for (const { error } of [result, refused.result]) expect((error as Error).message).not.toContain('budget');
  });

  it('lets a call that was not sent wait until a ping finds the server, and sends it then without a token', async () => {
    const place = new Place();
    const reachability = reachabilityOf(place);
    const calls = Array.from({ length: 10 }, () => callOf(failing(gone(), undefined), { safe: false, budget: empty(), reachability }));
    await vi.advanceTimersByTimeAsync(30_000);
    expect(calls.map(({ flight }) => flight.attempts)).toEqual(calls.map(() => 1));
    place.there = true;
    await vi.advanceTimersByTimeAsync(2000);
    expect(calls.map(({ result }) => result.value)).toEqual(calls.map(() => 'done'));
    expect(calls[0]?.told).toEqual([{ attempt: 1, delay: Number.POSITIVE_INFINITY, reason: 'no connection' }]);
  });

  it('spends no token on asking for a server that another call waits for already', async () => {
    const place = new Place();
    const reachability = reachabilityOf(place);
    const first = callOf(failing(gone(), undefined), { budget: empty(), reachability });
    await settle();
    const budget = new Budget({ tokens: 100, ratio: 0 });
    const calls = Array.from({ length: 10 }, () => callOf(failing(gone(), undefined), { budget, reachability }));
    const other = callOf(failing(busy(), undefined), { budget, reachability });
    await vi.advanceTimersByTimeAsync(10_000);
    expect(calls.map(({ flight }) => flight.attempts)).toEqual(calls.map(() => 1));
    // What is no question of reachability is sent again as ever.
    expect(other.result.value).toBe('done');
    place.there = true;
    await vi.advanceTimersByTimeAsync(2000);
    expect([first, ...calls].every(({ result }) => result.value === 'done')).toBe(true);
  });

  it('does not let a call wait beyond its deadline', async () => {
    const { result, flight } = callOf(failing(gone()), { budget: empty(), call: 5000 });
    await vi.advanceTimersByTimeAsync(5000);
    expect(result.error).toMatchObject({ message: 'Request timed out' });
    expect(flight.outcome).toBe('not-sent');
  });
});

describe('news of the server', () => {
  onFakeClock();

  it('wakes at once every call that found nobody there', async () => {
    draw(1);
    const reachability = reachabilityOf(new Place());
    const calls = Array.from({ length: 5 }, () => callOf(failing(gone(), gone(), gone(), gone(), gone(), undefined), { reachability }));
    await vi.advanceTimersByTimeAsync(3000);
    expect(calls.map(({ flight }) => flight.attempts)).toEqual(calls.map(() => 5));
    reachability.up();
    await settle();
    expect(calls.map(({ result }) => result.value)).toEqual(calls.map(() => 'done'));
  });

  it('does not hurry a call that the server failed or put off: it was there all the time', async () => {
    draw(1);
    const reachability = reachabilityOf(new Place());
    const calls = [busy(), cut()].map((error) => callOf(failing(error, undefined), { reachability }));
    await settle();
    reachability.up();
    await vi.advanceTimersByTimeAsync(99);
    expect(calls.map(({ flight }) => flight.attempts)).toEqual([1, 1]);
    await vi.advanceTimersByTimeAsync(1);
    expect(calls.map(({ result }) => result.value)).toEqual(['done', 'done']);
  });
});

/** Every wait that a call may be in, after its first attempt, with what the error of `close()` says of it. */
const WAITS = [
  { wait: 'a backoff', error: gone(), budget: undefined, words: 'waited for another attempt. It was not sent.', outcome: 'not-sent' },
  { wait: 'Retry-After', error: busy(9000), budget: undefined, words: 'waited for another attempt. It was not sent.', outcome: 'not-sent' },
  { wait: 'the backoff of what may have run', error: cut(), budget: undefined, words: 'waited for another attempt. It was sent and may or may not have run.', outcome: 'unknown' },
  { wait: 'news of the server', error: gone(), budget: empty(), words: 'waited for the server to come back. It was not sent.', outcome: 'not-sent' },
] as const;

describe.each(WAITS)('a call that waits for $wait', ({ error, budget, words, outcome }) => {
  onFakeClock();

  const waiting = async (signal?: AbortSignal) => {
    draw(1);
    const place = new Place();
    const reachability = reachabilityOf(place);
    const call = callOf(failing(error), { reachability, ...(budget ? { budget } : {}), ...(signal ? { signal } : {}) });
    await vi.advanceTimersByTimeAsync(50);
    expect([call.flight.attempts, call.told.length]).toEqual([1, 1]);
    return { ...call, place, reachability };
  };

  it('is given up at once with the reason of the caller\'s signal, and asks nobody any more', async () => {
    const caller = new AbortController();
    const { flight, result, place } = await waiting(caller.signal);
    const reason = new Error('no longer wanted');
    caller.abort(reason);
    await settle();
    expect(result.error).toBe(reason);
    expect(flight.outcome).toBe(outcome);
    expect(vi.getTimerCount()).toBe(0);
    await vi.advanceTimersByTimeAsync(60_000);
    expect([flight.attempts, place.pings]).toEqual([1, []]);
  });

  it('G9 fails at once when its client is closed, and says what became of it', async () => {
    const { flight, result, reachability } = await waiting();
    reachability.close();
    flight.close();
    await settle();
    expect(result.error).toMatchObject({ code: 'CLOSED', outcome, message: `The client was closed while ${WHAT} ${words}`, cause: error });
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe('a call that is closed', () => {
  onFakeClock();

  it('during an attempt hears of it from its connection, and is not sent again whatever comes of it', async () => {
    let fail = (_: Error): void => {};
    const { flight, result } = callOf((attempt) => (attempt === 1 ? Promise.reject(gone()) : new Promise((_, reject) => (fail = reject))));
    await vi.advanceTimersByTimeAsync(100);
    flight.close();
    await settle();
    expect([result.at, flight.attempts, flight.waiting, flight.signal.aborted]).toEqual([undefined, 2, undefined, false]);
    fail(gone());
    await vi.advanceTimersByTimeAsync(60_000);
    expect(result.error).toMatchObject({ code: 'CLOSED', outcome: 'not-sent', cause: expect.any(UnreachableError) });
    expect(flight.attempts).toBe(2);
  });

  it('while it waits for its turn says so, and that it was not sent', async () => {
    const gate = new Gate(1);
    gate.tryEnter();
    const flight = new Flight(WHAT);
    const turn = watch(flight.wait('waited for its turn (1 in flight)', (signal) => gate.enter(signal, 1000, WHAT)));
    flight.close();
    await settle();
    expect(turn.error).toMatchObject({ code: 'CLOSED', outcome: 'not-sent', message: `The client was closed while ${WHAT} waited for its turn (1 in flight). It was not sent.` });
    expect(gate.waiting).toBe(0);
  });

  it('before it waits does not begin to', async () => {
    const { flight, result } = callOf(failing(gone()));
    flight.close();
    await settle();
    expect(result.error).toBeInstanceOf(ClosedError);
    expect(flight.attempts).toBeLessThanOrEqual(1);
  });
});
