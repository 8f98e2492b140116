/** The few assertions that the contract needs, without any framework's: it runs under all of them, in browsers too. */

export function equal(actual: unknown, expected: unknown, what?: string): void {
  if (!same(actual, expected)) fail(`expected ${show(expected)}, got ${show(actual)}`, what);
}

export function ok(condition: boolean, what: string): asserts condition {
  if (!condition) fail(what);
}

/** Expects a rejection with an error of that class, and returns the error. */
export async function rejects(promise: Promise<unknown>, type: abstract new (...args: never[]) => Error, what?: string): Promise<Error> {
  const outcome = await promise.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  );
  if ('value' in outcome) return fail(`expected a rejection with a ${type.name}, but it resolved to ${show(outcome.value)}`, what);
  if (outcome.error instanceof type) return outcome.error;
  throw new Error(message(`expected a ${type.name}, got ${show(outcome.error)}`, what), { cause: outcome.error });
}

function fail(problem: string, what?: string): never {
  throw new Error(message(problem, what));
}

function message(problem: string, what: string | undefined): string {
  return what === undefined ? problem : `${what}: ${problem}`;
}

/** Deep, for what the contract compares: text, numbers, `undefined`, lists and plain objects. */
function same(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null || Array.isArray(a) !== Array.isArray(b)) return false;
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => Object.hasOwn(b, name) && same(a[name as keyof typeof a], b[name as keyof typeof b]));
}

const LONGEST = 300;

function show(value: unknown): string {
  const text = value instanceof Error ? `${value.name}: ${value.message}` : (JSON.stringify(value) ?? String(value));
  return text.length > LONGEST ? `${text.slice(0, LONGEST)}… (${text.length} characters)` : text;
}
