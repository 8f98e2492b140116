import { open, readdir, readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { StoreError } from '../errors.ts';
import { type Values, withLocks } from './cas-lock.ts';
import { hasCode, RECORD, removeFile, replaceFile, sweepLocks, sweepOrphans } from './file-claim.ts';
import { fileName, packRecord, readHeaderLine, unpackRecord, type Reading } from './file-envelope.ts';
import { expectRevision, Lifetime, newRevision, requireExpectation, requireString } from './rules.ts';
import type { Store, StoredValue } from './store.ts';

export interface FileStoreOptions {
  /** Called once for each damaged file, after it was set aside as `file`. What it throws is ignored. */
  readonly onDamaged?: (info: DamagedFile) => void;
}

export interface DamagedFile {
  /** The key that was asked for. */
  readonly key?: string;
  /** The path under which the damaged file is kept. */
  readonly file: string;
  readonly reason: string;
}

/**
 * A store of one file per key, shared by all the processes of one machine (Node only).
 *
 * The directory is made on the first write, with mode 0700 (its missing parents too); one that exists keeps its mode. Files have
 * mode 0600. A write is flushed to the disk before it resolves, and readers see the old value or the new one, never a part.
 *
 * Compare-and-set holds among processes without relying on clocks: a process that is killed while it writes blocks the others for
 * about a second, and one that is paused and overtaken writes nothing when it wakes up. That rests on `rename` being
 * atomic, which local file systems guarantee; network file systems may not.
 *
 * Locks are kept in files too, in the directory `locks` inside. The holder renews its file three times within its ttl; others look
 * at it, in the end about once a second, and judge by their own clocks whether it is renewed. A released lock's file stays for its
 * fencing number, until nobody has had the lock for 30 days; numbers that start anew start at the time in ms, and so above the old ones.
 *
 * A damaged file (any flipped bit, any truncation) reads as absent, is renamed to `<name>.damaged-<time in ms>` and told to
 * `onDamaged`. `keys` looks at headers only: it skips damaged ones, and still yields a key of which only the value is damaged.
 *
 * Every method rejects with a `TypeError` for a key or value that is not a string, and with a {@link StoreError} when the file
 * system fails (the reason is its `cause`), after `close()`, when others keep a value for 3 s, and for a record
 * that a later version of this library wrote, which is left alone.
 *
 * @param directory - Where the files are; a relative path is taken from the working directory of now.
 * @throws TypeError when `directory` is not a string or is empty.
 */
export function fileStore(directory: string, options: FileStoreOptions = {}): Store {
  if (typeof directory !== 'string' || directory === '') throw new TypeError('A file store needs the path of a directory.');
  const path = resolve(directory);
  const locks = join(path, LOCKS);
  return withLocks(new Files(path, options.onDamaged), new Files(locks, options.onDamaged, () => sweepLocks(locks)));
}

/** The directory of the locks' records, inside the store's own: no file of a value has this name. */
const LOCKS = 'locks';

type Found = Reading<StoredValue> | { readonly state: 'absent' };

class Files implements Values {
  readonly #directory: string;
  readonly #onDamaged: FileStoreOptions['onDamaged'];
  readonly #lifetime = new Lifetime();
  /** The last change of each file that is not over yet: our own changes take turns, only other processes are waited for. */
  readonly #turns = new Map<string, Promise<unknown>>();
  readonly #sweep: () => Promise<void>;
  #swept = false;

  /** @param sweep - What is to be cleaned up on first use, besides what dead writers left behind. */
  constructor(directory: string, onDamaged: FileStoreOptions['onDamaged'], sweep = async (): Promise<void> => undefined) {
    this.#directory = directory;
    this.#onDamaged = onDamaged;
    this.#sweep = () => sweepOrphans(directory).then(sweep);
  }

  async get(key: string): Promise<StoredValue | undefined> {
    requireString('key', key);
    return this.#run('read', () => this.#current(key));
  }

  async set(key: string, value: string, expected?: string | null): Promise<string> {
    requireString('key', key);
    requireString('value', value);
    requireExpectation(expected);
    return this.#run('write', () =>
      this.#inTurn(key, async () => {
        const revision = newRevision();
        // Looked at even if it does not matter for `expected`: a damaged or newer record is never overwritten.
        const ready = this.#current(key);
        let check;
        if (expected !== undefined) {
          // Before any writing, so that a lost compare-and-set costs a read only; and again when nobody else can write.
          expectRevision((await ready)?.revision, expected);
          check = async () => expectRevision((await this.#sound(key))?.revision, expected);
        }
        await replaceFile(this.#directory, fileName(key), packRecord(key, value, revision), { ready, check });
        return revision;
      }),
    );
  }

  async delete(key: string, expected?: string): Promise<boolean> {
    requireString('key', key);
    requireExpectation(expected);
    return this.#run('delete', () =>
      this.#inTurn(key, async () => {
        const before = await this.#current(key);
        expectRevision(before?.revision, expected);
        if (before === undefined) return false;
        return removeFile(this.#directory, fileName(key), async () => {
          const now = await this.#sound(key);
          expectRevision(now?.revision, expected);
          return now !== undefined;
        });
      }),
    );
  }

  keys(prefix: string): AsyncIterable<string> {
    requireString('prefix', prefix);
    return this.#keys(prefix);
  }

  async *#keys(prefix: string): AsyncGenerator<string> {
    const names = await this.#run('list', () => readdir(this.#directory).catch(absent));
    for (const name of names ?? []) {
      if (!RECORD.test(name)) continue;
      const key = await this.#run('list', () => this.#keyIn(name));
      if (key?.startsWith(prefix)) yield key;
    }
  }

  async close(): Promise<void> {
    await this.#lifetime.close();
  }

  /** The key that a file's header names, if the header is sound and the file has the name of that key. */
  async #keyIn(name: string): Promise<string | undefined> {
    const line = await firstLine(join(this.#directory, name)).catch(absent);
    if (line === undefined) return undefined;
    const header = readHeaderLine(line);
    return header.state === 'sound' && fileName(header.key) === name ? header.key : undefined;
  }

  /** The value that is there. A damaged file is set aside first. */
  async #current(key: string): Promise<StoredValue | undefined> {
    for (;;) {
      const found = await this.#find(key);
      if (found.state !== 'damaged') return valueOf(found);
      await this.#setAside(key, found.reason);
    }
  }

  /** The value that is there, for looking again while the file is claimed. */
  async #sound(key: string): Promise<StoredValue | undefined> {
    return valueOf(await this.#find(key));
  }

  async #find(key: string): Promise<Found> {
    const bytes = await readFile(join(this.#directory, fileName(key))).catch(absent);
    return bytes === undefined ? { state: 'absent' } : unpackRecord(bytes, key);
  }

  async #setAside(key: string, reason: string): Promise<void> {
    const name = fileName(key);
    const aside = `${name}.damaged-${Date.now()}`;
    // Under a claim, and looked at again: what another process has written meanwhile must not be moved away.
    const moved = await removeFile(this.#directory, name, async () => (await this.#find(key)).state === 'damaged', aside);
    if (moved) tell(this.#onDamaged, { key, file: join(this.#directory, aside), reason });
  }

  /** Runs `work` after the changes of this key that were asked for earlier. */
  async #inTurn<T>(key: string, work: () => Promise<T>): Promise<T> {
    const turn = Promise.resolve(this.#turns.get(key)).then(work, work);
    this.#turns.set(key, turn);
    try {
      return await turn;
    } finally {
      if (this.#turns.get(key) === turn) this.#turns.delete(key);
    }
  }

  async #run<T>(verb: string, work: () => Promise<T>): Promise<T> {
    return this.#lifetime.run(async () => {
      if (!this.#swept) {
        this.#swept = true;
        // Beside the work, not before it; but within the lifetime, so that close() waits for it.
        void this.#lifetime.run(this.#sweep);
      }
      try {
        return await work();
      } catch (error) {
        if (error instanceof StoreError) throw error;
        throw new StoreError(`The file store could not ${verb} in ${this.#directory}.`, { cause: error });
      }
    });
  }
}

