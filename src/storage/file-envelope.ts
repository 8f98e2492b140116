import { createHash } from 'node:crypto';

/**
 * How a record looks in its file: two lines of JSON, a header and the value.
 *
 * ```
 * {"v":1,"key":…,"revision":…,"savedAt":ms,"value":"sha256 of the second line","sum":"sha256 of this line before the sum"}
 * "the value"
 * ```
 *
 * The sum covers the header and, through the digest in it, the value: no flipped bit and no truncation goes unnoticed, and a
 * header can be trusted without reading a long value. The value is JSON too because plain UTF-8 would lose lone surrogates.
 *
 * Later versions must keep `v` and the place and meaning of `sum`: a higher version is believed only where the sum is right, or
 * a flipped bit in the version would pass for a newer record.
 */
export interface Header {
  readonly key: string;
  readonly revision: string;
}

export type Reading<T> =
  | ({ readonly state: 'sound' } & T)
  | { readonly state: 'damaged'; readonly reason: string }
  | { readonly state: 'newer'; readonly version: number };

const VERSION = 1;
const NEWLINE = 0x0a;
/** The length of `,"sum":"…64 hex digits…"}`. */
const SEAL = 74;

/** The name of a key's file. UTF-16, because UTF-8 would give two keys with different lone surrogates the same name. */
export function fileName(key: string): string {
  return createHash('sha256').update(key, 'utf16le').digest('hex');
}

export function packRecord(key: string, value: string, revision: string): Buffer {
  const line = Buffer.from(JSON.stringify(value));
  const header = { v: VERSION, key, revision, savedAt: Date.now(), value: sha256(line) };
  const body = Buffer.from(JSON.stringify(header).slice(0, -1));
  return Buffer.concat([body, seal(body), Buffer.of(NEWLINE), line]);
}

/** Reads a record that should belong to `key`. */
export function unpackRecord(bytes: Buffer, key: string): Reading<{ value: string; revision: string }> {
  const end = bytes.indexOf(NEWLINE);
  const header = readHeaderLine(bytes.subarray(0, Math.max(end, 0)));
  if (header.state !== 'sound') return header;
  if (header.key !== key) return damaged('it belongs to another key');
  const line = bytes.subarray(end + 1);
  if (sha256(line) !== header.digest) return damaged('its value does not match its checksum');
  return { state: 'sound', value: JSON.parse(line.toString()) as string, revision: header.revision };
}

/** Reads the header alone: the bytes of the first line, without its end. */
export function readHeaderLine(line: Buffer): Reading<Header & { digest: string }> {
  const body = line.subarray(0, Math.max(line.length - SEAL, 0));
  if (!line.subarray(body.length).equals(seal(body))) return damaged('its header does not match its checksum');
  const fields = parseObject(`${body.toString()}}`);
  const version = fields?.['v'];
  if (typeof version === 'number' && version > VERSION) return { state: 'newer', version };
  const { key, revision, value: digest } = fields ?? {};
  if (version !== VERSION || typeof key !== 'string' || typeof revision !== 'string' || typeof digest !== 'string') {
    return damaged('its header makes no sense');
  }
  return { state: 'sound', key, revision, digest };
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const parsed: unknown = JSON.parse(text);
    return typeof parsed === 'object' && parsed !== null ? (parsed as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

function seal(body: Buffer): Buffer {
  return Buffer.from(`,"sum":"${sha256(body)}"}`);
}

function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function damaged(reason: string): { state: 'damaged'; reason: string } {
  return { state: 'damaged', reason };
}
