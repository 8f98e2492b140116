import { onAbort } from '../signals.ts';
import { checkLeaseOptions, checkPoolClose, checkPoolOptions } from '../checks.ts';
import { ResilientClient } from '../client.ts';
import { asyncDispose } from '../dispose.ts';
import { ClosedError, DeadlineError } from '../errors.ts';
import type { CommandTarget } from '../links/target.ts';
import { type ConnectOptions, DEFAULTS } from '../options.ts';
import { after, afterIdle, within } from '../timers.ts';
import { Queue } from './queue.ts';

/** What belongs to one user or one session, and so to a lease. */
export type LeaseOptions = Pick<ConnectOptions, 'session' | 'principal' | 'metadata' | 'authProvider' | 'headers' | 'on' | 'signal'>;

/** What all clients of a pool have in common: the options of a client, and the limits of the pool. */
export interface PoolOptions extends Omit<ConnectOptions, keyof LeaseOptions> {
  /**
   * How many clients there are at the most. For one more the one is closed that has not been used the longest, and its place is free as
   * soon as it is closed. Default 100.
   */
  readonly max?: number;
  /** After so long without a lease or a call a client is closed, in ms. Default 5 minutes; `Infinity` is allowed. */
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
  /** Clients on their way out, which have their places until they are closed. */
  readonly closing: number;
  /** Leases that are out, and those that wait for a place. */
  readonly leases: number;
  readonly waiting: number;
}

export type PoolTarget = URL | string | CommandTarget;

/** One client of the pool. Whoever has it in hand, or waits for it to connect, has a lease. */
interface Member {
  readonly key: string;
  readonly client: ResilientClient;
  readonly connecting: Promise<void>;
  leases: number;
  /** When it was last in use, on the clock of `performance.now()`. */
  usedAt: number;
  stopIdling: () => void;
}