function valueOf(found: Found): StoredValue | undefined {
  if (found.state === 'newer') {
    throw new StoreError(`A stored value has format ${found.version}, of a later version of mcp-reprise; it is left alone.`);
  }
  return found.state === 'sound' ? { value: found.value, revision: found.revision } : undefined;
}

/** For `catch`: what does not exist is absent, every other error stays one. */
function absent(error: unknown): undefined {
  if (!hasCode(error, 'ENOENT')) throw error;
}

async function firstLine(path: string): Promise<Buffer> {
  const file = await open(path, 'r');
  try {
    let line = Buffer.alloc(0);
    for (;;) {
      const { bytesRead, buffer } = await file.read(Buffer.alloc(4_096), 0, 4_096);
      const chunk = buffer.subarray(0, bytesRead);
      const end = chunk.indexOf('\n');
      line = Buffer.concat([line, end < 0 ? chunk : chunk.subarray(0, end)]);
      if (end >= 0 || bytesRead === 0) return line;
    }
  } finally {
    await file.close();
  }
}

/** A listener must not be able to break the store: neither by throwing nor by rejecting. */
function tell(listener: FileStoreOptions['onDamaged'], info: DamagedFile): void {
  try {
    void Promise.resolve(listener?.(info)).catch(() => undefined);
  } catch {
    // Its own affair.
  }
}
