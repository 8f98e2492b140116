import { describe, expect, test } from 'vitest';
import { look } from './leaks.ts';

/**
 * G9: what a call or a client leaves behind, looked for in a process of its own. A share of what `npm run leaks` does, which makes 10,000
 * cycles and 100,000 calls.
 */

/** In bytes. The least leak costs more: an object has 16 at least. */
const PER_CALL = 1;

describe.each([
  { what: 'calls', fetch: false, count: 10_000, warmUp: 4_000 },
  { what: 'calls', fetch: true, count: 3_000, warmUp: 1_500 },
  { what: 'cycles', fetch: false, count: 800, warmUp: 300 },
] as const)('$count $what (by fetch: $fetch)', ({ what, fetch, count, warmUp }) => {
  test('leave nothing behind', { timeout: 1_800_000 }, async () => {
    const { left, wrong, slope, waited, stderr } = await look({ what, fetch, count, warmUp });
    expect({ left, wrong }).toEqual({ left: [], wrong: {} });
    // A store that takes long, on a machine that does, is told as well, and is no leak.
    expect(stderr).not.toMatch(/MaxListenersExceeded|Unhandled/);
    expect(slope).toBeLessThanOrEqual(PER_CALL);
    expect(waited).toBeLessThanOrEqual(100);
  });
});
