import type { InitializeRequest, JSONRPCNotification } from '@modelcontextprotocol/sdk/types.js';
import { BadServerError, OutcomeUnknownError, SessionLostError, StoreError, UnreachableError } from '../errors.ts';
import type { Connector, Ending, Link } from '../links/link.ts';
import { isPermanent } from '../links/requester.ts';
import { DEFAULTS, type SessionOptions } from '../options.ts';
import type { Tell } from './events.ts';
import { shakeHands } from './handshake.ts';
import { SessionKeeper } from './keeper.ts';
import { sessionKey } from './key.ts';
import { errorOf, handshakeError, late } from './outcome.ts';
import type { Lock } from '../storage/store.ts';
import type { SessionRecord } from './record.ts';
import { Restorables } from './restorables.ts';
import { type Backoff, backoffDelay, expiring, limitOf, sleep, type TimeLimit } from '../timers.ts';
import type { ActiveSession } from './state.ts';
import { takeTurn } from './turn.ts';
import { askChange, type KeptState, type UserChange, type UserState, userState, withState } from './user-state.ts';
import type { OwnRequest, Wire } from './wire.ts';

/** How long the end of a session on the server is waited for, in ms. */
export const END_TIMEOUT = 2000;
/** Between handshakes that replace a lost session, however many calls ask for it. */
export const RENEWAL: Backoff = { min: 100, max: 2000, factor: 2, floor: 0.5 };
/** How often something that opens or restores a session is said again: the calls wait for it. */
const MOST_REPEATS = 3;
/** Sessions known to be lost, at the most: the oldest are forgotten. */
const MOST_LOST = 100;

export type Params = InitializeRequest['params'];

export interface NegotiatorHost {
  readonly options: SessionOptions;
  readonly wire: Wire;
  readonly tell: Tell;
  report(error: Error): void;
  /** A session's connection is gone by itself. */
  onGone(session: ActiveSession, reason: Error): void;
}

/** Makes sessions: takes up a stored one, or negotiates one, stores it, and brings it to where the last one was. */
export class Negotiator {
  readonly restorables = new Restorables();
  readonly #host: NegotiatorHost;
  /** The ids of sessions that a server has refused: none of them is ever taken up again. */
  readonly #lost = new Set<string>();
  #connector: Connector;
  #keeper: SessionKeeper | undefined;
  #key: string | undefined;
  #toldUnstored = false;
  /** What the user keeps with a session that has no record. */
  #kept: KeptState = {};
  #generation = 0;
  /** The turn to make a session, while this process has it. */
  #turn: Lock | undefined;
  /** The ends of our sessions that lost to another process's: on their way to the server. */
  #farewell: Promise<unknown> = Promise.resolve();

  constructor(connector: Connector, host: NegotiatorHost) {
    this.#connector = connector;
    this.#host = host;
    this.clear();
  }

  get keeper(): SessionKeeper | undefined {
    return this.#keeper;
  }

  /** The key in the store, once known. */
  get key(): string | undefined {
    return this.#key;
  }

  get timeout(): number {
    return this.#host.options.timeout?.connect ?? DEFAULTS.timeout.connect;
  }

