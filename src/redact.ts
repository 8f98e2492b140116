/** What is shorter than this is no secret, and taking it out would garble the text. */
const SHORTEST = 6;
/** What of an error is looked through at the most: values, and how deep they lie. */
const MOST_VALUES = 2_000;
const DEEPEST = 8;

/** A text without what is secret, in whatever form it is likely to be repeated: as it is, escaped in JSON, in a URL or in HTML; in whatever case. */
export function redacted(text: string, secrets: readonly string[]): string {
  const forms = patternOf(secrets);
  return forms ? text.replace(forms, '<secret>') : text;
}

/**
 * An error without what is secret. The same object where it has nothing of that; otherwise a copy of what explains it (its kind, message,
 * stack, code and causes): errors of other people's code may carry the whole request, its headers and its body.
 */
export function redactedError(error: Error, secrets: readonly string[]): Error {
  const forms = patternOf(secrets);
  if (!forms || !reveals(error, forms, { left: MOST_VALUES, seen: new Set() }, 0)) return error;
  return copyOf(error, secrets, 0);
}

/** The same of plain data, such as what a server says in an error. */
export function redactedData<T>(data: T, secrets: readonly string[]): T {
  const walk = (value: unknown): unknown => {
    if (typeof value === 'string') return redacted(value, secrets);
    if (Array.isArray(value)) return value.map(walk);
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [redacted(name, secrets), walk(each)]));
  };
  return walk(data) as T;
}

/** All that is text in plain data. */
export function textsIn(data: unknown): string[] {
  if (typeof data === 'string') return [data];
  return typeof data === 'object' && data !== null ? Object.values(data).flatMap(textsIn) : [];
}

/** The parts of headers' values that are secret: of "Bearer <token>" a server may repeat the token alone. */
export function secretsIn(headers: Readonly<Record<string, string>>): string[] {
  return Object.values(headers).flatMap((value) => [value, ...value.split(' '), ...credentialsIn(value)]);
}

/** What the query of a URL may hold: keys and tokens, as they stand there and decoded. */
export function secretsOf({ search, searchParams }: URL): string[] {
  const query = search.slice(1);
  return query === '' ? [] : [query, ...searchParams.values(), ...query.split('&').map((each) => each.slice(each.indexOf('=') + 1))];
}

/** Of HTTP's Basic authentication: the password, and the user's name with it. */
function credentialsIn(header: string): string[] {
  const encoded = /^basic ([a-z0-9+/]+=*)$/i.exec(header)?.[1];
  if (encoded === undefined) return [];
  try {
    const credentials = atob(encoded);
    return [credentials, credentials.slice(credentials.indexOf(':') + 1)];
  } catch {
    return [];
  }
}

/** Longest first: one may be a part of another. */
function patternOf(secrets: readonly string[]): RegExp | undefined {
  const forms = new Set<string>();
  for (const secret of secrets) {
    if (secret.length < SHORTEST) continue;
    const json = JSON.stringify(secret).slice(1, -1);
    const html = secret.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
    const url = encodeURIComponent(secret.replace(/\p{Surrogate}/gu, ''));
    for (const form of [secret, json, json.replaceAll('/', '\\/'), url, encodeURI(decodeURIComponent(url)), html]) forms.add(form);
  }
  if (forms.size === 0) return undefined;
  const longestFirst = [...forms].sort((a, b) => b.length - a.length);
  return new RegExp(longestFirst.map((form) => form.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')).join('|'), 'gi');
}

function reveals(value: unknown, forms: RegExp, budget: { left: number; readonly seen: Set<unknown> }, depth: number): boolean {
  if (typeof value === 'string') return value.search(forms) >= 0;
  if (typeof value !== 'object' || value === null || budget.seen.has(value)) return false;
  budget.seen.add(value);
  const isError = value instanceof Error;
  // What is too large to be looked through, or cannot be (bytes, a request with its headers), counts as one that does.
  if (depth > DEEPEST || budget.left <= 0 || !(isError || isPlain(value))) return true;
  const names = isError ? Object.getOwnPropertyNames(value) : Object.keys(value);
  budget.left -= names.length;
  return names.some((name) => reveals(name, forms, budget, depth) || reveals(read(value, name), forms, budget, depth + 1));
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return Array.isArray(value) || prototype === null || Object.getPrototypeOf(prototype as object) === null;
}

function copyOf(error: Error, secrets: readonly string[], depth: number): Error {
  const { cause } = error;
  const copy = new Error(redacted(String(error.message), secrets));
  copy.name = redacted(String(error.name), secrets);
  if (typeof error.stack === 'string') copy.stack = redacted(error.stack, secrets);
  const more: Record<string, unknown> = {};
  for (const name of ['code', 'errno', 'syscall', 'status', 'outcome'] as const) {
    const value = read(error, name);
    if (typeof value === 'number' || typeof value === 'boolean') more[name] = value;
    else if (typeof value === 'string') more[name] = redacted(value, secrets);
  }
  if (cause instanceof Error && depth < DEEPEST) more['cause'] = copyOf(cause, secrets, depth + 1);
  return Object.assign(copy, more);
}

/** A property of an object that is not ours: asking for it may throw. */
function read(value: object, name: string): unknown {
  try {
    return (value as Record<string, unknown>)[name];
  } catch {
    return undefined;
  }
}
