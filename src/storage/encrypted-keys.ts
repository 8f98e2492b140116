import { StoreError } from '../errors.ts';

/** A passphrase that an AES key is derived from, by PBKDF2-SHA-256. */
export interface Passphrase {
  /** Any length; how hard it is to guess is up to you. Normalized (NFC), so that it does not matter which keyboard it comes from. */
  readonly passphrase: string;
  /** Rounds of PBKDF2, from 100,000 to 10,000,000. Default 600,000. It may be changed: a value tells with how many it was written. */
  readonly iterations?: number;
}

/** An AES-GCM key of 256 bits with the usages `encrypt` and `decrypt`, or a passphrase. */
export type EncryptionKey = CryptoKey | Passphrase;

/** How a key came from a passphrase. Public, and kept with what the key has encrypted. */
export interface Derivation {
  readonly salt: string;
  readonly iterations: number;
}

/** A key, ready for use. */
export interface ReadyKey {
  readonly cipher: CryptoKey;
  /** Tells keys apart and nothing else: it cannot be computed, nor a guess be tried on it, without the key. */
  readonly id: string;
  /** Makes names: the same for the same text, and only for who has the key. */
  name(text: string): Promise<string>;
}

/** One of the keys that were given. */
interface Source {
  /** For a passphrase: the rounds to write with. */
  readonly iterations?: number;
  /** The key, if one of this kind can come about that way. */
  ready(derivation: Derivation | undefined): Promise<ReadyKey> | undefined;
}

const DEFAULT_ITERATIONS = 600_000;
/** Of what a value says too: whoever can write into the store must not be able to keep us busy for minutes. */
const LEAST_ITERATIONS = 100_000;
const MOST_ITERATIONS = 10_000_000;
/** Derived keys that are kept at the most, for each passphrase: one for each salt. */
const MOST_DERIVED = 100;
/** Of what is random or a hash, so many bytes become base64 without padding. */
const SALT_BYTES = 18;
const ID_BYTES = 9;
/** The nonce of the one block that a key's id and names come from. It is never given out, and no value has this nonce: theirs are random. */
const OWN_NONCE = 'mcp-reprise:';

/** The keys of a store: the first one writes, all of them read. Nothing is derived before it is needed, and nothing twice. */
export class Keyring {
  readonly #sources: readonly Source[];

  /** @throws TypeError or RangeError for keys that make no sense. */
  constructor(keys: readonly EncryptionKey[]) {
    if (keys.length === 0) throw new TypeError('An encrypted store needs a key: a CryptoKey, or { passphrase }.');
    this.#sources = keys.map(sourceOf);
  }

  /** Whether the key to write with comes from a passphrase, and so needs a salt. */
  get needsSalt(): boolean {
    return this.#sources[0]?.iterations !== undefined;
  }

  /** The key to write with. */
  async first(salt: string | undefined): Promise<{ key: ReadyKey; derivation: Derivation | undefined }> {
    const [source] = this.#sources as [Source];
    const derivation = source.iterations === undefined || salt === undefined ? undefined : { salt, iterations: source.iterations };
    const key = await source.ready(derivation);
    if (!key) throw new Error('a passphrase needs a salt');
    return { key, derivation };
  }

  /** The key with this id, if it is among them. */
  async find(id: string, derivation: Derivation | undefined): Promise<ReadyKey | undefined> {
    for (const source of this.#sources) {
      const key = await source.ready(derivation);
      if (key?.id === id) return key;
    }
    return undefined;
  }

  /**
   * The name that stands for a text. By the LAST key, which stays when new ones come before it: a name has to be found again.
   *
   * @throws TypeError when that is a passphrase.
   */
  async name(text: string): Promise<string> {
    const key = await this.#sources.at(-1)?.ready(undefined);
    if (!key) throw new TypeError('a passphrase cannot make names');
    return key.name(text);
  }
}

/** Whether the number of rounds is one that we work with. */
export function areIterations(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= LEAST_ITERATIONS && (value as number) <= MOST_ITERATIONS;
}

export function newSalt(): string {
  return toBase64(crypto.getRandomValues(new Uint8Array(SALT_BYTES)));
}

export function isPassphrase(key: EncryptionKey): key is Passphrase {
  return typeof key === 'object' && key !== null && 'passphrase' in key;
}

function sourceOf(key: EncryptionKey): Source {
  return isPassphrase(key) ? passphraseSource(key) : givenSource(key);
}

