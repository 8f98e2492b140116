import { open, readdir, readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { StoreError } from '../errors.ts';
import { within } from '../timers.ts';
import { type Values, withLocks } from './cas-lock.ts';
import { hasCode, LIMIT, RECORD, removeFile, replaceFile, requireTime } from './file-claim.ts';
import { fileName, packRecord, readHeaderLine, unpackRecord, type Reading } from './file-envelope.ts';
import { Sweep, sweepLocks, sweepOrphans } from './file-sweep.ts';
import { expectRevision, Lifetime, newRevision, requireExpectation, requireString } from './rules.ts';
import type { Store, StoredValue } from './store.ts';

export interface FileStoreOptions {
  /**
   * Called once for each damaged file, after it was set aside as `file`, and for each that could not be read when the keys were listed,
   * which stays where it is. What it throws is ignored. Default: a warning of the process (`process.emitWarning`) with the code
   * `MCP_REPRISE_DAMAGED`, which names the file and the reason, and nothing that was stored. `() => {}` keeps quiet.
   */
  readonly onDamaged?: ((info: DamagedFile) => void) | undefined;
}

export interface DamagedFile {
  /** The key that was asked for. Not known where the keys were listed. */
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
 * `onDamaged`. `keys` looks at headers only: it skips damaged ones, and still yields a key of which only the value is damaged. A
 * file that it cannot read is told and skipped too, unless it can read none.
 *
 * Every operation ends within 3 s, also where the file system hangs or others keep the value, and `close()` does. A change that
 * failed because the file system did not answer may have been done all the same: read again to know.
 *
 * Every method rejects with a `TypeError` for a key or value that is not a string, and with a {@link StoreError} when the file
 * system fails or does not answer (the reason is its `cause`), after `close()`, when others keep a value for too long, and for a
 * record that a later version of this library wrote, which is left alone.
 *
 * @param directory - Where the files are; a relative path is taken from the working directory of now.
 * @throws TypeError when `directory` is not a string or is empty, or for an option that makes no sense.
 */
export function fileStore(directory: string, options: FileStoreOptions = {}): Store {
  if (typeof directory !== 'string' || directory === '') throw new TypeError('A file store needs the path of a directory.');
  const { onDamaged = warn, ...others } = options;
  const [stranger] = Object.keys(others);
  if (stranger !== undefined) throw new TypeError(`fileStore() has no option "${stranger}"; it knows onDamaged`);
  if (typeof onDamaged !== 'function') throw new TypeError('onDamaged must be a function');
  const path = resolve(directory);
  const locks = join(path, LOCKS);
  const sweep = new Sweep((signal) => sweepOrphans(path, signal));
  const lockSweep = new Sweep((signal) => sweepOrphans(locks, signal).then(() => sweepLocks(locks, signal)));
  const store = withLocks(new Files(path, onDamaged, sweep), new Files(locks, onDamaged, lockSweep));
  return {
    ...store,
    async close() {
      // Beside each other: none of them takes longer than 3 s.
      await Promise.all([store.close(), sweep.close(), lockSweep.close()]);
    },
  };
}

/** What fails for a lack that no single file is the reason of. */
const SHORTAGES: ReadonlySet<string> = new Set(['EMFILE', 'ENFILE', 'ENOMEM']);

/** The directory of the locks' records, inside the store's own: no file of a value has this name. */
const LOCKS = 'locks';

type OnDamaged = (info: DamagedFile) => void;

type Found = Reading<StoredValue> | { readonly state: 'absent' };

class Files implements Values {
  readonly #directory: string;
  readonly #onDamaged: OnDamaged;
  readonly #lifetime = new Lifetime();
  /** The last change of each file that is not over yet: our own changes take turns, only other processes are waited for. */
  readonly #turns = new Map<string, Promise<unknown>>();
  /** The names of files that a listing could not read, and that were told. */
  readonly #unreadable = new Set<string>();
  readonly #sweep: Sweep;

  constructor(directory: string, onDamaged: OnDamaged, sweep: Sweep) {
    this.#directory = directory;
    this.#onDamaged = onDamaged;
    this.#sweep = sweep;
  }

  async get(key: string): Promise<StoredValue | undefined> {
    requireString('key', key);
    return this.#run('read', (end) => this.#current(key, end));
  }

  async set(key: string, value: string, expected?: string | null): Promise<string> {
    requireString('key', key);
    requireString('value', value);
    requireExpectation(expected);
    return this.#change('write', key, async (end) => {
      const revision = newRevision();
      // Looked at even if it does not matter for `expected`: a damaged or newer record is never overwritten.
      const ready = this.#current(key, end);
      let check;
      if (expected !== undefined) {
        // Before any writing, so that a lost compare-and-set costs a read only; and again when nobody else can write.
        expectRevision((await ready)?.revision, expected);
        check = async () => expectRevision((await this.#sound(key))?.revision, expected);
      }
      await replaceFile(this.#directory, fileName(key), packRecord(key, value, revision), { end, ready, check });
      return revision;
    });
  }

  async delete(key: string, expected?: string): Promise<boolean> {
    requireString('key', key);
    requireExpectation(expected);
    return this.#change('delete', key, async (end) => {
      const before = await this.#current(key, end);
      expectRevision(before?.revision, expected);
      if (before === undefined) return false;
      const check = async (): Promise<boolean> => {
        const now = await this.#sound(key);
        expectRevision(now?.revision, expected);
        return now !== undefined;
      };
      return removeFile(this.#directory, fileName(key), { end, check });
    });
  }

  keys(prefix: string): AsyncIterable<string> {
    requireString('prefix', prefix);
    return this.#keys(prefix);
  }

  async *#keys(prefix: string): AsyncGenerator<string> {
    const names = await this.#run('list', () => readdir(this.#directory).catch(absent));
    let failure: unknown;
    let isReadable = false;
    for (const name of names ?? []) {
      if (!RECORD.test(name)) continue;
      let key: string | undefined;
      try {
        key = await this.#run('list', () => this.#keyIn(name));
        isReadable = true;
      } catch (error) {
        const code = codeOf((error as StoreError).cause);
        // Closed, hung, or short of what every file needs: then it is not this file.
        if (code === undefined || SHORTAGES.has(code)) throw error;
        this.#tellUnreadable(name, code);
        // A directory in the place of a record says nothing about the others.
        if (code !== 'EISDIR') failure ??= error;
      }
      if (key?.startsWith(prefix)) yield key;
    }
    // An empty list would be another answer.
    if (failure !== undefined && !isReadable) throw failure;
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
  async #current(key: string, end: number): Promise<StoredValue | undefined> {
    for (;;) {
      const found = await this.#find(key);
      if (found.state !== 'damaged') return valueOf(found);
      await this.#setAside(key, found.reason, end);
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

  async #setAside(key: string, reason: string, end: number): Promise<void> {
    const name = fileName(key);
    const aside = `${name}.damaged-${Date.now()}`;
    // Under a claim, and looked at again: what another process has written meanwhile must not be moved away.
    const check = async (): Promise<boolean> => (await this.#find(key)).state === 'damaged';
    const moved = await removeFile(this.#directory, name, { end, check, aside });
    if (moved) tell(this.#onDamaged, { key, file: join(this.#directory, aside), reason });
  }

  #tellUnreadable(name: string, code: string): void {
    if (this.#unreadable.has(name)) return;
    this.#unreadable.add(name);
    tell(this.#onDamaged, { file: join(this.#directory, name), reason: `it cannot be read: ${code}` });
  }

  /** Runs `work` after the changes of this key that were asked for earlier, whose time ends earlier too. */
  async #change<T>(verb: string, key: string, work: (end: number) => Promise<T>): Promise<T> {
    const before = this.#turns.get(key);
    const inTurn = async (end: number): Promise<T> => {
      await before?.catch(() => undefined);
      requireTime(end);
      return work(end);
    };
    const turn = this.#run(verb, inTurn, 'It may have been done all the same: read again to know.');
    this.#turns.set(key, turn);
    try {
      return await turn;
    } finally {
      if (this.#turns.get(key) === turn) this.#turns.delete(key);
    }
  }

  /**
   * Runs an operation, which knows when its time is over. What it still does then is nobody's.
   *
   * @param ifLate - What to add to its error where the file system did not answer.
   */
  async #run<T>(verb: string, work: (end: number) => Promise<T>, ifLate?: string): Promise<T> {
    return this.#lifetime.run(async () => {
      this.#sweep.used();
      const working = work(performance.now() + LIMIT).catch((error: unknown) => {
        if (error instanceof StoreError) throw error;
        throw new StoreError(`The file store could not ${verb} in ${this.#directory}.`, { cause: error });
      });
      return within(working, LIMIT, () => new StoreError(`The file store could not ${verb} in ${this.#directory} within ${LIMIT / 1_000} s.`, { advice: ifLate }));
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

/** The code of a file system's error. */
function codeOf(error: unknown): string | undefined {
  const { code } = (error ?? {}) as { readonly code?: unknown };
  return typeof code === 'string' ? code : undefined;
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
function tell(listener: OnDamaged, info: DamagedFile): void {
  try {
    void Promise.resolve(listener(info)).catch(() => undefined);
  } catch {
    // Its own affair.
  }
}

/** Says no key, for a key holds a principal, and warnings end up in logs. */
function warn({ file, reason }: DamagedFile): void {
  process.emitWarning(`A damaged file of stored data is left out: ${file} (${reason}).`, { type: 'McpRepriseWarning', code: 'MCP_REPRISE_DAMAGED' });
}
