import { onAbort } from '../signals.ts';
import { checkConnectOptions, checkPoolOptions } from '../checks.ts';
import { ResilientClient } from '../client.ts';
import { asyncDispose } from '../dispose.ts';
import { ClosedError, DeadlineError } from '../errors.ts';
import type { CommandTarget } from '../links/target.ts';
import { type ConnectOptions, DEFAULTS } from '../options.ts';
import { after, afterIdle } from '../timers.ts';

/** What belongs to one user or one session, and so to a lease. */
export type LeaseOptions = Pick<ConnectOptions, 'session' | 'principal' | 'metadata' | 'authProvider' | 'headers' | 'on' | 'signal'>;

/** What all clients of a pool have in common: the options of a client, and the limits of the pool. */
export interface PoolOptions extends Omit<ConnectOptions, keyof LeaseOptions> {
  /** How many clients are connected at the most. For one more the one is closed that has not been used the longest. Default 100. */
  readonly max?: number;
  /** After so long without a lease a client is closed, in ms. Default 5 minutes; `Infinity` is allowed. */
  readonly idleTimeout?: number;
}

/** A client for as long as it is needed. */
export interface Lease {
  /** Shared with the other leases of the same server, principal and session. Do not close it: {@link release} the lease. */
  readonly client: ResilientClient;
  /** Gives it back. A second time does nothing. */
  release(): void;
  /** The same as {@link release}, for `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** What a pool holds. */
export interface PoolStats {
  /** Clients that are connected or about to be, and of these those that are leased. */
  readonly size: number;
  readonly leased: number;
  /** Leases that are out, and those that wait for a place. */
  readonly leases: number;
  readonly waiting: number;
}

export type PoolTarget = URL | string | CommandTarget;

/** One client of the pool. Whoever has it in hand, or waits for it to connect, counts. */
interface Member {
  readonly client: ResilientClient;
  readonly connecting: Promise<void>;
  users: number;
  /** When it was given back last, on the clock of `performance.now()`. */
  usedAt: number;
  stopIdling: () => void;
}

/**
 * Many live clients: one for each server, principal and session, connected when it is first needed, shared by all who need it, closed
 * when nobody has for a while. Clients of different principals never meet. With a `store` a client that was closed goes on where it
 * was; without one its session ends with it.
 *
 * ```ts
 * await using pool = new ConnectionPool({ store, max: 500 });
 * await using lease = await pool.lease(url, { principal: user.id });
 * await lease.client.callTool({ name: 'search' });
 * ```
 */
export class ConnectionPool {
  readonly #options: Omit<PoolOptions, 'max' | 'idleTimeout'>;
  readonly #max: number;
  readonly #idleTimeout: number;
  readonly #members = new Map<string, Member>();
  /** Clients on their way out. */
  readonly #leaving = new Set<Promise<void>>();
  /** Those who wait for a place, in order. */
  readonly #queue = new Set<() => void>();
  #leases = 0;
  #onAllReturned: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  /** @throws TypeError or RangeError for options that make no sense */
  constructor(options: PoolOptions = {}) {
    const { max, idleTimeout, ...clientOptions } = options;
    checkPoolOptions({ max, idleTimeout });
    checkConnectOptions(clientOptions);
    this.#options = clientOptions;
    this.#max = max ?? DEFAULTS.pool.max;
    this.#idleTimeout = idleTimeout ?? DEFAULTS.pool.idleTimeout;
  }

