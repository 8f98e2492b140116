import type { JSONRPCMessage, JSONRPCNotification, JSONRPCRequest } from '@modelcontextprotocol/sdk/types.js';
import { canonical } from '../canonical.ts';
import { ClosedError, RepriseError, StoreError, UnreachableError } from '../errors.ts';
import { openChannel } from '#platform';
import type { Connector } from '../links/link.ts';
import type { SessionOptions } from '../options.ts';
import { after, afterIdle, backoffDelay, expiring, limitOf, sleep } from '../timers.ts';
import type { Tell } from './events.ts';
import { clampHint } from './hints.ts';
import { END_TIMEOUT, Negotiator, type Params, RENEWAL } from './negotiator.ts';
import type { SessionRecord } from './record.ts';
import type { Restorables } from './restorables.ts';
import { Listener } from './listener.ts';
import type { StreamHost } from './server-stream.ts';
import { type ActiveSession, type SessionState, StateMachine } from './state.ts';
import type { UserChange, UserState } from './user-state.ts';
import type { Wire } from './wire.ts';

/** A client that took a session up and calls nothing may be one that only listens: after this time, in ms, the session is proved. */
const LISTENER = 1000;

/** What we said in the server's name. */
const announcements = new WeakSet<JSONRPCMessage>();

/** Whether a message is ours and not the server's: whoever deals with resets has dealt with it. */
export function isAnnouncement(message: JSONRPCMessage): boolean {
  return announcements.has(message);
}

export interface LifecycleHost {
  readonly options: SessionOptions;
  readonly wire: Wire;
  readonly tell: Tell;
  toClient(message: JSONRPCMessage): void;
  report(error: Error): void;
  /** Shows that the session is alive by a request on it, and has it replaced where it is not. */
  prove(): Promise<void>;
}

/** One session after another, as one: opened, proved, lost, replaced, listened to, left or ended. */
export class Lifecycle {
  readonly #host: LifecycleHost;
  readonly #machine: StateMachine;
  readonly #negotiator: Negotiator;
  #params: Params | undefined;
  /** From `start()` to `close()`: whatever is under way when it ends must not touch what comes after. */
  #scope = new AbortController();
  /** The time that the client's handshake has, both halves together. */
  #connectWithin = limitOf(0);
  /** Whether it is done. */
  #connected = false;
  #renewal: Promise<ActiveSession> | undefined;
  /** Renewals that failed since the last session that worked, and when the next may begin, on the clock of `performance.now()`. */
  #failures = 0;
  #notBefore = 0;
  readonly #listener: Listener;
  #stopProving = (): void => {};
  /** The session whose notification stream is open. */
  #heard: ActiveSession | undefined;
  #stopBeat = (): void => {};
  #lastUsedAt: number | undefined;
  /** What is kept with a session that is not stored. */
  #cache: Readonly<Record<string, unknown>> = {};
  /** Whether the last thing we know of the server is that it answers. */
  #reachable = false;
  /** A session that was taken up, until the client above has taken what is stored of its handshake. */
  #offered: ActiveSession | undefined;

