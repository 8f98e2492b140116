/** Headers to add to every request: an object, or a function that is asked before each one. */
export type HeadersSource = Readonly<Record<string, string>> | (() => Readonly<Record<string, string>> | Promise<Readonly<Record<string, string>>>);

/** Ours, because the protocol depends on them. */
const RESERVED = new Set(['mcp-session-id', 'mcp-protocol-version', 'last-event-id', 'content-type', 'content-length', 'accept', 'host']);

/**
 * The headers for one request. They are looked at each time: a function may say anything, and an object may have been changed.
 *
 * @throws TypeError for a header that is ours to set or that no request can carry
 */
export async function readHeaders(source: HeadersSource | undefined): Promise<Readonly<Record<string, string>>> {
  const headers = typeof source === 'function' ? await source() : (source ?? {});
  for (const [name, content] of Object.entries(headers)) checkHeader(name, content, 'headers');
  return headers;
}

/** Throws a TypeError for a header that is ours to set or that no request can carry. `where` names the option that it stands in. */
export function checkHeader(header: string, content: unknown, where: string): void {
  if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(header)) throw new TypeError(`${where} has a header with an impossible name`);
  if (RESERVED.has(header.toLowerCase())) throw new TypeError(`${where} must not set "${header}": the client sets it itself`);
  // The content may be a secret, so the error does not repeat it (as those of node:http and fetch would).
  if (typeof content !== 'string' || /[^\t\x20-\x7e\x80-\xff]/.test(content)) throw new TypeError(`${where}["${header}"] must be a string that a header can carry`);
}

export function sameHeaders(a: Readonly<Record<string, string>>, b: Readonly<Record<string, string>>): boolean {
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => a[name] === b[name]);
}
