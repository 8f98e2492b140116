import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Histogram } from '../../src/calls/histogram.ts';
import { type CallRecord, History } from '../../src/calls/history.ts';
import { CallMetrics } from '../../src/calls/metrics.ts';

const record = (more: Partial<CallRecord> = {}): CallRecord => ({ call: 1, method: 'tools/call', startedAt: 0, duration: 10, attempts: 1, outcome: 'answered', ...more });

describe('the histogram', () => {
  /** From a hundredth of a millisecond to a day, as often short as long. */
  const times = fc.array(fc.double({ min: Math.log(0.01), max: Math.log(86_400_000), noNaN: true }).map(Math.exp), { minLength: 1, maxLength: 200 });

  it('has every quantile within 2 % of the true one', () => {
    fc.assert(
      fc.property(times, fc.oneof(fc.constantFrom(0, 0.5, 0.9, 0.99, 1), fc.double({ min: 0, max: 1, noNaN: true })), (all, q) => {
        const histogram = new Histogram();
        for (const time of all) histogram.add(time);
        const exact = [...all].sort((a, b) => a - b)[Math.max(1, Math.ceil(q * all.length)) - 1] as number;
        expect(Math.abs(histogram.quantile(q) / exact - 1)).toBeLessThanOrEqual(0.02);
        expect(histogram.count).toBe(all.length);
        expect(histogram.max).toBe(Math.max(...all));
      }),
      { numRuns: 500 },
    );
  });

  it('has quantiles that grow, and none above the longest time', () => {
    fc.assert(
      fc.property(times, (all) => {
        const histogram = new Histogram();
        for (const time of all) histogram.add(time);
        const quantiles = [0, 0.25, 0.5, 0.9, 0.99, 1].map((q) => histogram.quantile(q));
        expect(quantiles).toEqual([...quantiles].sort((a, b) => a - b));
        expect(quantiles.at(-1)).toBeLessThanOrEqual(histogram.max);
      }),
    );
  });

  it('is empty at first, and takes no time at all for a short one', () => {
    const histogram = new Histogram();
    expect([histogram.count, histogram.max, histogram.quantile(0.5)]).toEqual([0, 0, 0]);
    histogram.add(0);
    expect([histogram.count, histogram.max, histogram.quantile(0.99)]).toEqual([1, 0, 0]);
    histogram.add(0.005);
    expect(histogram.quantile(1)).toBeLessThanOrEqual(0.01);
  });
});

describe('the history', () => {
  it('keeps the last calls, oldest first, whatever its size', () => {
    fc.assert(
      fc.property(fc.nat(10), fc.nat(40), (size, count) => {
        const history = new History(size);
        const calls = Array.from({ length: count }, (_, i) => i + 1);
        for (const call of calls) history.add(record({ call }));
        expect(history.list().map(({ call }) => call)).toEqual(size === 0 ? [] : calls.slice(-size));
      }),
    );
  });

  it('gives a copy away', () => {
    const history = new History(2);
    history.add(record());
    const list = history.list();
    history.add(record({ call: 2 }));
    (list as CallRecord[]).length = 0;
    expect(history.list()).toHaveLength(2);
  });
});

describe('the metrics of calls', () => {
  const none = { answered: 0, notSent: 0, refused: 0, unknown: 0, errors: 0, shared: 0, cached: 0, pending: 0 };
  const snapshotOf = (records: readonly CallRecord[], pending = 0) => {
    const metrics = new CallMetrics();
    for (const each of records) metrics.add(each);
    return metrics.snapshot(pending);
  };

  it.each<[string, Partial<CallRecord>, Partial<typeof none>, number]>([
    ['a result', {}, { answered: 1 }, 1],
    ['a result that says isError', { isError: true }, { answered: 1, errors: 1 }, 1],
    ['an error of the server', { error: 'MCP error -32603', code: -32603 }, { answered: 1, errors: 1 }, 1],
    ['another caller\'s answer', { shared: true, attempts: 0 }, { answered: 1, shared: 1 }, 0],
    ['a list that is kept', { attempts: 0 }, { answered: 1, cached: 1 }, 0],
    ['not sent', { outcome: 'not-sent', error: 'x', attempts: 0 }, { notSent: 1 }, 0],
    ['refused', { outcome: 'refused', error: 'x' }, { refused: 1 }, 0],
    ['unknown', { outcome: 'unknown', error: 'x' }, { unknown: 1 }, 0],
    ['unknown, as for another caller', { outcome: 'unknown', error: 'x', shared: true, attempts: 0 }, { unknown: 1 }, 0],
  ])('count %s', (_, its, counts, timed) => {
    const { calls, latency } = snapshotOf([record(its)]);
    expect([calls, latency.count]).toEqual([{ ...none, ...counts }, timed]);
  });

  it('count every call once, with those that are not settled', () => {
    const outcomes = fc.constantFrom<CallRecord['outcome']>('answered', 'not-sent', 'refused', 'unknown');
    fc.assert(
      fc.property(fc.array(fc.record({ outcome: outcomes, attempts: fc.nat(3), shared: fc.boolean(), isError: fc.boolean() })), fc.nat(), (all, pending) => {
        const { calls, latency } = snapshotOf(all.map(record), pending);
        expect(calls.answered + calls.notSent + calls.refused + calls.unknown).toBe(all.length);
        expect(calls.pending).toBe(pending);
        for (const part of [calls.errors, calls.shared + calls.cached, latency.count]) expect(part).toBeLessThanOrEqual(calls.answered);
      }),
    );
  });

  it('time the answered calls that went over the wire', () => {
    const { latency } = snapshotOf(Array.from({ length: 1000 }, (_, i) => record({ duration: i + 1 })));
    expect(latency).toMatchObject({ count: 1000, max: 1000 });
    for (const [quantile, exact] of [[latency.p50, 500], [latency.p90, 900], [latency.p99, 990]] as const) expect(Math.abs(quantile / exact - 1)).toBeLessThanOrEqual(0.02);
  });

  it('are a snapshot: what comes later does not change it', () => {
    const metrics = new CallMetrics();
    const before = metrics.snapshot(0);
    metrics.add(record());
    expect(before).toEqual({ calls: none, latency: { count: 0, p50: 0, p90: 0, p99: 0, max: 0 } });
  });
});
