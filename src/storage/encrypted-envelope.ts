import { StoreError } from '../errors.ts';
import { areIterations, type Derivation, fromBase64, type Keyring, subtle, toBase64, utf8 } from './encrypted-keys.ts';

/**
 * How an encrypted value looks in its store: fields with colons between them.
 *
 * ```
 * mcp-reprise:encrypted:1:<id of the key>:<iterations>:<salt>:<nonce>:<AES-256-GCM of the text, with its tag>
 * ```
 *
 * Iterations and salt are empty where the key was not made from a passphrase. All that is before the last field, and the name under
 * which the value is stored, is authenticated with it: an envelope that was moved to another name cannot be opened there.
 *
 * The salt is in every envelope, so that each one can be opened by itself, wherever it was copied to.
 */
const VERSION = 1;
const START = /^mcp-reprise:encrypted:(\d{1,6}):/;
const FIELDS = /^([A-Za-z0-9+/]{12}):(\d*):((?:[A-Za-z0-9+/]{24})?):([A-Za-z0-9+/]{16}):([A-Za-z0-9+/]+={0,2})$/;
const NONCE_BYTES = 12;

/** What an envelope held. */
export interface Opened {
  readonly text: string;
  /** Random, and so the name of this one envelope. */
  readonly nonce: string;
  /** The salt, where it was written with a passphrase. */
  readonly salt: string | undefined;
}

/**
 * Encrypts a text for the place `name`.
 *
 * @param salt - Of the key to write with, where that comes from a passphrase.
 */
export async function seal(keys: Keyring, name: string, text: string, salt: string | undefined): Promise<{ envelope: string; nonce: string }> {
  const { key, derivation } = await keys.first(salt);
  const iv = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
  const nonce = toBase64(iv);
  const head = ['mcp-reprise:encrypted', VERSION, key.id, derivation?.iterations ?? '', derivation?.salt ?? '', nonce].join(':');
  const data = await subtle().encrypt({ name: 'AES-GCM', iv, additionalData: bound(head, name) }, key.cipher, utf8(text));
  return { envelope: `${head}:${toBase64(new Uint8Array(data))}`, nonce };
}

/** @throws {@link StoreError} for whatever is not exactly what {@link seal} made for this name with one of the keys. */
export async function open(keys: Keyring, name: string, envelope: string): Promise<Opened> {
  const { id, derivation, nonce, data, head } = parse(envelope);
  const key = await keys.find(id, derivation);
  if (!key) {
    throw new StoreError('A stored value was encrypted with another key or passphrase.', {
      advice: 'It is left alone: give that key too, after the one to write with, or delete the value.',
    });
  }
  let text: ArrayBuffer;
  try {
    text = await subtle().decrypt({ name: 'AES-GCM', iv: fromBase64(nonce), additionalData: bound(head, name) }, key.cipher, bytesOf(data));
  } catch (cause) {
    throw altered(cause);
  }
  // The text as it was, also where it begins with a byte order mark.
  return { text: new TextDecoder('utf-8', { ignoreBOM: true }).decode(text), nonce, salt: derivation?.salt };
}

/** For a value that is not as it was written. */
export function altered(cause?: unknown): StoreError {
  return new StoreError('An encrypted value is not as it was written: it was changed, cut short, or copied from another key.', {
    cause,
    advice: 'It is left alone: find out who writes into the store, then delete the value.',
  });
}

function parse(envelope: string): { id: string; derivation: Derivation | undefined; nonce: string; data: string; head: string } {
  const [start, version] = START.exec(envelope) ?? [];
  if (start === undefined) {
    throw new StoreError('A stored value is not encrypted: it was written without encryption, or damaged.', {
      advice: 'It is left alone: delete it, or keep encrypted values in a store of their own.',
    });
  }
  if (Number(version) > VERSION) {
    throw new StoreError(`An encrypted value has format ${version}, of a later version of mcp-reprise; it is left alone.`);
  }
  const [, id, iterations, salt, nonce, data] = Number(version) === VERSION ? (FIELDS.exec(envelope.slice(start.length)) ?? []) : [];
  if (id === undefined || salt === undefined || nonce === undefined || data === undefined) throw altered();
  const derivation = salt === '' ? undefined : { salt, iterations: Number(iterations) };
  if (derivation ? !areIterations(derivation.iterations) : iterations !== '') throw altered();
  return { id, derivation, nonce, data, head: envelope.slice(0, -data.length - 1) };
}

/** Throws for a spelling that is not the one that was written: base64 has several for some bytes. */
function bytesOf(data: string): Uint8Array<ArrayBuffer> {
  const bytes = fromBase64(data);
  if (toBase64(bytes) !== data) throw new Error('the encrypted text is not base64 as we write it');
  return bytes;
}

/** What is authenticated beside the text. The name as JSON: plain UTF-8 would make different lone surrogates the same. */
function bound(head: string, name: string): Uint8Array<ArrayBuffer> {
  return utf8(`${head}:${JSON.stringify(name)}`);
}
