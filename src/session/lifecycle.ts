import type { InitializeRequest, JSONRPCMessage, JSONRPCNotification } from '@modelcontextprotocol/sdk/types.js';
import { ClosedError, RepriseError, SessionLostError, StoreError, UnreachableError } from '../errors.ts';
import type { Connector, Link } from '../links/link.ts';
import { DEFAULTS, type SessionOptions } from '../options.ts';
import { after, type Backoff, backoffDelay, sleep } from '../timers.ts';
import type { Tell } from './events.ts';
import { shakeHands } from './handshake.ts';
import { clampHint } from './hints.ts';
import { SessionKeeper, sessionKey } from './keeper.ts';
import { handshakeError, late } from './outcome.ts';
import { canonical, type SessionRecord } from './record.ts';
import { type Change, Restorables } from './restorables.ts';
import { ServerStream } from './server-stream.ts';
import { type ActiveSession, type SessionState, StateMachine } from './state.ts';
import type { Wire } from './wire.ts';

/** How long the end of a session on the server is waited for, in ms. */
const END_TIMEOUT = 2000;
/** Between handshakes that replace a lost session, however many calls ask for it. */
const RENEWAL: Backoff = { min: 100, max: 2000, factor: 2, floor: 0.5 };
/** A client that took a session up and calls nothing may be one that only listens: after this time, in ms, the session is proved. */
const LISTENER = 1000;
/** Sessions known to be lost, at the most: the oldest are forgotten. */
const MOST_LOST = 100;

export interface LifecycleHost {
  readonly options: SessionOptions;
  readonly wire: Wire;
  readonly tell: Tell;
  toClient(message: JSONRPCMessage): void;
  report(error: Error): void;
  /** Shows that the session is alive by a request on it, and has it replaced where it is not. */
  prove(): Promise<void>;
}

type Params = InitializeRequest['params'];

/** One session after another, as one: taken up, negotiated, lost, replaced, listened to, kept, ended. */
export class Lifecycle {
  readonly #host: LifecycleHost;
  readonly #machine: StateMachine;
  readonly #restorables = new Restorables();
  /** The ids of sessions that a server has refused: none of them is ever taken up again. */
  readonly #lost = new Set<string>();
  #connector: Connector;
  #keeper: SessionKeeper | undefined;
  #key: string | undefined;
  #toldUnstored = false;
  #params: Params | undefined;
  /** From `start()` to `close()`: whatever is under way when it ends must not touch what comes after. */
  #scope = new AbortController();
  #renewal: Promise<ActiveSession> | undefined;
  /** Renewals that failed since the last session that worked, and when the next may begin, on the clock of `performance.now()`. */
  #failures = 0;
  #notBefore = 0;
  #stream: ServerStream | undefined;
  #stopProving = (): void => {};
  #generation = 0;
  #lastUsedAt: number | undefined;
  /** Whether the last thing we know of the server is that it answers. */
  #reachable = false;
  /** The ends of our sessions that lost to another process's: on their way to the server. */
  #farewell: Promise<unknown> = Promise.resolve();

  constructor(connector: Connector, host: LifecycleHost) {
    this.#connector = connector;
    this.#host = host;
    this.#machine = new StateMachine((from, to) => host.tell('state', { from, to }));
  }

  get state(): SessionState {
    return this.#machine.current;
  }

  /** The session that calls go to now, if there is one. */
  get session(): ActiveSession | undefined {
    return this.#machine.session;
  }

  get key(): string | undefined {
    return this.#key;
  }

  get record(): SessionRecord | undefined {
    return this.#keeper?.record;
  }

  get lastUsedAt(): number | undefined {
    return this.#lastUsedAt ?? this.record?.lastUsedAt;
  }

  /** Whether the session outlives this client: it is, or was, in a store where others find it. */
  get stored(): boolean {
    return this.#keeper?.stored ?? false;
  }

  start(): void {
    this.#scope = new AbortController();
    this.#machine.enter({ name: 'idle' });
  }