  async finishAuth(authorizationCode: string): Promise<void> {
    if (!this.#connector.finishAuth) throw new TypeError('there is no authorization to finish: give an `authProvider`');
    await this.#connector.finishAuth(authorizationCode);
  }

  /** Nothing is known of a session yet. */
  clear(): void {
    const { metadata } = this.#host.options;
    this.restorables.clear();
    this.#kept = metadata === undefined ? {} : { metadata };
  }

  /** Whatever comes of it, the server will be asked something soon. */
  warm(): void {
    this.#connector.warm?.('POST');
  }

  /** The stored session, if there is one to take up. */
  async load(params: Params): Promise<ActiveSession | undefined> {
    this.#keeper ??= await this.#createKeeper();
    const record = await this.#keeper?.load(params, this.#lost);
    return record && this.#takeUp(record);
  }

  /**
   * The same, or the turn to make one: of all processes that find none, one makes it, and the others find that. The turn lasts until
   * {@link endTurn}.
   */
  loadInTurn(params: Params, scope: AbortSignal): Promise<ActiveSession | undefined> {
    const loading = this.#loadInTurn(params, scope);
    // Whoever gave it up meanwhile does not wait for it.
    this.#leaveBehind(loading.then(() => undefined, () => undefined));
    return loading;
  }

  async #loadInTurn(params: Params, scope: AbortSignal): Promise<ActiveSession | undefined> {
    const stored = await this.load(params);
    if (stored) return stored;
    if (!this.#keeper) return undefined;
    const turn = await this.#takeTurn(scope);
    if (scope.aborted) {
      // The client may have been closed and be connecting again: that has a turn of its own.
      this.#release(turn);
      return undefined;
    }
    this.#turn = turn;
    const made = await this.load(params);
    if (made && !scope.aborted) this.endTurn();
    return made;
  }

  /** Whoever waits for a turn may have it. Only {@link close} waits for that: a store that is slow to release it keeps nobody from a session. */
  endTurn(): void {
    this.#release(this.#turn);
    this.#turn = undefined;
  }

  #release(turn: Lock | undefined): void {
    if (turn) this.#leaveBehind(turn.release());
  }

