import type { InitializeRequest, JSONRPCMessage, JSONRPCNotification } from '@modelcontextprotocol/sdk/types.js';
import { ClosedError, RepriseError, StoreError } from '../errors.ts';
import type { Connector, Ending, Link } from '../links/link.ts';
import { DEFAULTS, type SessionOptions } from '../options.ts';
import type { Tell } from './events.ts';
import { type Handshake, shakeHands } from './handshake.ts';
import { SessionKeeper, sessionKey } from './keeper.ts';
import { handshakeError, late } from './outcome.ts';
import type { SessionRecord } from './record.ts';
import { Restorables } from './restorables.ts';
import { ServerStream } from './server-stream.ts';
import { type ActiveSession, type SessionState, StateMachine } from './state.ts';
import type { Wire } from './wire.ts';

/** How long the end of a session on the server is waited for, in ms. */
const END_TIMEOUT = 2000;

export interface LifecycleHost {
  readonly options: SessionOptions;
  readonly wire: Wire;
  readonly tell: Tell;
  toClient(message: JSONRPCMessage): void;
  report(error: Error): void;
  /** Shows that the session is alive by a request on it, and has it replaced where it is not. */
  prove(): Promise<void>;
}

/** One session after another, as one: taken up, negotiated, lost, replaced, listened to, kept, ended. */
export class Lifecycle {
  readonly restorables = new Restorables();
  readonly #host: LifecycleHost;
  readonly #machine: StateMachine;
  #connector: Connector;
  #keeper: SessionKeeper | undefined;
  #key: string | undefined;
  #toldUnstored = false;
  #params: InitializeRequest['params'] | undefined;
  #renewal: Promise<ActiveSession> | undefined;
  #stream: ServerStream | undefined;
  #generation = 0;
  /** Counts up with each close. What was begun before one says nothing about what came after it. */
  #epoch = 0;
  /** When the handshake that is under way must be over, on the clock of `performance.now()`. */
  #handshakeBy = 0;
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

  /** Whether the session outlives this client: it is in a store that works. */
  get persistent(): boolean {
    return this.#keeper?.persistent ?? false;
  }

  start(): void {
    this.#machine.enter({ name: 'idle' });
  }

