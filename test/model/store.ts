import type { Lock, Store } from '../../src/index.ts';
import type { Step } from './line.ts';

/** How a store fails: it says so, says nothing, or does what it is asked and then says that it failed. */
export type Failing = 'no' | 'errors' | 'hangs' | 'after';

/** Who uses the store; one that is dead does nothing any more, and its locks end with their time. */
export interface User {
  readonly name: string;
  readonly dead: boolean;
}

interface Held {
  readonly user: User;
  readonly ttl: number;
  readonly lost: AbortController;
  readonly lock: Lock;
}

/** One question, and the time in which whoever asked waited for the answer. */
interface Question {
  readonly by: string;
  readonly key: string;
  readonly from: number;
  until: number;
  failed: boolean;
}

/** How long an answer is waited for, in ms. */
const PATIENCE = 3000;
/** How long one whom the store failed does not know what others have, in ms: it asks again after 30 s, three things, and waits 1 s for its turn. */
const ALONE = 30_000 + 3 * PATIENCE + 1000;

/** A store whose every step takes its turn, before and after; it can fail, and so can those who have its locks. */
export class ModelStore {
  failing: Failing = 'no';
  /** How often it began to fail. */
  failures = 0;
  /** Writes of each user. */
  readonly writes: { readonly by: string; readonly key: string }[] = [];
  /** What it was asked, and for how long whoever asked waited for it. */
  readonly #asked: Question[] = [];
  readonly #base: Store;
  readonly #step: Step;
  readonly #now: () => number;
  readonly #held = new Set<Held>();

  constructor(base: Store, step: Step, now: () => number) {
    this.#base = base;
    this.#step = step;
    this.#now = now;
  }

  fail(failing: Failing): void {
    if (failing !== 'no' && this.failing === 'no') this.failures++;
    this.failing = failing;
  }

  /** What is there, as nobody who uses it sees it. */
  async read(prefix: string): Promise<string[]> {
    const values: string[] = [];
    for await (const key of this.#base.keys(prefix)) values.push((await this.#base.get(key))?.value ?? '');
    return values;
  }

  /** Until when a user that was about to be done at this time waited for the store, where each answer is waited for so long and no longer. */
  waitedFrom(at: number, by: string, longest: number): number {
    let over = at;
    for (const asked of this.#asked) {
      if (asked.by === by && asked.from <= over) over = Math.max(over, Math.min(asked.until, asked.from + longest));
    }
    return over;
  }

  /**
   * Whether this user goes without its turns, because the store failed it: so it does until it has asked again, and has waited for what
   * others had meanwhile. Whoever has its turn does not.
   */
  goesAlone(by: string): boolean {
    if (this.holders('stream').includes(by)) return false;
    return this.#asked.some((asked) => asked.by === by && /^(session|stream|handshake)\//.test(asked.key) && this.#now() <= failedAt(asked) + ALONE);
  }

  /** Whoever has a lock of these was silent for too long: it is another's. Returns whether there was one. */
  usurp(prefix: string): boolean {
    const held = [...this.#held].find(({ user, lock }) => !user.dead && keyOf(lock).startsWith(prefix));
    if (!held) return false;
    held.lost.abort(new Error('the lock was taken over'));
    this.#end(held);
    return true;
  }

  /** A user is dead: those who wait for its locks have them when their time is over. */
  bury(user: User): void {
    for (const held of this.#held) if (held.user === user) setTimeout(() => this.#end(held), held.ttl);
  }

  holders(prefix: string): string[] {
    return [...this.#held].filter(({ lock }) => keyOf(lock).startsWith(prefix)).map(({ user }) => user.name);
  }

  as(user: User): Store {
    const base = this.#base;
    const ask = <T>(what: string, run: () => Promise<T>): Promise<T> => this.#ask(user, what, run);
    const timed = async <T>(key: string, answer: Promise<T>): Promise<T> => {
      const asked: Question = { by: user.name, key, from: this.#now(), until: Number.POSITIVE_INFINITY, failed: false };
      this.#asked.push(asked);
      try {
        return await answer;
      } catch (error) {
        asked.failed = (error as { code?: unknown }).code !== 'CONFLICT';
        throw error;
      } finally {
        asked.until = this.#now();
      }
    };
    const write = (key: string): void => void this.writes.push({ by: user.name, key });
    return {
      get: (key) => timed(key, ask('reads', () => base.get(key))),
      set: (key, value, expected) => timed(key, ask('writes', () => (write(key), base.set(key, value, expected)))),
      delete: (key, expected) => timed(key, ask('deletes', () => (write(key), base.delete(key, expected)))),
      keys: (prefix) => base.keys(prefix),
      lock: (key, options) => {
        const lock = this.#lock(user, key, options);
        // It is waited for, however long.
        lock.catch(() => options.signal?.aborted || this.#asked.push({ by: user.name, key, from: this.#now(), until: this.#now(), failed: true }));
        return lock;
      },
      close: async () => {},
    };
  }

  async #ask<T>(user: User, what: string, run: () => Promise<T>): Promise<T> {
    await this.#step(`${user.name} ${what}`);
    if (user.dead || this.failing === 'hangs') return new Promise(() => {});
    if (this.failing === 'errors') throw new Error('the disk is full');
    const result = await run();
    const failsAfter = this.failing === 'after';
    await this.#step(`${user.name} has done so`);
    if (user.dead) return new Promise(() => {});
    if (failsAfter) throw new Error('the disk was full');
    return result;
  }

  async #lock(user: User, key: string, { ttl, signal }: Parameters<Store['lock']>[1]): Promise<Lock> {
    const taking = this.#ask(user, `wants ${key.split('/', 1)}`, () => Promise.resolve());
    const given = new Promise<never>((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason as Error), { once: true }));
    given.catch(() => {});
    await Promise.race([taking, given]);
    const lock = await this.#base.lock(key, { ttl, signal });
    keys.set(lock, key);
    const held: Held = { user, ttl, lock, lost: new AbortController() };
    this.#held.add(held);
    if (user.dead) this.bury(user);
    await this.#step(`${user.name} has ${key.split('/', 1)}`);
    const release = async (): Promise<void> => {
      await this.#step(`${user.name} gives ${key.split('/', 1)} back`);
      if (!user.dead) this.#end(held);
    };
    return { fence: lock.fence, lost: held.lost.signal, release };
  }

  #end(held: Held): void {
    this.#held.delete(held);
    void held.lock.release();
  }
}

/** When a store failed whoever asked. */
function failedAt({ from, until, failed }: Question): number {
  if (until > from + PATIENCE) return from + PATIENCE;
  return failed ? until : Number.NEGATIVE_INFINITY;
}

const keys = new WeakMap<Lock, string>();

function keyOf(lock: Lock): string {
  return keys.get(lock) ?? '';
}