  async #takeTurn(scope: AbortSignal): Promise<Lock | undefined> {
    if (!this.#keeper) return undefined;
    return takeTurn(this.#keeper, { lost: this.#lost, patience: this.timeout / 2, scope, behind: (task) => this.#leaveBehind(task) });
  }

  get user(): UserState {
    return userState(this.#keeper?.record ?? this.#kept);
  }

  /** Changes what the user keeps with the session: atomically in the store, in memory where the session is not stored. */
  async changeUser(change: (session: UserState) => UserChange): Promise<void> {
    if (this.#keeper?.record) await this.#keeper.edit(change);
    else this.#kept = withState(this.#kept, askChange(this.user, change));
  }

  /** A stored session of which the server says that it still knows it, or the one in its place. Rejects where it says nothing. */
  async proven(stored: ActiveSession, params: Params, scope: AbortSignal): Promise<ActiveSession> {
    let session = stored;
    while (session.resumed && !(await this.#proves(session))) session = await this.successor(params, scope);
    scope.throwIfAborted();
    return session;
  }

  async #proves({ id, link }: ActiveSession): Promise<boolean> {
    try {
      await this.#host.wire.ask(link, { method: 'ping' }, this.timeout);
    } catch (error) {
      if (error instanceof SessionLostError && id !== undefined) {
        this.noteLost(id);
        return false;
      }
      // An error is an answer too.
      if (!(error instanceof BadServerError)) throw error;
    }
    return true;
  }

  noteLost(id: string): void {
    this.#lost.add(id);
    if (this.#lost.size > MOST_LOST) this.#lost.delete(this.#lost.values().next().value as string);
  }

  /** Lets go of what its sessions share. */
  async close(): Promise<void> {
    await this.#farewell;
    this.#connector.close();
  }

  /** What comes after a lost session: another process's, if one was quicker, or a new one, with everything restored. */
  async successor(params: Params, scope: AbortSignal): Promise<ActiveSession> {
    const limit = limitOf(this.timeout);
    const turn = await this.#takeTurn(scope);
    try {
      return await this.#succeed(params, scope, limit);
    } finally {
      this.#release(turn);
    }
  }

  async #succeed(params: Params, scope: AbortSignal, limit: TimeLimit): Promise<ActiveSession> {
    const left = (): number => Math.max(0, limit.by - performance.now());
    for (let tries = 0; ; tries++) {
      const record = await this.#keeper?.load(params, this.#lost);
      scope.throwIfAborted();
      if (this.#keeper?.record) this.restorables.load(this.#keeper.record);
      if (record) {
        const session = this.#takeUp(record);
        // What others asked of it is there; what we asked of the last one may not be.
        void this.#restore(session, scope, this.timeout, record).catch(() => {});
        return session;
      }
      // The store may have taken all of it.
      if (left() === 0) throw late('initialize', limit.timeout);
      const made = await this.handshake(params, scope, left());
      let session: ActiveSession | undefined;
      try {
        session = await this.establish(params, made, scope, limit);
        scope.throwIfAborted();
        if (!session.resumed) await this.#restore(session, scope, left());
        return session;
      } catch (error) {
        if (!session) this.#dismiss(made);
        if (!(error instanceof SessionLostError) || left() === 0) throw error;
        // It was forgotten again before it was of any use: a server that always does that is not to be asked as fast as it answers.
        if (made.id !== undefined) this.noteLost(made.id);
        await sleep(Math.min(backoffDelay(RENEWAL, tries), left()), scope);
      }
    }
  }

  /** `initialize` on the wire. What it makes is open, and not yet told that it is (`establish`). */
  async handshake(params: Params, signal: AbortSignal, timeout: number): Promise<ActiveSession> {
    const { link, id, initialized, connector } = await shakeHands(this.#connector, {
      params,
      wire: this.#host.wire,
      timeout,
      openLink: (each) => this.#openLink(each),
      signal,
    });
    this.#connector = connector;
    const session = this.#activate({ link, id, initialized, resumed: false, createdAt: Date.now() });
    if (signal.aborted) this.#dismiss(session);
    signal.throwIfAborted();
    return session;
  }

  /**
   * Completes a handshake: the server is told, and the session is stored. Where another process was quicker, its session is the one.
   * What is stored by the time that the scope ends stays: whoever asked looks at the scope.
   */
  async establish(
    params: Params,
    session: ActiveSession,
    scope: AbortSignal,
    { by, timeout }: TimeLimit,
    message: JSONRPCNotification = { jsonrpc: '2.0', method: 'notifications/initialized' },
  ): Promise<ActiveSession> {
    if (!scope.aborted && this.#host.options.listen !== false) this.#connector.warm?.('GET');
    const ending = await this.#tell(session.link, message, scope, by);
    scope.throwIfAborted();
    if (ending.type === 'aborted') throw late('notifications/initialized', timeout);
    // Forgotten between the two halves: that is no word on the handshake, and another one may be made.
    if (ending.type === 'refused' && ending.failure.verdict === 'session-lost') throw errorOf(ending, 'notifications/initialized');
    if (ending.type !== 'accepted' && ending.type !== 'ended') throw handshakeError(ending, this.#connector.address?.url ?? 'the server', session.link.kind === 'pipe');
    const { address } = this.#connector;
    if (!this.#keeper || !address || session.id === undefined) return session;
    const { principal } = this.#host.options;
    const made: SessionRecord = {
      v: 1,
      id: session.id,
      url: address.url,
      ...(principal === undefined ? {} : { principal }),
      capabilities: params.capabilities,
      initialized: session.initialized,
      createdAt: session.createdAt,
      lastUsedAt: Date.now(),
      expiresAt: null,
      ...this.restorables.snapshot(),
    };
    const { winner, replaced } = await this.#keeper.claim(withState(made, this.#kept), this.#lost);
    if (replaced) this.#endReplaced(replaced);
    if (winner.id === session.id) return session;
    this.#dismiss(session);
    return this.#takeUp(winner);
  }

  #takeUp({ id, initialized, createdAt, ...record }: SessionRecord): ActiveSession {
    const link = this.#openLink(this.#connector);
    link.adopt({ id, protocolVersion: initialized.protocolVersion });
    this.restorables.load(record);
    return this.#activate({ link, id, initialized, resumed: true, createdAt });
  }

  #openLink(connector: Connector): Link {
    const link = connector.connect();
    link.onNoise = (error) => this.#host.report(error);
    link.onMessage = this.#host.wire.hearOn(link);
    return link;
  }

  #activate(made: Omit<ActiveSession, 'generation'>): ActiveSession {
    const session = { ...made, generation: ++this.#generation };
    session.link.onGone = (reason) => this.#host.onGone(session, reason);
    return session;
  }

  /** Ends a stored session whose place is taken: nobody will find it any more. */
  #endReplaced({ id, initialized }: SessionRecord): void {
    const link = this.#connector.connect();
    link.adopt({ id, protocolVersion: initialized.protocolVersion });
    this.#dismiss({ link });
  }

  /** Ends a session of ours that will not be used. */
  #dismiss({ link }: Pick<ActiveSession, 'link'>): void {
    link.onGone = undefined;
    const gone = link.end(expiring(END_TIMEOUT)).then(() => link.close()).catch((error: unknown) => this.#host.report(error as Error));
    this.#leaveBehind(gone);
  }

  /** What goes on by itself, until the client is closed. Must not reject. */
  #leaveBehind(task: Promise<void>): void {
    // Without their results: each would hold the one before, for as long as the client lives.
    this.#farewell = Promise.all([this.#farewell, task]).then(() => undefined);
  }

  /** Rejects where the session is lost meanwhile; whatever else goes wrong is told, and the session is used without it. */
  async #restore({ link }: ActiveSession, scope: AbortSignal, timeout: number, has?: SessionRecord): Promise<void> {
    const requests = this.restorables.requests(has);
    const results = await Promise.allSettled(requests.map((request) => this.#askAgain(link, request, scope, timeout)));
    scope.throwIfAborted();
    for (const result of results) {
      if (result.status === 'rejected' && result.reason instanceof SessionLostError) throw result.reason;
    }
    for (const [i, result] of results.entries()) {
      const request = requests[i];
      if (result.status === 'rejected') {
        const { message } = result.reason as Error;
        this.#host.tell('warning', new Error(`a subscription or the log level could not be restored: ${message}`, { cause: result.reason }));
      } else if (has && request?.params && 'uri' in request.params) this.#keeper?.subscribe(String(request.params['uri']), true);
    }
  }

  /** That a handshake is complete may be told twice. A connection that breaks at that moment is no reason to throw the session away. */
  #tell(link: Link, message: JSONRPCNotification, scope: AbortSignal, by: number): Promise<Ending> {
    return again((left) => this.#host.wire.post(link, message, left), {
      by,
      scope,
      // A pipe that broke stays broken.
      broke: ({ value }) => link.kind !== 'pipe' && (value?.type === 'cut' ? !isPermanent(value.error) : value?.type === 'not-sent' && !value.permanent),
    });
  }

  /** What restores a session may be asked for twice. A network that breaks for a moment is no reason to go on without it. */
  #askAgain(link: Link, request: OwnRequest, scope: AbortSignal, timeout: number): Promise<unknown> {
    return again((left) => this.#host.wire.ask(link, request, left), {
      by: performance.now() + timeout,
      scope,
      broke: ({ error }) => (error instanceof UnreachableError ? !error.permanent : error instanceof OutcomeUnknownError),
    });
  }

