import { StoreError } from '../errors.ts';
import { ignoringConflict } from './conflict.ts';
import { altered, type Opened, open, seal } from './encrypted-envelope.ts';
import { History, isReplayed, type Mark, type Seen } from './encrypted-history.ts';
import { type EncryptionKey, isPassphrase, Keyring, newSalt } from './encrypted-keys.ts';
import { within } from '../timers.ts';
import { expectRevision, Lifetime, newRevision, requireExpectation, requireString } from './rules.ts';
import type { Lock, LockOptions, Store, StoredValue } from './store.ts';

export interface EncryptedStoreOptions {
  /**
   * Whether the keys of values and locks are hidden too: they name the server, the principal and the session. Default `false`, because
   * keys that can be read can be listed at once, and cleaned up without the encryption key. With `true` an HMAC stands for each; `keys()`
   * works, but reads and decrypts every value, and leaves out what it cannot read. The HMAC is made with the LAST of the encryption
   * keys, which has to be a CryptoKey. Put new ones before it and never leave it out, or nothing is found again.
   */
  readonly hideKeys?: boolean;
}

/** How long a change may take with its turn, in ms. */
const LIMIT = 3_000;

/**
 * Encrypts what another store keeps: AES-256-GCM by WebCrypto, in Node and in browsers.
 *
 * ```ts
 * const store = encryptedStore(fileStore('.sessions'), { passphrase });
 * const key = await crypto.subtle.importKey('raw', thirtyTwoSecretBytes, 'AES-GCM', false, ['encrypt', 'decrypt']);
 * const rotated = encryptedStore(indexedDbStore(), [newKey, key]); // reads with any, writes with the first
 * ```
 *
 * Semantics, revisions and locks are those of the underlying store, which is closed with this one. A value is written with the first key
 * when it is next set, not when it is read. A key is derived from a passphrase when it is first needed, which takes 0.1 to 1 s; all
 * processes agree on one salt, so it is derived once in each. With a CryptoKey there is no such wait.
 *
 * Detected, always: a value that was changed or cut short, by one bit; one that was copied from another key of this store, or from a
 * store with other encryption keys; one that is not encrypted.
 *
 * Detected by an instance that has seen a newer one, or has removed it: an old value that was put back under its own key. Every write is
 * counted and made by compare-and-set on the one before, so there is no false alarm. The 1,000 keys used last are remembered.
 *
 * Not detected: an old value that was put back before this instance saw a newer one, so above all between two processes, and with it a
 * whole store that was put back; a value that somebody removed. Nothing that is kept inside the store could tell.
 *
 * Not hidden: how many values there are, their lengths, the times of writing, and their keys unless `hideKeys` is set.
 *
 * What cannot be read, for one of these reasons or because its encryption key is missing, is never taken for a value: `get` and `set` reject
 * with a {@link StoreError} that says what to do, and leave it as it is; `delete` removes it. A client that meets it goes on
 * with a new session in memory, and one `warning`.
 *
 * Every method rejects with a `TypeError` for a key or value that is not a string, and otherwise as the underlying store does. A `set` without
 * an expected revision reads first what it replaces. The key `mcp-reprise/salt` is taken.
 *
 * @param key - A CryptoKey or a passphrase, or several, newest first. Let no CryptoKey write more than some 4 billion values.
 * @throws TypeError or RangeError for a store, key or option that makes no sense.
 */
export function encryptedStore(store: Store, key: EncryptionKey | readonly EncryptionKey[], options: EncryptedStoreOptions = {}): Store {
  if (typeof (store as Partial<Store> | null)?.get !== 'function') throw new TypeError('An encrypted store needs a store for what it encrypts.');
  const { hideKeys = false, ...others } = options;
  const [stranger] = Object.keys(others);
  if (stranger !== undefined) throw new TypeError(`encryptedStore() has no option "${stranger}"; it knows hideKeys`);
  if (typeof hideKeys !== 'boolean') throw new TypeError('hideKeys must be true or false');
  const keys: readonly EncryptionKey[] = isList(key) ? key : [key];
  const ring = new Keyring(keys);
  const last = keys.at(-1);
  if (hideKeys && last && isPassphrase(last)) {
    // A name must be found without the store's help. With a passphrase it would hang on a salt in the store, and be lost with it.
    throw new TypeError('hideKeys needs a CryptoKey as the last key, because what names are made with must not change.');
  }
  return new EncryptedStore(store, ring, hideKeys);
}