function givenSource(key: CryptoKey): Source {
  // By its tag: it may be from another realm, such as a frame or a test environment.
  if (Object.prototype.toString.call(key) !== '[object CryptoKey]') {
    throw new TypeError('A key of an encrypted store must be a CryptoKey, or { passphrase }.');
  }
  const { name, length } = key.algorithm as AesKeyAlgorithm;
  if (name !== 'AES-GCM' || length !== 256) {
    const given = length === undefined ? name : `${name} with ${length}`;
    throw new TypeError(`The CryptoKey of an encrypted store must be for AES-GCM with 256 bits, not for ${given}.`);
  }
  if (!key.usages.includes('encrypt') || !key.usages.includes('decrypt')) {
    throw new TypeError(`The CryptoKey of an encrypted store must have the usages 'encrypt' and 'decrypt'; it has ${key.usages.join(', ') || 'none'}.`);
  }
  let ready: Promise<ReadyKey> | undefined;
  return { ready: (derivation) => (derivation ? undefined : (ready ??= prepare(key))) };
}

function passphraseSource({ passphrase, iterations = DEFAULT_ITERATIONS, ...others }: Passphrase): Source {
  const [stranger] = Object.keys(others);
  if (stranger !== undefined) throw new TypeError(`A passphrase of an encrypted store has no "${stranger}"; it knows passphrase, iterations.`);
  if (typeof passphrase !== 'string' || passphrase === '' || /[\ud800-\udfff]/u.test(passphrase)) {
    throw new TypeError('The passphrase of an encrypted store must be a string of well-formed characters, and not empty.');
  }
  if (typeof iterations !== 'number') throw new TypeError('The iterations of a passphrase must be a number.');
  if (!areIterations(iterations)) {
    throw new RangeError(`The iterations of a passphrase must be a whole number from ${LEAST_ITERATIONS} to ${MOST_ITERATIONS}, not ${iterations}.`);
  }
  const secret = new TextEncoder().encode(passphrase.normalize('NFC'));
  // By salt and rounds, the one used last at the end.
  const derived = new Map<string, Promise<ReadyKey>>();
  return {
    iterations,
    ready: (derivation) => {
      if (!derivation) return undefined;
      const place = `${derivation.iterations}:${derivation.salt}`;
      const key = derived.get(place) ?? derive(secret, derivation).then(prepare);
      derived.delete(place);
      derived.set(place, key);
      if (derived.size > MOST_DERIVED) derived.delete(derived.keys().next().value as string);
      key.catch(() => derived.delete(place));
      return key;
    },
  };
}

async function derive(secret: Uint8Array<ArrayBuffer>, { salt, iterations }: Derivation): Promise<CryptoKey> {
  const base = await subtle().importKey('raw', secret, 'PBKDF2', false, ['deriveKey']);
  const how = { name: 'PBKDF2', hash: 'SHA-256', salt: fromBase64(salt), iterations };
  return subtle().deriveKey(how, base, { name: 'AES-GCM', length: 256 }, false, ['encrypt', 'decrypt']);
}

async function prepare(cipher: CryptoKey): Promise<ReadyKey> {
  // What a block of zeros becomes is as secret as the key, and is to be had of a key that cannot be exported.
  const secret = await subtle().encrypt({ name: 'AES-GCM', iv: utf8(OWN_NONCE) }, cipher, new Uint8Array(32));
  const mac = await subtle().importKey('raw', secret.slice(0, 32), { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
  const sign = async (text: string): Promise<Uint8Array<ArrayBuffer>> => new Uint8Array(await subtle().sign('HMAC', mac, utf8(text)));
  return {
    cipher,
    id: toBase64((await sign('id')).subarray(0, ID_BYTES)),
    name: async (text) => toBase64(await sign(`name:${text}`)),
  };
}

/** @throws {@link StoreError} where there is no WebCrypto. */
export function subtle(): SubtleCrypto {
  // Missing in insecure contexts, whatever the types say.
  const found = globalThis.crypto?.subtle as SubtleCrypto | undefined;
  if (!found) throw new StoreError('There is no WebCrypto here.', { advice: 'A page has it only when it comes by https or from localhost.' });
  return found;
}

export function utf8(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

export function toBase64(bytes: Uint8Array): string {
  // In pieces: a function takes only so many arguments.
  const PIECE = 0x8000;
  let binary = '';
  for (let at = 0; at < bytes.length; at += PIECE) binary += String.fromCharCode(...bytes.subarray(at, at + PIECE));
  return btoa(binary);
}

/** Throws for what is no base64. */
export function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at);
  return bytes;
}