  async #createKeeper(): Promise<SessionKeeper | undefined> {
    const { store, principal, authProvider, session = DEFAULTS.session, ttl = DEFAULTS.ttl } = this.#host.options;
    const { address } = this.#connector;
    const { tell } = this.#host;
    if (!store || !address) return undefined;
    if (authProvider && principal === undefined) {
      if (!this.#toldUnstored) tell('warning', new StoreError('With an `authProvider` and no `principal` the session is not stored: say on whose behalf it is.'));
      this.#toldUnstored = true;
      return undefined;
    }
    try {
      this.#key = await sessionKey(address, principal, session);
    } catch (error) {
      tell('warning', new StoreError('The session is not stored: this page is no secure context, so its key cannot be made.', { cause: error }));
      return undefined;
    }
    return new SessionKeeper({ store, key: this.#key, scope: { url: address.url, principal }, ttl, tell, leaveBehind: (task) => this.#leaveBehind(task) });
  }
}

/** Does what may be done twice, again where its connection broke, as long as there is time. Rejects as `once` does, or when the scope ends. */
async function again<T>(
  once: (left: number) => Promise<T>,
  { by, scope, broke }: { by: number; scope: AbortSignal; broke(outcome: { readonly value?: T; readonly error?: unknown }): boolean },
): Promise<T> {
  for (let tries = 0; ; tries++) {
    const [settled] = await Promise.allSettled([once(by - performance.now())]);
    const outcome = settled.status === 'fulfilled' ? { value: settled.value } : { error: settled.reason as unknown };
    const delay = backoffDelay(RENEWAL, tries);
    if (!broke(outcome) || tries >= MOST_REPEATS || performance.now() + delay >= by) {
      if (settled.status === 'rejected') throw settled.reason;
      return settled.value;
    }
    await sleep(delay, scope);
  }
}
