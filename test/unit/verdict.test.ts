import { McpError } from '@modelcontextprotocol/sdk/types.js';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { isOfflineError, isRefusal, isSafeMethod, isShared, type Outcome, outcomeOf, type Situation, VERDICTS, verdictOn } from '../../src/calls/verdict.ts';
import * as errors from '../../src/errors.ts';

const OUTCOMES: readonly Outcome[] = ['answered', 'not-sent', 'never', 'busy', 'lost', 'refused', 'unknown', 'ended'];
const REFUSAL_CODES = [-32700, -32600, -32601, -32602];

const time = fc.oneof(fc.constantFrom(0, -1, 1, Number.POSITIVE_INFINITY), fc.double({ min: -1e6, max: 1e9, noNaN: true }));
const situations: fc.Arbitrary<Situation> = fc.record({
  outcome: fc.constantFrom(...OUTCOMES),
  resumable: fc.boolean(),
  safe: fc.boolean(),
  attempt: fc.integer({ min: 1, max: 20 }),
  retries: fc.oneof(fc.nat(20), fc.constant(Number.POSITIVE_INFINITY)),
  wait: time.map((each) => Math.max(0, each)),
  timeLeft: time,
  budget: fc.boolean(),
});

/** Holds for the verdict on every situation. */
function expectAlways(rule: (next: ReturnType<typeof verdictOn>['next'], its: Situation) => boolean): void {
  fc.assert(
    fc.property(situations, (situation) => rule(verdictOn(situation).next, situation)),
    { numRuns: 3000 },
  );
}

const inTime = ({ attempt, retries, wait, timeLeft }: Situation): boolean => attempt <= retries && timeLeft > 0 && wait <= timeLeft;

describe('the verdict table', () => {
  it('has one verdict on every situation, with its reason', () => {
    fc.assert(
      fc.property(situations, (situation) => {
        const verdict = verdictOn(situation);
        expect(VERDICTS.filter((row) => row === verdict)).toHaveLength(1);
        expect(verdict.because).not.toBe('');
        expect(verdictOn({ ...situation })).toBe(verdict);
      }),
    );
  });

  it('says of each row what comes next, and a reason that is no other row\'s', () => {
    for (const { next, because } of VERDICTS) {
      expect(['hand-over', 'resume', 'again', 'park', 'fail']).toContain(next);
      expect(because).toMatch(/\w+ \w+/);
    }
    expect(new Set(VERDICTS.map(({ because }) => because)).size).toBe(VERDICTS.length);
  });

  it('has no row that is never reached', () => {
    const both = [true, false];
    const met = new Set<unknown>();
    for (const outcome of OUTCOMES)
      for (const resumable of both)
        for (const safe of both)
          for (const budget of both)
            for (const timeLeft of [0, 1000])
              for (const retries of [0, 1]) met.add(verdictOn({ outcome, resumable, safe, attempt: 1, retries, wait: 0, timeLeft, budget }));
    expect(VERDICTS.filter((row) => !met.has(row))).toEqual([]);
  });

  it('G1 sends again whatever did not run, and what is safe and may have run, while there is time and budget', () => {
    expectAlways((next, its) => {
      const { outcome, safe, resumable, budget } = its;
      const repeatable = outcome === 'not-sent' || outcome === 'busy' || (outcome === 'unknown' && safe && !resumable);
      return (next === 'again') === (repeatable && budget && inTime(its));
    });
  });

  it('G2 never sends again what is not safe and may have run', () => {
    expectAlways((next, { outcome, safe, resumable }) => outcome !== 'unknown' || safe || next === (resumable ? 'resume' : 'fail'));
  });

  it('sends nothing again without time, retries or budget', () => {
    expectAlways((next, its) => next !== 'again' || (inTime(its) && its.budget));
  });

  it('G5 fails at once where the server asks for more time than there is', () => {
    expectAlways((next, { wait, timeLeft }) => wait <= timeLeft || (next !== 'again' && next !== 'park'));
  });

  it('lets a call wait for news only if it was not sent, has time and retries, and the budget is empty', () => {
    expectAlways((next, its) => (next === 'park') === (its.outcome === 'not-sent' && !its.budget && inTime(its)));
  });

  it('resumes what can be resumed, and nothing else', () => {
    expectAlways((next, { outcome, resumable }) => (next === 'resume') === (outcome === 'unknown' && resumable));
  });

  it('hands over every answer, and nothing else', () => {
    expectAlways((next, { outcome }) => (next === 'hand-over') === (outcome === 'answered'));
  });

  it('fails at once what would be refused again, cannot be sent or was given up', () => {
    expectAlways((next, { outcome }) => !['never', 'refused', 'lost', 'ended'].includes(outcome) || next === 'fail');
  });
});

const sdkError = (code: unknown): Error => Object.assign(new Error(`MCP error ${String(code)}: x`), { code });