  /** The client's `initialize`: answered from the store where a session can be taken up, by the server otherwise. */
  async attach(params: InitializeRequest['params'], signal: AbortSignal): Promise<ActiveSession | undefined> {
    this.#params = params;
    if (!this.#machine.enter({ name: 'loading' })) throw new Error('the session is already initialized');
    const epoch = this.#epoch;
    this.#keeper ??= await this.#createKeeper();
    const record = await this.#keeper?.load(params.capabilities);
    if (signal.aborted || epoch !== this.#epoch) return undefined;
    if (record) {
      const session = this.#takeUp(record);
      this.#machine.enter({ name: 'resuming', session });
      return session;
    }
    this.#machine.enter({ name: 'negotiating' });
    try {
      const session = await this.#handshake(params, signal);
      this.#machine.enter({ name: 'negotiating', session });
      return session;
    } catch (error) {
      if (epoch !== this.#epoch) throw error;
      const denied = this.#host.options.authProvider !== undefined && !(error instanceof RepriseError);
      this.#machine.enter({ name: denied ? 'authorizing' : 'failed', error: error as Error });
      throw error;
    }
  }

  /** The client's `initialized`: for the server where it was asked, for nobody where the session was taken up. */
  async complete(message: JSONRPCNotification): Promise<void> {
    if (this.state.name === 'negotiating' && this.state.session) await this.#establish(this.state.session, message);
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
        return this.#renew();
      case 'negotiating':
        if (this.#renewal) return this.#renewal;
        if (state.session) return state.session;
        break;
      default:
    }
    throw new ClosedError(`The session is not open (it is ${state.name}). Nothing was sent: connect first.`, { outcome: 'not-sent' });
  }

  /** The server took a request: what was stored is proved, and the session is in use. */
  accepted(session: ActiveSession): void {
    this.#reachable = true;
    this.#used();
    if (this.state.name !== 'resuming' || this.state.session !== session) return;
    this.#machine.enter({ name: 'ready', session });
    this.#host.tell('resumed', { age: Math.max(0, Date.now() - session.createdAt) });
    this.#listen(session);
  }

  unreachable(): void {
    this.#reachable = false;
  }

  /** A session is gone. Only news of the present one counts: ten calls that were refused together lose it once. */
  lose(session: ActiveSession, reason: string): void {
    const { state } = this;
    if (!('session' in state) || state.session?.generation !== session.generation || state.name === 'lost') return;
    this.#stopListening();
    this.#machine.enter({ name: 'lost', session, reason });
    // What is in flight on it may still be answered, over HTTP; a pipe has nothing left.
    if (session.link.kind === 'pipe') void session.link.close().catch(() => {});
  }

  /** What the client asked of the session changed, and is to hold on the next one too. */
  saveRestorables(): void {
    this.#keeper?.update(this.restorables.snapshot());
  }

  /** Keeps something with the session for the next process, until the session ends. `undefined` removes it. */
  remember(name: string, value: unknown): void {
    const { [name]: before, ...others } = this.record?.cache ?? {};
    if (before !== value) this.#keeper?.update({ cache: value === undefined ? others : { ...others, [name]: value } });
  }

  /** Lets go. `'end'`: the server is told, and the store forgets. */
  async close(what: 'keep' | 'end'): Promise<void> {
    const { state } = this;
    const session = 'session' in state ? state.session : undefined;
    this.#machine.enter({ name: 'closing' });
    this.#epoch++;
    this.#renewal = undefined;
    this.#stopListening();
    if (session && what === 'end' && state.name !== 'lost') {
      await this.#keeper?.forget(session.id ?? '');
      // A server that is known to be away need not be waited for.
      if (this.#reachable || state.name === 'resuming') await session.link.end(AbortSignal.timeout(END_TIMEOUT));
    } else await this.#keeper?.flush();
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
    const renewal = this.#replaceLost().finally(() => {
      if (this.#renewal === renewal) this.#renewal = undefined;
    });
    this.#renewal = renewal;
    return renewal;
  }

  async #replaceLost(): Promise<ActiveSession> {
    const { state } = this;
    if (state.name !== 'lost' || !this.#params) throw new Error('there is no lost session to replace');
    const { session: lost, reason } = state;
    const epoch = this.#epoch;
    this.#machine.enter({ name: 'negotiating' });
    try {
      // Another process may have met the same loss, and been quicker.
      const record = await this.#keeper?.load(this.#params.capabilities, lost.id);
      const session = record ? this.#takeUp(record) : await this.#negotiate(this.#params);
      if (record) this.#machine.enter({ name: 'resuming', session });
      if (!session.resumed) await this.#restore(session);
      this.#host.tell('reset', { reason, adopted: session.resumed });
      this.#announceChange(session);
      return session;
    } catch (error) {
      if (epoch === this.#epoch) this.#machine.enter({ name: 'lost', session: lost, reason });
      throw error;
    }
  }

  /** A whole handshake. One that does not come to its end leaves no session behind. */
  async #negotiate(params: InitializeRequest['params']): Promise<ActiveSession> {
    const session = await this.#handshake(params);
    try {
      return await this.#establish(session);
    } catch (error) {
      this.#dismiss(session);
      throw error;
    }
  }

  async #handshake(params: InitializeRequest['params'], signal?: AbortSignal): Promise<ActiveSession> {
    const timeout = this.#connectTimeout;
    this.#handshakeBy = performance.now() + timeout;
    const handshake: Handshake = await shakeHands(this.#connector, {
      params,
      wire: this.#host.wire,
      timeout,
      openLink: (connector) => this.#openLink(connector),
      signal,
    }).catch((error: unknown) => {
      this.#reachable = false;
      throw error;
    });
    this.#reachable = true;
    this.#connector = handshake.connector;
    const { link, id, initialized } = handshake;
    return this.#activate({ link, id, initialized, resumed: false, createdAt: Date.now() });
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
    link.onMessage = this.#host.wire.hear;
    return link;
  }

  #activate(made: Omit<ActiveSession, 'generation'>): ActiveSession {
    const session = { ...made, generation: ++this.#generation };
    session.link.onGone = (reason) => this.lose(session, reason.message);
    return session;
  }

  /** Completes a handshake: from here on the session is open, stored, and listened to. */
  async #establish(session: ActiveSession, message: JSONRPCNotification = { jsonrpc: '2.0', method: 'notifications/initialized' }): Promise<ActiveSession> {
    const epoch = this.#epoch;
    const ending: Ending = await this.#host.wire.post(session.link, message, this.#handshakeLeft());
    if (epoch !== this.#epoch) throw new ClosedError('The client was closed during the handshake.', { outcome: 'not-sent' });
    if (ending.type === 'aborted') throw late('notifications/initialized', this.#connectTimeout);
    if (ending.type !== 'accepted' && ending.type !== 'ended') throw handshakeError(ending, this.#connector.address?.url ?? 'the server', session.link.kind === 'pipe');
    const kept = await this.#store(session);
    this.#machine.enter({ name: 'ready', session: kept });
    this.#used();
    this.#listen(kept);
    return kept;
  }

  /** Stores a new session. Where another process was quicker, its session is the one, and ours is ended. */
  async #store(session: ActiveSession): Promise<ActiveSession> {
    const { address } = this.#connector;
    if (!this.#keeper || !address || session.id === undefined || !this.#params) return session;
    const { principal, metadata } = this.#host.options;
    const record = await this.#keeper.claim({
      v: 1,
      id: session.id,
      url: address.url,
      ...(principal === undefined ? {} : { principal }),
      capabilities: this.#params.capabilities,
      initialized: session.initialized,
      createdAt: session.createdAt,
      lastUsedAt: Date.now(),
      expiresAt: null,
      ...this.restorables.snapshot(),
      ...(metadata === undefined ? {} : { metadata }),
    });
    if (record.id === session.id) return session;
    this.#dismiss(session);
    return this.#takeUp(record);
  }

  /** Ends a session of ours that will not be used. */
  #dismiss({ link }: ActiveSession): void {
    link.onGone = undefined;
    const gone = link.end(AbortSignal.timeout(END_TIMEOUT)).then(() => link.close()).catch((error: unknown) => this.#host.report(error as Error));
    this.#farewell = Promise.all([this.#farewell, gone]);
  }

  get #connectTimeout(): number {
    return this.#host.options.timeout?.connect ?? DEFAULTS.timeout.connect;
  }

  #handshakeLeft(): number {
    return Math.max(0, this.#handshakeBy - performance.now());
  }

  #used(): void {
    this.#lastUsedAt = Date.now();
    this.#keeper?.update({ lastUsedAt: this.#lastUsedAt });
  }

  async #restore({ link }: ActiveSession): Promise<void> {
    const timeout = this.#handshakeLeft();
    const results = await Promise.allSettled(this.restorables.requests().map((request) => this.#host.wire.ask(link, request, timeout)));
    for (const result of results) {
      if (result.status === 'fulfilled') continue;
      const { message } = result.reason as Error;
      this.#host.tell('warning', new Error(`a subscription or the log level could not be restored: ${message}`, { cause: result.reason }));
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
    if (options.listen === false || !session.link.listen) return;
    this.#stream = new ServerStream(
      session.link,
      {
        hear: wire.hear,
        onUp: () => {
          if (this.state.name === 'degraded') this.#machine.enter({ name: 'ready', session });
        },
        onDown: (reason, retrying) => {
          this.#machine.enter({ name: 'degraded', session, reason });
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
