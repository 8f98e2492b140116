/** The longest that a server can make us wait by `retry:` or `Retry-After` on a stream, in ms. */
const LONGEST_HINT = 300_000;

/** A delay that the server asks for, made sane. */
export function clampHint(delay: number): number {
  return Number.isNaN(delay) ? 0 : Math.min(Math.max(delay, 0), LONGEST_HINT);
}
