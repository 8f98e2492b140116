/** A session's record counts so many tools, by so much of their names: a server may have any number. */
const MOST_TOOLS = 200;
const LONGEST_NAME = 200;

/** How often each tool was called, by name. A Map, because one may be named `__proto__`. */
export type Counts = ReadonlyMap<string, number>;

/**
 * The calls that are not yet written, by session: of all clients that this process has on it, whatever store each has opened. A hundred
 * that leave together would otherwise write one record a hundred times.
 */
const unwritten = new Map<string, Counts>();

export function addCalls(session: string, calls: Counts): void {
  unwritten.set(session, sumOf(unwritten.get(session) ?? new Map(), calls));
}

/** They are the caller's to write from now on, or to forget. */
export function takeCalls(session: string): Counts {
  const calls = unwritten.get(session) ?? new Map();
  unwritten.delete(session);
  return calls;
}

/** One call of a tool. */
export function callOf(tool: string): Counts {
  return new Map([[tool.slice(0, LONGEST_NAME), 1]]);
}

/** Names beyond the limit are left out. */
export function sumOf(counts: Counts, more: Counts): Counts {
  const sum = new Map(counts);
  for (const [name, count] of more) {
    if (sum.has(name) || sum.size < MOST_TOOLS) sum.set(name, (sum.get(name) ?? 0) + count);
  }
  return sum;
}
