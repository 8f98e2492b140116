import { describe, test } from 'vitest';
import { look, slopeLimit } from './leaks.ts';

/**
 * G9: what a call or a client leaves behind, looked for in a process of its own. A share of what `npm run leaks` does, which makes 10,000
 * cycles and 100,000 calls.
 */

describe.concurrent.each([
  { what: 'calls', fetch: false, count: 2_500, warmUp: 1_500 },
  { what: 'calls', fetch: true, count: 1_500, warmUp: 1_500 },
  { what: 'cycles', fetch: false, count: 400, warmUp: 200 },
] as const)('$count $what (by fetch: $fetch)', ({ what, fetch, count, warmUp }) => {
  test('leave nothing behind', { timeout: 1_800_000 }, async ({ expect }) => {
    const { left, wrong, slope, waited, stderr } = await look({ what, fetch, count, warmUp });
    expect({ left, wrong }).toEqual({ left: [], wrong: {} });
    // A store that takes long, on a machine that does, is told as well, and is no leak.
    expect(stderr).not.toMatch(/MaxListenersExceeded|Unhandled/);
    // What fetch itself keeps for a while is much beside so few calls: the command makes enough of them.
    if (!fetch) expect(slope).toBeLessThanOrEqual(slopeLimit({ count, fetch }));
    expect(waited).toBeLessThanOrEqual(100);
  });
});