  /** The client's `initialize`: answered from the store where a session can be taken up, by the server otherwise. */
  async attach(params: Params, signal: AbortSignal): Promise<ActiveSession | undefined> {
    const scope = this.#scope.signal;
    this.#params = params;
    if (!this.#machine.enter({ name: 'loading' })) throw new Error('the session is already initialized');
    this.#restorables.clear();
    this.#keeper ??= await this.#createKeeper();
    const record = await this.#keeper?.load(params, this.#lost);
    if (signal.aborted || scope.aborted) return undefined;
    if (record) {
      const session = this.#takeUp(record);
      this.#machine.enter({ name: 'resuming', session });
      return session;
    }
    this.#machine.enter({ name: 'negotiating' });
    try {
      const session = await this.#handshake(params, AbortSignal.any([signal, scope]), this.#connectTimeout);
      this.#machine.enter({ name: 'negotiating', session });
      return session;
    } catch (error) {
      if (!scope.aborted) {
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
    if (state.name === 'negotiating' && state.session) {
      const session = await this.#establish(state.session, scope, this.#connectTimeout, message);
      this.#open(session);
    } else if (state.name === 'resuming' && this.#host.options.listen !== false) {
      this.#stopProving = after(LISTENER, () => void this.#host.prove().catch(() => {}));
    }
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
    throw new ClosedError(`The session is not open (it is ${state.name}). Nothing was sent: connect first.`, { outcome: 'not-sent' });
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
    if (session.id !== undefined) this.#noteLost(session.id);
    const { state } = this;
    if (!('session' in state) || state.session?.generation !== session.generation) return;
    if (!this.#machine.enter({ name: 'lost', session, reason })) return;
    this.#stopProving();
    this.#stopListening();
    // What is in flight on it may still be answered, over HTTP; a pipe has nothing left.
    if (session.link.kind === 'pipe') void session.link.close().catch(() => {});
  }

  /** The server granted a request: what that changed is to hold on the next session too. */
  granted(change: Change): void {
    if ('uri' in change) this.#keeper?.subscribe(change.uri, change.subscribed);
    else this.#keeper?.update(change);
  }

  get restorables(): Restorables {
    return this.#restorables;
  }

  /** Keeps something with the session for the next process, until the session ends. `undefined` removes it. */
  remember(name: string, value: unknown): void {
    const { [name]: before, ...others } = this.record?.cache ?? {};
    if (canonical(before) !== canonical(value)) this.#keeper?.update({ cache: value === undefined ? others : { ...others, [name]: value } });
  }

  /** Lets go. `'end'`: the server is told, and the store forgets. */
  async close(what: 'keep' | 'end'): Promise<void> {
    const { state } = this;
    const session = 'session' in state ? state.session : undefined;
    this.#machine.enter({ name: 'closing' });
    this.#scope.abort(new ClosedError('The client was closed during the handshake.', { outcome: 'not-sent' }));
    this.#renewal = undefined;
    this.#stopProving();
    this.#stopListening();
    // A server that is known to be away need not be waited for, and one that has forgotten the session need not be told.
    const present = state.name !== 'lost' && state.name !== 'backoff' && (this.#reachable || state.name === 'resuming');
    let ending = what === 'end';
    if (ending) await this.#keeper?.forget(session?.id ?? this.record?.id ?? '');
    else {
      await this.#keeper?.flush();
      ending = present && session?.id !== undefined && ((await this.#keeper?.isDisplaced(session.id)) ?? false);
    }
    if (session && ending && present) await session.link.end(AbortSignal.timeout(END_TIMEOUT));
    await this.#farewell;
    await session?.link.close().catch((error: unknown) => this.#host.report(error as Error));
    this.#connector.close();
    this.#machine.enter({ name: 'closed' });
  }

  async finishAuth(authorizationCode: string): Promise<void> {
    if (!this.#connector.finishAuth) throw new TypeError('there is no authorization to finish: give an `authProvider`');
    await this.#connector.finishAuth(authorizationCode);
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
      const session = await this.#successor(params, scope);
      this.#host.tell('reset', { reason, adopted: session.resumed });
      this.#announceChange(session);
      return session;
    } catch (error) {
      if (!scope.aborted) {
        const asked = error instanceof UnreachableError ? clampHint(error.retryAfter ?? 0) : 0;
        this.#notBefore = performance.now() + Math.max(asked, backoffDelay(RENEWAL, this.#failures++));
        this.#machine.enter({ name: 'lost', session: lost, reason });
      }
      throw error;
    }
  }

  /** What comes after a lost session: another process's, if one was quicker, or a new one, with everything restored. */
  async #successor(params: Params, scope: AbortSignal): Promise<ActiveSession> {
    const deadline = performance.now() + this.#connectTimeout;
    for (;;) {
      const record = await this.#keeper?.load(params, this.#lost);
      scope.throwIfAborted();
      if (this.record) this.#restorables.load(this.record);
      if (record) {
        const session = this.#takeUp(record);
        this.#machine.enter({ name: 'resuming', session });
        // What others asked of it is there; what we asked of the last one may not be.
        void this.#restore(session, scope, this.#connectTimeout, record).catch(() => {});
        return session;
      }
      const made = await this.#handshake(params, scope, deadline - performance.now());
      let session = made;
      try {
        session = await this.#establish(made, scope, deadline - performance.now());
        if (!session.resumed) await this.#restore(session, scope, deadline - performance.now());
      } catch (error) {
        if (session === made && !this.stored) this.#dismiss(made);
        // It was forgotten again before it was of any use.
        if (!(error instanceof SessionLostError) || performance.now() > deadline) throw error;
        if (session.id !== undefined) this.#noteLost(session.id);
        continue;
      }
      this.#open(session);
      return session;
    }
  }

  async #handshake(params: Params, signal: AbortSignal, timeout: number): Promise<ActiveSession> {
    try {
      const { link, id, initialized, connector } = await shakeHands(this.#connector, {
        params,
        wire: this.#host.wire,
        timeout,
        openLink: (each) => this.#openLink(each),
        signal,
      });
      this.#connector = connector;
      this.#reachable = true;
      const session = this.#activate({ link, id, initialized, resumed: false, createdAt: Date.now() });
      if (signal.aborted) this.#dismiss(session);
      signal.throwIfAborted();
      return session;
    } catch (error) {
      this.#reachable = false;
      throw error;
    }
  }

  /** Completes a handshake: the server is told, and the session is stored. Where another process was quicker, its session is the one. */
  async #establish(
    session: ActiveSession,
    scope: AbortSignal,
    timeout: number,
    message: JSONRPCNotification = { jsonrpc: '2.0', method: 'notifications/initialized' },
  ): Promise<ActiveSession> {
    const ending = await this.#host.wire.post(session.link, message, timeout);
    scope.throwIfAborted();
    if (ending.type === 'aborted') throw late('notifications/initialized', this.#connectTimeout);
    if (ending.type !== 'accepted' && ending.type !== 'ended') throw handshakeError(ending, this.#connector.address?.url ?? 'the server', session.link.kind === 'pipe');
    const { address } = this.#connector;
    if (!this.#keeper || !address || session.id === undefined || !this.#params) return session;
    const { principal, metadata } = this.#host.options;
    const record = await this.#keeper.claim(
      {
        v: 1,
        id: session.id,
        url: address.url,
        ...(principal === undefined ? {} : { principal }),
        capabilities: this.#params.capabilities,
        initialized: session.initialized,
        createdAt: session.createdAt,
        lastUsedAt: Date.now(),
        expiresAt: null,
        ...this.#restorables.snapshot(),
        ...(metadata === undefined ? {} : { metadata }),
      },
      this.#lost,
    );
    scope.throwIfAborted();
    if (record.id === session.id) return session;
    this.#dismiss(session);
    return this.#takeUp(record);
  }

  /** From here on calls go to the session, and it is listened to. */
  #open(session: ActiveSession): void {
    if (!this.#machine.enter({ name: session.resumed ? 'resuming' : 'ready', session })) return;
    this.#used();
    if (!session.resumed) this.#listen(session);
  }

  #takeUp({ id, initialized, createdAt, ...record }: SessionRecord): ActiveSession {
    const link = this.#openLink(this.#connector);
    link.adopt({ id, protocolVersion: initialized.protocolVersion });
    this.#restorables.load(record);
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
    session.link.onGone = (reason) => this.lose(session, reason.message);
    return session;
  }

  /** Ends a session of ours that will not be used. */
  #dismiss({ link }: ActiveSession): void {
    link.onGone = undefined;
    const gone = link.end(AbortSignal.timeout(END_TIMEOUT)).then(() => link.close()).catch((error: unknown) => this.#host.report(error as Error));
    this.#farewell = Promise.all([this.#farewell, gone]);
  }

  #noteLost(id: string): void {
    this.#lost.add(id);
    if (this.#lost.size > MOST_LOST) this.#lost.delete(this.#lost.values().next().value as string);
  }

  get #connectTimeout(): number {
    return this.#host.options.timeout?.connect ?? DEFAULTS.timeout.connect;
  }

  #used(): void {
    this.#lastUsedAt = Date.now();
    this.#keeper?.update({ lastUsedAt: this.#lastUsedAt });
  }

  /** Rejects where the session is lost meanwhile; whatever else goes wrong is told, and the session is used without it. */
  async #restore({ link }: ActiveSession, scope: AbortSignal, timeout: number, has?: SessionRecord): Promise<void> {
    const requests = this.#restorables.requests(has);
    const results = await Promise.allSettled(requests.map((request) => this.#host.wire.ask(link, request, timeout)));
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

  /** A new session may be with a new version of the server: whoever caches its lists is told to look again. */
  #announceChange({ initialized: { capabilities } }: ActiveSession): void {
    for (const list of ['tools', 'prompts', 'resources'] as const) {
      if (capabilities[list]?.listChanged) this.#host.toClient({ jsonrpc: '2.0', method: `notifications/${list}/list_changed` });
    }
  }

  #listen(session: ActiveSession): void {
    this.#stopListening();
    const { options, wire, tell, prove } = this.#host;
    if (options.listen === false || !session.link.listen || this.session !== session) return;
    let told = '';
    this.#stream = new ServerStream(
      session.link,
      {
        hear: wire.hearOn(session.link),
        onUp: () => {
          told = '';
          if (this.state.name === 'degraded') this.#machine.enter({ name: 'ready', session });
        },
        onDown: (reason, retrying) => {
          this.#machine.enter({ name: 'degraded', session, reason });
          // The same news again and again is none.
          if (told === reason) return;
          told = reason;
          tell('degraded', { reason, retrying });
        },
        onCursor: (eventId) => this.#keeper?.update({ cursor: eventId }),
        onCursorLost: (reason) => tell('cursorLost', { reason }),
        prove,
      },
      session.resumed ? this.record?.cursor : undefined,
    );
  }

  #stopListening(): void {
    this.#stream?.stop();
    this.#stream = undefined;
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
    return new SessionKeeper({ store, key: this.#key, scope: { url: address.url, principal }, ttl, tell });
  }
}