/** One of each class, by what its place says. */
const OURS: readonly [errors.RepriseError, Outcome][] = [
  [new errors.UnreachableError('x'), 'not-sent'],
  [new errors.UnreachableError('x', { retryAfter: 1000 }), 'not-sent'],
  [new errors.UnreachableError('x', { permanent: true }), 'never'],
  [new errors.RateLimitedError('x', { outcome: 'refused' }), 'busy'],
  // Our own rateLimit: the time does not suffice, and it would not by trying.
  [new errors.RateLimitedError('x', { outcome: 'not-sent' }), 'ended'],
  [new errors.SessionLostError('x'), 'lost'],
  [new errors.RefusedError('x', { status: 400 }), 'refused'],
  [new errors.OutcomeUnknownError('x'), 'unknown'],
  [new errors.CircuitOpenError('x'), 'ended'],
  [new errors.ClosedError('x', { outcome: 'unknown' }), 'ended'],
  [new errors.DeadlineError('x', { outcome: 'not-sent', timeout: 1 }), 'ended'],
  [new errors.BadServerError('x', { outcome: 'refused' }), 'ended'],
  [new errors.StoreError('x', { outcome: 'not-sent' }), 'ended'],
  [new errors.ConflictError('x'), 'ended'],
];

describe('what became of an attempt', () => {
  it.each(OURS)('is told by the class of the error: %o', (error, outcome) => {
    expect(outcomeOf(error)).toBe(outcome);
    expect(isRefusal(error)).toBe(false);
  });

  it('is known for every class of error that there is', () => {
    const classes = Object.values(errors).filter((each) => typeof each === 'function' && each.prototype instanceof errors.RepriseError);
    expect(new Set(OURS.map(([error]) => error.constructor))).toEqual(new Set(classes));
  });

  it('is never told by the text of an error', () => {
    fc.assert(
      fc.property(fc.constantFrom('-32001', 'Request timed out', 'session not found', 'ECONNREFUSED', 'fetch failed'), fc.string(), (words, more) => {
        expect(outcomeOf(new Error(`${words} ${more}`))).toBe('ended');
        expect(outcomeOf(new errors.OutcomeUnknownError(`${words} ${more}`))).toBe('unknown');
        expect(outcomeOf(new errors.UnreachableError(`${words} ${more}`))).toBe('not-sent');
      }),
    );
  });

  it.each(REFUSAL_CODES)('is refused by the server\'s JSON-RPC error %i', (code) => {
    for (const error of [sdkError(code), new McpError(code, 'x')]) {
      expect(outcomeOf(error)).toBe('refused');
      expect(isRefusal(error)).toBe(true);
    }
  });

  it('is answered by every other error of the server, −32001 among them', () => {
    fc.assert(
      fc.property(fc.oneof(fc.constantFrom(-32001, -32000, -32603, -32002, 0), fc.integer()), (code) => {
        fc.pre(!REFUSAL_CODES.includes(code));
        expect(outcomeOf(sdkError(code))).toBe('answered');
      }),
      { examples: [[-32001]] },
    );
  });

  it('is answered where a schema finds that the answer does not fit', () => {
    expect(outcomeOf(z.string().safeParse(1).error)).toBe('answered');
  });

  it.each([undefined, null, 'not an error', 42, { code: -32601 }, Symbol('x'), sdkError('-32601'), sdkError(undefined)])('G1 is not told by what was thrown here, such as headers(): %o', (thrown) => {
    expect(outcomeOf(thrown)).toBe('ended');
  });
});

describe('a device without a network', () => {
  const offline = Object.assign(new Error('x'), { code: 'ERR_OFFLINE' });

  it('is told by the code of an error, or of what caused it', () => {
    expect(isOfflineError(offline)).toBe(true);
    expect(isOfflineError(new errors.UnreachableError('x', { cause: new Error('y', { cause: offline }) }))).toBe(true);
  });

  it.each([undefined, null, 'ERR_OFFLINE', { code: 'ERR_OFFLINE' }, new Error('ERR_OFFLINE'), new Error('x', { cause: { code: 'ERR_OFFLINE' } }), sdkError('ECONNREFUSED')])('is not told by %o', (error) => {
    expect(isOfflineError(error)).toBe(false);
  });
});

describe('methods', () => {
  const SHARED = ['tools/list', 'resources/list', 'resources/read', 'resources/templates/list', 'prompts/list', 'prompts/get', 'completion/complete', 'tasks/get', 'tasks/list'];
  const SINGLE = ['ping', 'logging/setLevel', 'resources/subscribe', 'resources/unsubscribe', 'initialize', 'tasks/result'];

  it('may be repeated by an allow-list, and nothing else may', () => {
    for (const method of [...SHARED, ...SINGLE]) expect(isSafeMethod(method), method).toBe(true);
    for (const method of ['tools/call', 'tasks/cancel', 'whatever/new', 'Ping', '', '__proto__', 'constructor', 'toString']) expect(isSafeMethod(method), method).toBe(false);
  });

  it('share one answer only where they may be repeated and set nothing', () => {
    for (const method of SHARED) expect(isShared(method), method).toBe(true);
    for (const method of [...SINGLE, 'tools/call', 'tasks/cancel', '', '__proto__']) expect(isShared(method), method).toBe(false);
  });
});