  constructor(connector: Connector, host: LifecycleHost) {
    this.#host = host;
    this.#machine = new StateMachine((from, to) => host.tell('state', { from, to }));
    this.#listener = new Listener({
      streamHost: (session) => this.#streamHost(session),
      turn: async ({ id }, signal) => (this.stored && id !== undefined ? this.#negotiator.keeper?.lock('stream', signal) : undefined),
      recovered: async ({ id }, signal) => (id === undefined ? undefined : this.#negotiator.keeper?.recovered(id, signal)) ?? false,
      channel: ({ id }) => (this.stored && id !== undefined && this.key !== undefined ? openChannel(`mcp-reprise ${this.key}`) : undefined),
      stored: async ({ id }) => (id === undefined ? undefined : ((await this.#negotiator.keeper?.latest(id)) ?? this.record)),
      flush: async () => this.#negotiator.keeper?.flush(),
      dropCursor: () => this.#negotiator.keeper?.dropCursor(),
    });
    this.#negotiator = new Negotiator(connector, { ...host, onGone: (session, reason) => this.lose(session, reason.message) });
  }

  get state(): SessionState {
    return this.#machine.current;
  }

  /** The session that calls go to now, if there is one. */
  get session(): ActiveSession | undefined {
    return this.#machine.session;
  }

  get key(): string | undefined {
    return this.#negotiator.key;
  }

  get record(): SessionRecord | undefined {
    return this.#negotiator.keeper?.record;
  }

  get lastUsedAt(): number | undefined {
    return this.#lastUsedAt ?? this.record?.lastUsedAt;
  }

  /** Whether the session outlives this client: it is, or was, in a store where others find it. */
  get stored(): boolean {
    return this.#negotiator.keeper?.stored ?? false;
  }

  start(connectWithin = limitOf(this.#negotiator.timeout)): void {
    this.#scope = new AbortController();
    this.#connectWithin = connectWithin;
    this.#machine.enter({ name: 'idle' });
    this.#negotiator.warm();
  }

  /** The client's `initialize`: answered from the store where a session can be taken up, by the server otherwise. */
  async attach(params: Params, signal: AbortSignal): Promise<ActiveSession | undefined> {
    const scope = this.#scope.signal;
    this.#params = params;
    if (!this.#machine.enter({ name: 'loading' })) throw new Error('the session is already initialized');
    this.#negotiator.clear();
    this.#cache = {};
    this.#offered = undefined;
    const stored = await this.#negotiator.loadInTurn(params, AbortSignal.any([signal, scope]));
    // Its turn was ended by close(): the one that is there now may be of the next connect().
    if (scope.aborted) return undefined;
    if (signal.aborted) {
      this.#negotiator.endTurn();
      return undefined;
    }
    this.#offered = stored;
    if (stored && this.#host.options.validate !== 'ping') {
      this.#machine.enter({ name: 'resuming', session: stored });
      this.#beat();
      return stored;
    }
    this.#machine.enter({ name: 'negotiating' });
    try {
      if (stored) return this.#enterProven(stored, await this.#negotiator.proven(stored, params, scope));
      const session = await this.#negotiator.handshake(params, AbortSignal.any([signal, scope]), this.#negotiator.timeout);
      this.#reachable = true;
      this.#machine.enter({ name: 'negotiating', session });
      return session;
    } catch (error) {
      if (!scope.aborted) {
        this.#negotiator.endTurn();
        const denied = this.#host.options.authProvider !== undefined && !(error instanceof RepriseError);
        this.#machine.enter({ name: denied ? 'authorizing' : 'failed', error: error as Error });
      }
      throw error;
    }
  }

  /** The client's `initialized`: for the server where it was asked, for nobody where the session was taken up. */
  async complete(message: JSONRPCNotification): Promise<void> {
    const { state } = this;
    const scope = this.#scope.signal;
    this.#offered = undefined;
    if (state.name === 'negotiating' && state.session && this.#params) {
      try {
        // With a limit of its own this half could double it.
        const session = await this.#negotiator.establish(this.#params, state.session, scope, this.#connectWithin, message);
        scope.throwIfAborted();
        // A call that went out meanwhile may have found it lost: then it is for the renewal to open what comes next.
        if (this.state === state) this.#open(session);
      } finally {
        if (!scope.aborted) this.#negotiator.endTurn();
      }
    } else if (state.name === 'resuming' && this.#host.options.listen !== false) {
      this.#stopProving = after(LISTENER, () => void this.#host.prove().catch(() => {}));
    }
    if (!scope.aborted) this.#connected = true;
  }

  /**
   * Whether the client above left when it was given what is stored of a session's handshake: it has no use for that. The session is not
   * taken up again.
   */
  disown(): boolean {
    const id = this.#offered?.id;
    this.#offered = undefined;
    if (id === undefined) return false;
    this.#negotiator.noteLost(id);
    this.#host.tell('warning', new StoreError('the stored session was made by a handshake that this client cannot use; a new one is started'));
    return true;
  }

  /** The session that a call goes to now. Waits for a handshake that is under way; starts one where the session was lost. */
  async ready(): Promise<ActiveSession> {
    const { state } = this;
    switch (state.name) {
      case 'resuming':
      case 'ready':
      case 'degraded':
        return state.session;
      case 'lost':
      case 'backoff':
        return this.#renew();
      case 'negotiating':
        if (this.#renewal) return this.#renewal;
        if (state.session) return state.session;
        break;
      default:
    }
    throw new ClosedError(`The session is not open (it is ${state.name}).`, { advice: 'Nothing was sent: connect first.', outcome: 'not-sent' });
  }

  /** Whether a session was taken up and no server has said yes to it so far. */
  isUnproven(session: ActiveSession): boolean {
    return this.state.name === 'resuming' && this.state.session === session;
  }

  /** The server took a request: what was stored is proved, and the session is in use. */
  accepted(session: ActiveSession): void {
    this.#reachable = true;
    this.#failures = 0;
    this.#used();
    if (!this.isUnproven(session)) return;
    this.#stopProving();
    this.#machine.enter({ name: 'ready', session });
    this.#host.tell('resumed', { age: Math.max(0, Date.now() - session.createdAt) });
    this.#listen(session);
  }

  unreachable(): void {
    this.#reachable = false;
  }

  /** A session is gone. Only news of the present one counts: ten calls that were refused together lose it once. */
  lose(session: ActiveSession, reason: string): void {
    if (session.id !== undefined) this.#negotiator.noteLost(session.id);
    const { state } = this;
    if (!('session' in state) || state.session?.generation !== session.generation) return;
    if (!this.#machine.enter({ name: 'lost', session, reason })) return;
    this.#stopProving();
    void this.#listener.stop();
    // What is in flight on it may still be answered, over HTTP; a pipe has nothing left.
    if (session.link.kind === 'pipe') void session.link.close().catch(() => {});
  }

  /** The server granted a request: what that changed is to hold on the next session too. */
  granted(request: JSONRPCRequest): void {
    const { keeper } = this.#negotiator;
    const change = this.restorables.note(request);
    if (!change) return;
    if ('uri' in change) keeper?.subscribe(change.uri, change.subscribed);
    else keeper?.update(change);
  }

  /** Counts a use of something by its name: what the client above wants to be told by those who look at the stored session. */
  count(name: string): void {
    this.#negotiator.keeper?.count(name);
  }

  /** What the user keeps with the session. */
  get user(): UserState {
    return this.#negotiator.user;
  }

  async update(change: (session: UserState) => UserChange): Promise<void> {
    if (typeof change !== 'function') throw new TypeError('update(change): the change must be a function');
    // What is changed before the client's handshake is done would be gone with it, where that fails or another process is quicker.
    if (!this.#connected) {
      throw new ClosedError(`The session is not open (it is ${this.state.name}).`, { advice: 'Nothing was changed: connect first.', outcome: 'not-sent' });
    }
    await this.#negotiator.changeUser(change);
  }

  get restorables(): Restorables {
    return this.#negotiator.restorables;
  }

  /** What is kept with the present session. */
  recall(name: string): unknown {
    return (this.record?.cache ?? this.#cache)[name];
  }

  /** The same, as it stands in the store: another process may have heard of a change. */
  async recallStored(name: string): Promise<unknown> {
    const { keeper } = this.#negotiator;
    const id = this.session?.id;
    if (!keeper || id === undefined || !this.stored) return this.recall(name);
    await keeper.flush();
    return ((await keeper.latest(id)) ?? this.record)?.cache?.[name];
  }

  /** Keeps something with the session, for the next process too, until the session ends. `undefined` removes it. */
  remember(name: string, value: unknown): void {
    const { [name]: before, ...others } = this.record?.cache ?? this.#cache;
    if (canonical(before) === canonical(value)) return;
    this.#cache = value === undefined ? others : { ...others, [name]: value };
    this.#negotiator.keeper?.update({ cache: this.#cache });
  }

  /** What the server said may not hold any more: it may have said so, and we have not heard it. */
  #forgetCache(): void {
    this.#cache = {};
    if (this.record?.cache) this.#negotiator.keeper?.update({ cache: {} });
  }

  /** Lets go. `'end'`: the server is told, and the store forgets. */
  async close(what: 'keep' | 'end'): Promise<void> {
    const { state } = this;
    const session = 'session' in state ? state.session : undefined;
    this.#machine.enter({ name: 'closing' });
    this.#scope.abort(new ClosedError('The client was closed during the handshake.', { outcome: 'not-sent' }));
    this.#negotiator.endTurn();
    this.#connected = false;
    this.#renewal = undefined;
    this.#stopProving();
    this.#stopBeat();
    const quiet = this.#listener.stop();
    // A server that is known to be away need not be waited for, and one that has forgotten the session need not be told.
    const present = state.name !== 'lost' && state.name !== 'backoff' && (this.#reachable || state.name === 'resuming');
    let ending = what === 'end';
    if (ending) await this.#negotiator.keeper?.forget(session?.id ?? this.record?.id ?? '');
    else {
      await this.#negotiator.keeper?.flush();
      ending = present && session?.id !== undefined && ((await this.#negotiator.keeper?.isDisplaced(session.id)) ?? false);
    }
    if (session && ending && present) await session.link.end(expiring(END_TIMEOUT));
    await session?.link.close().catch((error: unknown) => this.#host.report(error as Error));
    await quiet;
    await this.#negotiator.close();
    this.#machine.enter({ name: 'closed' });
  }

  async finishAuth(authorizationCode: string): Promise<void> {
    await this.#negotiator.finishAuth(authorizationCode);
  }

  /** One new session in place of a lost one, whatever the number of calls that ask for it (G6). */
  #renew(): Promise<ActiveSession> {
    if (this.#renewal) return this.#renewal;
    const renewal = this.#replaceLost(this.#scope.signal).finally(() => {
      if (this.#renewal === renewal) this.#renewal = undefined;
    });
    this.#renewal = renewal;
    return renewal;
  }

  async #replaceLost(scope: AbortSignal): Promise<ActiveSession> {
    const { state } = this;
    const params = this.#params;
    if (state.name !== 'lost' || !params) throw new Error('there is no lost session to replace');
    const { session: lost, reason } = state;
    try {
      const wait = this.#notBefore - performance.now();
      if (wait > 0) {
        this.#machine.enter({ name: 'backoff', session: lost, reason });
        await sleep(wait, scope);
      }
      this.#machine.enter({ name: 'negotiating' });
      const session = await this.#negotiator.successor(params, scope);
      this.#reachable = true;
      this.#open(session);
      this.#host.tell('reset', { reason, adopted: session.resumed });
      // A turn later: the calls that waited for the session go first.
      after(0, () => this.#announceChange(session));
      return session;
    } catch (error) {
      this.#reachable = false;
      if (!scope.aborted) {
        const asked = error instanceof UnreachableError ? clampHint(error.retryAfter ?? 0) : 0;
        this.#notBefore = performance.now() + Math.max(asked, backoffDelay(RENEWAL, this.#failures++));
        this.#machine.enter({ name: 'lost', session: lost, reason });
      }
      throw error;
    }
  }

  #enterProven(stored: ActiveSession, session: ActiveSession): ActiveSession {
    this.#open(session);
    this.accepted(session);
    if (session !== stored) this.#host.tell('reset', { reason: 'the server forgot the stored session', adopted: session.resumed });
    return session;
  }

  /** From here on calls go to the session, and it is listened to. */
  #open(session: ActiveSession): void {
    if (!this.#machine.enter({ name: session.resumed ? 'resuming' : 'ready', session })) return;
    this.#cache = {};
    this.#beat();
    if (session.resumed) return;
    this.#used();
    this.#listen(session);
  }

  /** A session with a call in flight or an open stream is in use, however long the server says nothing. */
  #beat(): void {
    this.#stopBeat();
    const interval = this.#negotiator.keeper?.touchInterval;
    if (interval === undefined) return;
    this.#stopBeat = afterIdle(interval, () => {
      const { session } = this;
      if (session && (!this.#host.wire.isIdle || this.#heard === session)) this.#used();
      this.#beat();
    });
  }

  #used(): void {
    this.#lastUsedAt = Date.now();
    this.#negotiator.keeper?.update({ lastUsedAt: this.#lastUsedAt });
  }

  /** A new session may be with a new version of the server: whoever caches its lists is told to look again. */
  #announceChange(session: ActiveSession): void {
    if (this.session !== session) return;
    const { capabilities } = session.initialized;
    for (const list of ['tools', 'prompts', 'resources'] as const) {
      if (!capabilities[list]?.listChanged) continue;
      const announcement: JSONRPCMessage = { jsonrpc: '2.0', method: `notifications/${list}/list_changed` };
      announcements.add(announcement);
      this.#host.toClient(announcement);
    }
  }

  #listen(session: ActiveSession): void {
    if (this.#host.options.listen === false || !session.link.listen || this.session !== session) return;
    this.#listener.start(session);
  }

  #streamHost(session: ActiveSession): StreamHost {
    const { wire, tell, prove } = this.#host;
    let told = '';
    return {
      hear: wire.hearOn(session.link),
      onUp: () => {
        this.#heard = session;
        told = '';
        if (this.state.name === 'degraded') this.#machine.enter({ name: 'ready', session });
      },
      onDown: (reason, retrying) => {
        this.#heard = undefined;
        this.#machine.enter({ name: 'degraded', session, reason });
        // The same news again and again is none.
        if (told === reason) return;
        told = reason;
        tell('degraded', { reason, retrying });
      },
      onCursor: (eventId) => this.#negotiator.keeper?.update({ cursor: eventId }),
      onCursorLost: (reason) => {
        this.#forgetCache();
        tell('cursorLost', { reason });
      },
      prove,
    };
  }
}
