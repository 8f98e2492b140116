import { describe, expect, it, vi } from 'vitest';
import { AdaptiveLimit } from '../../src/calls/adaptive-limit.ts';
import { onFakeClock } from './parts.ts';

const BETWEEN = { least: 64, most: 256 };

/** Answers to as many calls as are let in at once, again and again, by a server that takes `latency(in flight)` ms; what limit comes of it. */
function after(rounds: number, latency: (inFlight: number) => number, limit = new AdaptiveLimit(BETWEEN), wanted = true): AdaptiveLimit {
  for (let round = 0; round < rounds; round++) {
    const inFlight = limit.value;
    for (let i = 1; i <= inFlight; i++) limit.answered(latency(i), wanted);
  }
  return limit;
}

/** A long way to a quick server, and the way to one that works on one call after another. */
const far = (): number => 50;
const busy = (inFlight: number): number => 5 * inFlight;

describe('the limit of concurrency', () => {
  onFakeClock();

  it('is what the user says, whatever the latency', () => {
    expect(after(5, far, new AdaptiveLimit(8)).value).toBe(8);
    expect(after(5, busy, new AdaptiveLimit(8)).value).toBe(8);
  });

  it('doubles in each round trip while answers take no longer, up to its ceiling', () => {
    expect(after(1, far).value).toBe(128);
    expect(after(2, far).value).toBe(256);
    expect(after(9, far).value).toBe(256);
  });

  it('stays where it is as long as nobody waits', () => {
    expect(after(5, far, undefined, false).value).toBe(64);
  });

  it('does not grow where calls wait for each other at the server, and falls back to its floor where they begin to', () => {
    // The first two of a round are as quick as the quickest; the others say that it is no use.
    expect(after(5, busy).value).toBe(64);
    const limit = after(9, far);
    after(1, (i) => 50 * i, limit);
    expect(limit.value).toBeLessThan(256);
    expect(after(9, (i) => 50 * i, limit).value).toBe(64);
  });

  it('measures by the quickest answers of late: a way that has become longer counts after some time', () => {
    const limit = new AdaptiveLimit(BETWEEN);
    limit.answered(1, true);
    expect(after(5, far, limit).value).toBe(64);
    vi.advanceTimersByTime(10_000);
    expect(after(5, far, limit).value).toBe(64);
    vi.advanceTimersByTime(10_000);
    expect(after(5, far, limit).value).toBe(256);
  });

  it('forgets what it knew over a long rest', () => {
    const limit = new AdaptiveLimit(BETWEEN);
    limit.answered(1, true);
    vi.advanceTimersByTime(20_000);
    expect(after(2, far, limit).value).toBe(256);
  });
});

describe('the limit of concurrency of a process that is busy itself', () => {
  it('does not grow: more in flight would only wait here', () => {
    const limit = new AdaptiveLimit(BETWEEN);
    limit.pressed();
    for (const until = performance.now() + 50; performance.now() < until; );
    expect(after(5, far, limit).value).toBe(64);
  });
});