/** Where the salt to write with is found: an envelope like any other, which so tells its salt to who can open it, and to nobody else. */
const SALT_KEY = 'mcp-reprise/salt';
const HIDDEN = 'hidden/';
const MOST_CONFLICTS = 100;

class EncryptedStore implements Store {
  readonly #store: Store;
  readonly #keys: Keyring;
  readonly #hides: boolean;
  readonly #lifetime = new Lifetime();
  readonly #history = new History();
  /** The last change of each key that is not over yet: encryption takes time, and what was set last must win. */
  readonly #turns = new Map<string, Promise<unknown>>();
  #salt: Promise<string> | undefined;

  constructor(store: Store, keys: Keyring, hides: boolean) {
    this.#store = store;
    this.#keys = keys;
    this.#hides = hides;
  }

  async get(key: string): Promise<StoredValue | undefined> {
    requireOurs(key);
    return this.#lifetime.run(async () => {
      const found = await this.#read(key);
      return found && { value: found.value, revision: found.seen.revision };
    });
  }

  async set(key: string, value: string, expected?: string | null): Promise<string> {
    requireOurs(key);
    requireString('value', value);
    requireExpectation(expected);
    return this.#run(key, async () => {
      if (expected === null) return this.#write(key, value, undefined);
      let base = this.#history.recall(key)?.last;
      if (base === undefined || (expected !== undefined && expected !== base.revision)) base = await this.#look(key);
      if (expected !== undefined) {
        expectRevision(base?.revision, expected);
        return this.#write(key, value, base);
      }
      // Whatever is there is to be replaced; but also then by compare-and-set, or the writes could not be counted.
      for (let i = 0; i < MOST_CONFLICTS; i++) {
        const revision = await ignoringConflict(this.#write(key, value, base));
        if (revision !== undefined) return revision;
        base = await this.#look(key);
      }
      throw new StoreError('A stored value changes faster than it can be written.');
    });
  }

  async delete(key: string, expected?: string): Promise<boolean> {
    requireOurs(key);
    requireExpectation(expected);
    return this.#run(key, async () => {
      const before = this.#history.recall(key);
      const removed = await this.#store.delete(await this.#nameOf(key), expected);
      if (removed) this.#history.removed(key, before);
      return removed;
    });
  }

  keys(prefix: string): AsyncIterable<string> {
    requireString('prefix', prefix);
    return this.#hides ? this.#hiddenKeys(prefix) : this.#plainKeys(prefix);
  }

  async *#plainKeys(prefix: string): AsyncGenerator<string> {
    this.#lifetime.check();
    for await (const key of this.#store.keys(prefix)) {
      this.#lifetime.check();
      if (key !== SALT_KEY) yield key;
    }
  }

  async *#hiddenKeys(prefix: string): AsyncGenerator<string> {
    this.#lifetime.check();
    for await (const name of this.#store.keys(HIDDEN)) {
      const key = await this.#lifetime.run(() => this.#keyAt(name));
      this.#lifetime.check();
      if (key?.startsWith(prefix)) yield key;
    }
  }

  async lock(key: string, options: LockOptions): Promise<Lock> {
    requireString('lock key', key);
    this.#lifetime.check();
    return this.#store.lock(await this.#nameOf(key), options);
  }

  async close(): Promise<void> {
    await this.#lifetime.close();
    await this.#store.close();
  }

  /** What is stored, with its place in the history. */
  async #read(key: string): Promise<{ value: string; seen: Seen } | undefined> {
    const before = this.#history.recall(key);
    const name = await this.#nameOf(key);
    const stored = await this.#store.get(name);
    if (!stored) return undefined;
    const { mark, value } = contentOf(await this.#open(name, stored.value));
    if (isReplayed(before, mark)) {
      throw new StoreError('An encrypted value is older than one that was here before: it was put back, or the store was, from a copy.', {
        advice: 'It is left alone: delete it, or begin with a new store object if the copy is what you want.',
      });
    }
    const seen = { ...mark, revision: stored.revision };
    this.#history.saw(key, before, seen);
    return { value, seen };
  }

  async #look(key: string): Promise<Seen | undefined> {
    return (await this.#read(key))?.seen;
  }

  /** Writes after `base`, or where nothing is. */
  async #write(key: string, value: string, base: Seen | undefined): Promise<string> {
    const before = this.#history.recall(key);
    const name = await this.#nameOf(key);
    const { generation = newRevision(), count = 0 } = base ?? {};
    const content: Content = this.#hides ? [generation, count + 1, value, key] : [generation, count + 1, value];
    const { envelope, nonce } = await seal(this.#keys, name, JSON.stringify(content), await this.#saltToWriteWith());
    const revision = await this.#store.set(name, envelope, base?.revision ?? null);
    this.#history.saw(key, before, { generation, count: count + 1, nonce, revision });
    return revision;
  }

  async #open(name: string, envelope: string): Promise<Opened> {
    const opened = await open(this.#keys, name, envelope);
    // What is in use already need not be looked for. Only here: until the envelope is opened, its salt may be anybody's.
    if (opened.salt !== undefined) this.#salt ??= Promise.resolve(opened.salt);
    return opened;
  }

  async #nameOf(key: string): Promise<string> {
    return this.#hides ? HIDDEN + (await this.#keys.name(JSON.stringify(key))) : key;
  }

  /** The key of what is stored under a hidden name, if that is one of ours that can be read. */
  async #keyAt(name: string): Promise<string | undefined> {
    const stored = await this.#store.get(name);
    if (!stored) return undefined;
    try {
      return contentOf(await this.#open(name, stored.value)).key;
    } catch {
      return undefined;
    }
  }

  async #saltToWriteWith(): Promise<string | undefined> {
    if (!this.#keys.needsSalt) return undefined;
    this.#salt ??= this.#agreeOnSalt().catch((error: unknown) => {
      // What failed is tried again the next time.
      this.#salt = undefined;
      throw error;
    });
    return this.#salt;
  }

  /**
   * The salt that all processes write with. Each could take one of its own, since every value tells its salt; but then to read values of a hundred
   * processes, as a listing of sessions does, would take a hundred derivations. So the first one to write puts down its salt by
   * compare-and-set, and of two that start at once both take the winner's. Where that record is gone, was changed, or is of another
   * passphrase, a new one is put there: no value depends on it.
   */
  async #agreeOnSalt(): Promise<string> {
    const fresh = newSalt();
    for (let i = 0; i < MOST_CONFLICTS; i++) {
      const there = await this.#store.get(SALT_KEY);
      const salt = there && (await open(this.#keys, SALT_KEY, there.value).catch(() => undefined))?.salt;
      if (salt !== undefined) return salt;
      const { envelope } = await seal(this.#keys, SALT_KEY, '', fresh);
      if ((await ignoringConflict(this.#store.set(SALT_KEY, envelope, there?.revision ?? null))) !== undefined) return fresh;
    }
    return fresh;
  }

  /** Runs a change of a key after those that were asked for earlier; not at all where they take too long. */
  #run<T>(key: string, work: () => Promise<T>): Promise<T> {
    return this.#lifetime.run(async () => {
      const end = performance.now() + LIMIT;
      const inTime = (): Promise<T> => (performance.now() < end ? work() : Promise.reject(late()));
      const turn = Promise.resolve(this.#turns.get(key)).then(inTime, inTime);
      this.#turns.set(key, turn);
      // The next one waits until this is over, also when nobody waits for this any more.
      const over = (): void => void (this.#turns.get(key) === turn && this.#turns.delete(key));
      turn.then(over, over);
      return within(turn, LIMIT, late);
    });
  }
}

function late(): StoreError {
  return new StoreError(`An encrypted value was not changed within ${LIMIT / 1_000} s. It may have been done all the same: read again to know.`);
}

/** What an envelope holds; the key only where names are hidden. */
type Content = readonly [generation: string, count: number, value: string, key?: string];

function contentOf({ text, nonce }: Opened): { mark: Mark; value: string; key: string | undefined } {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    // Its error is kept from everybody: it repeats a part of the text.
  }
  const [generation, count, value, key]: readonly unknown[] = Array.isArray(content) ? content : [];
  if (typeof generation !== 'string' || typeof count !== 'number' || typeof value !== 'string') throw altered();
  if (key !== undefined && typeof key !== 'string') throw altered();
  return { mark: { generation, count, nonce }, value, key };
}

function requireOurs(key: unknown): asserts key is string {
  requireString('key', key);
  if (key === SALT_KEY) throw new TypeError('This key is taken by the encrypted store itself.');
}

function isList(key: EncryptionKey | readonly EncryptionKey[]): key is readonly EncryptionKey[] {
  return Array.isArray(key);
}