  get stats(): PoolStats {
    const leased = [...this.#members.values()].filter(({ users }) => users > 0).length;
    return { size: this.#members.size, leased, leases: this.#leases, waiting: this.#queue.size };
  }

  /**
   * A client for a server, connected. Where all places are taken by clients in use it waits for one.
   *
   * @param options - `headers` and `authProvider` belong to somebody, so they need a `principal`. Where the client is connected already,
   *   they and `metadata` are those that it was connected with.
   * @throws what `connect()` throws; a failure is not kept, the next lease tries anew
   * @throws DeadlineError where no place gets free within `timeout.connect`
   */
  async lease(target: PoolTarget, options: LeaseOptions = {}): Promise<Lease> {
    if (this.#closing) throw new ClosedError('The pool is closed.', { outcome: 'not-sent' });
    const { signal, ...own } = options;
    if ((own.headers ?? own.authProvider) && own.principal === undefined) {
      throw new TypeError('headers and authProvider belong to somebody: say to whom, by `principal`, so that nobody else gets their client');
    }
    signal?.throwIfAborted();
    const key = memberKey(target, own);
    const member = await this.#take(key, target, own, signal);
    let out = true;
    const release = (): void => {
      if (!out) return;
      out = false;
      this.#leases--;
      this.#giveBack(key, member);
    };
    try {
      await unlessAborted(member.connecting, signal);
    } catch (error) {
      release();
      throw error;
    }
    return {
      client: member.client,
      release,
      [asyncDispose]: async () => release(),
    };
  }

  /** Runs a task with a client, and gives it back. */
  async use<T>(target: PoolTarget, options: LeaseOptions, task: (client: ResilientClient) => Promise<T>): Promise<T> {
    const lease = await this.lease(target, options);
    try {
      return await task(lease.client);
    } finally {
      lease.release();
    }
  }

  /** Leases no more, waits up to `timeout` ms (default 10,000) for those that are out, and closes all clients. */
  close({ timeout = 10_000 }: { readonly timeout?: number } = {}): Promise<void> {
    this.#closing ??= this.#close(timeout);
    return this.#closing;
  }

  async [asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(timeout: number): Promise<void> {
    for (const goOn of [...this.#queue]) goOn();
    if (this.#leases > 0) {
      await new Promise<void>((resolve) => {
        const stop = after(timeout, resolve);
        this.#onAllReturned = () => {
          stop();
          resolve();
        };
      });
    }
    for (const [key, member] of [...this.#members]) this.#dismiss(key, member);
    await Promise.all(this.#leaving);
  }

  /** The client for a key, in use from now on: the one that is there, or a new one, as soon as there is room for it. */
  async #take(key: string, target: PoolTarget, options: LeaseOptions, signal: AbortSignal | undefined): Promise<Member> {
    for (;;) {
      if (this.#closing) throw new ClosedError('The pool was closed.', { outcome: 'not-sent' });
      const member = this.#find(key) ?? this.#admit(key, target, options);
      if (member) {
        member.users++;
        member.stopIdling();
        this.#leases++;
        return member;
      }
      await this.#room(signal);
    }
  }

  #find(key: string): Member | undefined {
    const there = this.#members.get(key);
    if (!there || there.client.transport || there.users > 0) return there;
    // Closed by somebody who should not have.
    this.#dismiss(key, there);
    return undefined;
  }

  #admit(key: string, target: PoolTarget, options: LeaseOptions): Member | undefined {
    if (this.#members.size >= this.#max && !this.#evict()) return undefined;
    const client = new ResilientClient(target, { ...this.#options, ...options });
    const connecting = client.connect();
    const member: Member = { client, connecting, users: 0, usedAt: performance.now(), stopIdling: () => {} };
    this.#members.set(key, member);
    // Whoever waits hears of the failure; the next one begins anew.
    connecting.catch(() => this.#dismiss(key, member));
    return member;
  }

  /** Closes the client that has not been used the longest, if there is one that nobody uses. */
  #evict(): boolean {
    let oldest: [string, Member] | undefined;
    for (const entry of this.#members) {
      if (entry[1].users === 0 && (!oldest || entry[1].usedAt < oldest[1].usedAt)) oldest = entry;
    }
    if (oldest) this.#dismiss(...oldest);
    return oldest !== undefined;
  }

  async #room(signal: AbortSignal | undefined): Promise<void> {
    const timeout = this.#options.timeout?.connect ?? DEFAULTS.timeout.connect;
    await new Promise<void>((resolve, reject) => {
      const leave = (settle: () => void): void => {
        this.#queue.delete(goOn);
        stop();
        release();
        settle();
      };
      const goOn = (): void => leave(resolve);
      this.#queue.add(goOn);
      const stop = after(timeout, () =>
        leave(() =>
          reject(
            new DeadlineError(`All ${this.#max} clients of the pool are in use, and none was given back within ${timeout} ms (timeout.connect).`, {
              advice: 'Give leases back when they are no longer needed, or allow more by `max`.',
              outcome: 'not-sent',
              timeout,
            }),
          ),
        ),
      );
      const release = signal ? onAbort(signal, () => leave(() => reject(signal.reason as Error))) : () => {};
    });
  }

  #giveBack(key: string, member: Member): void {
    member.users--;
    member.usedAt = performance.now();
    if (this.#leases === 0) this.#onAllReturned?.();
    if (member.users > 0 || this.#members.get(key) !== member) return;
    const [next] = this.#queue;
    if (next) next();
    if (Number.isFinite(this.#idleTimeout)) member.stopIdling = afterIdle(this.#idleTimeout, () => this.#dismiss(key, member));
  }

  #dismiss(key: string, member: Member): void {
    member.stopIdling();
    if (this.#members.get(key) === member) this.#members.delete(key);
    const gone = member.client.close().catch(() => {});
    this.#leaving.add(gone);
    void gone.then(() => this.#leaving.delete(gone));
    const [next] = this.#queue;
    if (next) next();
  }
}

/** Server, principal and session: never a token, which changes, and is a secret. */
function memberKey(target: PoolTarget, { principal, session = DEFAULTS.session }: LeaseOptions): string {
  return JSON.stringify([targetKey(target), principal ?? null, session]);
}

function targetKey(target: PoolTarget): unknown {
  if (typeof target === 'function') throw new TypeError('a pool needs a URL or a command: of a function it cannot tell whether two make the same');
  if (typeof target === 'string' || target instanceof URL) return URL.canParse(target) ? new URL(target).href : String(target);
  const { command, args = [], env = {}, cwd = null } = target;
  return [command, args, Object.entries(env).sort(), cwd];
}

async function unlessAborted(task: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (!signal) return task;
  let release = (): void => {};
  try {
    await Promise.race([task, new Promise<never>((_, reject) => (release = onAbort(signal, () => reject(signal.reason as Error))))]);
  } finally {
    release();
  }
}