/** A close that takes longer, in ms, is waited for no more: it hangs in the user's own code, such as a `fetch` that heeds no signal. */
const LONGEST_CLOSE = 5_000;

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
  /** Clients on their way out: each has its place until it is closed. */
  readonly #leaving = new Set<Promise<void>>();
  /** Those who wait for a place, by the client that they need: one place does for all who need the same. */
  readonly #queue = new Queue();
  #leases = 0;
  #onEmpty: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  /** @throws TypeError or RangeError for options that make no sense, and for those that belong to a lease */
  constructor(options: PoolOptions = {}) {
    checkPoolOptions(options);
    const { max, idleTimeout, ...clientOptions } = options;
    this.#options = clientOptions;
    this.#max = max ?? DEFAULTS.pool.max;
    this.#idleTimeout = idleTimeout ?? DEFAULTS.pool.idleTimeout;
  }

  get stats(): PoolStats {
    const leased = [...this.#members.values()].filter(({ leases }) => leases > 0).length;
    return { size: this.#members.size, leased, closing: this.#leaving.size, leases: this.#leases, waiting: this.#queue.size };
  }

  /**
   * A client for a server, connected. Where all places are taken by clients in use it waits for one, in turn.
   *
   * @param options - `headers` and `authProvider` belong to somebody, so they need a `principal`. Where the client is connected already,
   *   they and `metadata` are those that it was connected with.
   * @throws what `connect()` throws; a failure is not kept, the next lease tries anew
   * @throws DeadlineError where no place gets free within `timeout.connect`
   */
  async lease(target: PoolTarget, options: LeaseOptions = {}): Promise<Lease> {
    checkLeaseOptions(options);
    if (this.#closing) throw new ClosedError('The pool is closed.', { outcome: 'not-sent' });
    const { signal, ...own } = options;
    if ((own.headers ?? own.authProvider) && own.principal === undefined) {
      throw new TypeError('headers and authProvider belong to somebody: say to whom, by `principal`, so that nobody else gets their client');
    }
    signal?.throwIfAborted();
    const key = memberKey(target, own);
    const member = await this.#take(key, () => new ResilientClient(target, { ...this.#options, ...own }), signal);
    let out = true;
    const release = (): void => {
      if (!out) return;
      out = false;
      this.#leases--;
      member.leases--;
      this.#rest(member);
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

  /**
   * Leases no more, waits up to `timeout` ms (default 10,000) for the leases that are out and the calls that are in flight, and closes
   * all clients.
   *
   * @throws TypeError or RangeError for a timeout that makes no sense
   */
  async close(options: { readonly timeout?: number } = {}): Promise<void> {
    checkPoolClose(options);
    this.#closing ??= this.#shut(options.timeout ?? 10_000);
    await this.#closing;
  }

  async [asyncDispose](): Promise<void> {
    await this.close();
  }

  async #shut(timeout: number): Promise<void> {
    this.#queue.fail(new ClosedError('The pool was closed.', { outcome: 'not-sent' }));
    for (const member of this.#members.values()) if (!isUsed(member)) this.#dismiss(member);
    if (this.#members.size > 0) {
      await new Promise<void>((resolve) => {
        const stop = after(timeout, resolve);
        this.#onEmpty = () => {
          stop();
          resolve();
        };
      });
    }
    for (const member of this.#members.values()) this.#dismiss(member);
    await Promise.all(this.#leaving);
  }

  #find(key: string): Member | undefined {
    const there = this.#members.get(key);
    const { state } = there?.client.session ?? {};
    if (!there || (state !== 'closing' && state !== 'closed')) return there;
    // Closed by somebody who should not have.
    this.#dismiss(there);
    return undefined;
  }

  /** The client for a key, in use from now on: the one that is there, or a new one, as soon as there is a place for it. */
  async #take(key: string, create: () => ResilientClient, signal: AbortSignal | undefined): Promise<Member> {
    const there = this.#find(key);
    if (there) return this.#use(there);
    const timeout = this.#options.timeout?.connect ?? DEFAULTS.timeout.connect;
    const late = (): DeadlineError =>
      new DeadlineError(`All ${this.#max} places of the pool were taken, and none got free within ${timeout} ms (timeout.connect).`, {
        advice: 'Give leases back when they are no longer needed, or allow more clients by `max`.',
        outcome: 'not-sent',
        timeout,
      });
    const taken = this.#queue.wait(key, () => this.#use(this.#members.get(key) ?? this.#admit(key, create())), { timeout, late, signal });
    this.#serve();
    return taken;
  }

  /** Gives away what places there are, and closes as many of the clients that nobody uses as there are places missing. */
  #serve(): void {
    this.#queue.serve(() => this.#members.size + this.#leaving.size < this.#max);
    while (this.#queue.keys > this.#leaving.size) {
      const unused = [...this.#members.values()].filter((member) => !isUsed(member));
      if (unused.length === 0) return;
      this.#dismiss(unused.reduce((oldest, member) => (member.usedAt < oldest.usedAt ? member : oldest)));
    }
  }

  #admit(key: string, client: ResilientClient): Member {
    const connecting = client.connect();
    const member: Member = { key, client, connecting, leases: 0, usedAt: performance.now(), stopIdling: () => {} };
    client.onidle = () => this.#rest(member);
    this.#members.set(key, member);
    // Whoever waits hears of the failure; the next one begins anew.
    connecting.catch(() => this.#dismiss(member));
    return member;
  }

  #use(member: Member): Member {
    this.#leases++;
    member.leases++;
    member.stopIdling();
    return member;
  }

  /** A lease or a call has ended. Where it was the last one, the client can be closed from now on. */
  #rest(member: Member): void {
    if (isUsed(member) || this.#members.get(member.key) !== member) return;
    member.usedAt = performance.now();
    member.stopIdling();
    if (this.#closing) {
      this.#dismiss(member);
      return;
    }
    if (Number.isFinite(this.#idleTimeout)) {
      // A call that is in flight without a lease says by itself when it has ended.
      member.stopIdling = afterIdle(this.#idleTimeout, () => isUsed(member) || this.#dismiss(member));
    }
    this.#serve();
  }

  #dismiss(member: Member): void {
    if (this.#members.get(member.key) !== member) return;
    this.#members.delete(member.key);
    member.stopIdling();
    const gone = this.#leave(member.client).finally(() => {
      this.#leaving.delete(gone);
      this.#serve();
    });
    this.#leaving.add(gone);
    if (this.#members.size === 0) this.#onEmpty?.();
  }

  async #leave(client: ResilientClient): Promise<void> {
    // A turn later: its listeners hear of it at once, and may come for a lease.
    await undefined;
    await within(client.close(), LONGEST_CLOSE).catch(() => {});
  }
}

/** Also by calls in flight: a lease may be given back before they have ended. */
function isUsed({ leases, client }: Member): boolean {
  return leases > 0 || client.busy;
}

/** Server, principal and session: never a token, which changes, and is a secret. */
function memberKey(target: PoolTarget, { principal, session = DEFAULTS.session }: LeaseOptions): string {
  return JSON.stringify([targetKey(target), principal ?? null, session]);
}

function targetKey(target: PoolTarget): unknown {
  if (typeof target !== 'string' && (typeof target !== 'object' || target === null) && typeof target !== 'function') throw new TypeError('a lease needs a server: a URL or a command');
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
