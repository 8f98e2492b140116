import type { Transport, TransportSendOptions } from '@modelcontextprotocol/sdk/shared/transport.js';
import type {
  InitializeRequest,
  InitializeResult,
  JSONRPCMessage,
  JSONRPCNotification,
  JSONRPCRequest,
  JSONRPCResponse,
} from '@modelcontextprotocol/sdk/types.js';
import { asyncDispose } from '../dispose.ts';
import { ClosedError, DeadlineError, SessionLostError, StoreError } from '../errors.ts';
import { connectorFor } from '../links/connector.ts';
import type { Connector, Ending, Link } from '../links/link.ts';
import { checkSessionOptions, DEFAULTS, type SessionOptions, type Target } from '../options.ts';
import { after } from '../timers.ts';
import { type Answer, Correlator, PendingCall } from './correlator.ts';
import { createEvents, type SessionEmitter, type Tell } from './events.ts';
import { SessionKeeper, sessionKey } from './keeper.ts';
import { badServer, errorOf, notSentBecause } from './outcome.ts';
import { isInitializeResult, isSessionId, type SessionRecord } from './record.ts';
import { Restorables } from './restorables.ts';
import { ServerStream } from './server-stream.ts';
import { type ActiveSession, StateMachine, type StateName } from './state.ts';
import { transmit } from './transmit.ts';

/** What is known of a session. */
export interface SessionInfo {
  /** The server's session id. It is a secret: whoever has it can act as this client. */
  readonly id: string | undefined;
  /** The key in the store, once known. */
  readonly key: string | undefined;
  readonly state: StateName;
  /** Whether it was taken up rather than negotiated. */
  readonly resumed: boolean;
  readonly protocolVersion: string | undefined;
  /** Unix times in ms. */
  readonly createdAt: number | undefined;
  readonly lastUsedAt: number | undefined;
  /** When it is no longer taken up; `undefined` where it is not stored, or never expires. */
  readonly expiresAt: number | undefined;
  readonly metadata: Readonly<Record<string, unknown>>;
}

/** How long `close()` waits for the server's answer to DELETE, in ms. */
const END_TIMEOUT = 2000;

/**
 * An SDK transport that is one MCP session, however many connections, processes and server restarts it takes.
 *
 * It takes up a stored session without a handshake, keeps request ids apart from those of other processes, resumes broken streams,
 * and replaces a session that the server has forgotten. It works under the SDK's `Client` (v1 and v2) and under anything else that
 * takes an SDK transport.
 *
 * A request that fails rejects `send()`, and thereby the call, with a {@link RepriseError}, which says what became of it.
 */
export class SessionTransport implements Transport {
  onclose?: (() => void) | undefined;
  onerror?: ((error: Error) => void) | undefined;
  onmessage?: (<T extends JSONRPCMessage>(message: T) => void) | undefined;
  /** What happens to the session. */
  readonly events: SessionEmitter;

  readonly #options: SessionOptions;
  /** @internal Tells an event of the client above. */
  readonly tell: Tell;
  readonly #machine: StateMachine;
  readonly #correlator = new Correlator();
  readonly #restorables = new Restorables();
  /** Ends the exchanges of notifications and answers, which no call owns. */
  #leaving = new AbortController();
  #connector: Connector;
  #keeper: SessionKeeper | undefined;
  #key: string | undefined;
  #params: InitializeRequest['params'] | undefined;
  #renewal: Promise<ActiveSession> | undefined;
  #stream: ServerStream | undefined;
  #generation = 0;
  #internalIds = 0;
  #lastUsedAt: number | undefined;
  /** Whether the last thing we know of the server is that it answers. */
  #reachable = false;
  #started = false;

  /** @throws TypeError or RangeError for a target or an option that makes no sense */
  constructor(target: Target, options: SessionOptions = {}) {
    checkSessionOptions(options);
    this.#options = options;
    this.#connector = connectorFor(target, { ...options, responseLimit: options.limits?.responseBytes ?? DEFAULTS.responseBytes });
    const { events, tell } = createEvents((error) => this.#report(error));
    this.events = events;
    this.tell = tell;
    this.#machine = new StateMachine((from, to) => tell('state', { from, to }));
  }

  /** `undefined` until the client is connected: the SDK would take an id for a handshake that is already done. */
  get sessionId(): string | undefined {
    return this.#machine.session?.id;
  }

  get session(): SessionInfo {
    const state = this.#machine.current;
    const session = 'session' in state ? state.session : undefined;
    const record = this.#keeper?.record;
    return {
      id: session?.id,
      key: this.#key,
      state: state.name,
      resumed: session?.resumed ?? false,
      protocolVersion: session?.initialized.protocolVersion,
      createdAt: session?.createdAt,
      lastUsedAt: this.#lastUsedAt ?? record?.lastUsedAt,
      expiresAt: (this.#keeper?.persistent && record?.expiresAt) || undefined,
      metadata: record?.metadata ?? this.#options.metadata ?? {},
    };
  }

  /** What the server said of itself when the present session was made. */
  get initialized(): InitializeResult | undefined {
    const state = this.#machine.current;
    return 'session' in state ? state.session?.initialized : undefined;
  }

  /** Messages of the server that were dropped because they belong to no request of this client. */
  get droppedMessages(): number {
    return this.#correlator.dropped;
  }

  async start(): Promise<void> {
    if (this.#started) throw new Error('the transport is already started; Client.connect() starts it by itself');
    this.#started = true;
    this.#leaving = new AbortController();
    this.#machine.enter({ name: 'idle' });
  }

  /** Exchanges the authorization code that the user came back with. Then connect (again). */
  async finishAuth(authorizationCode: string): Promise<void> {
    if (!this.#connector.finishAuth) throw new TypeError('there is no authorization to finish: give an `authProvider`');
    await this.#connector.finishAuth(authorizationCode);
  }

  /** The version is known from the handshake, and each session has its own. */
  setProtocolVersion(_version: string): void {}

  /**
   * Sends a message. For a request it resolves when the answer has been handed over (or the request was cancelled), and rejects
   * when there will be none, with an error that says what became of it.
   */
  async send(message: JSONRPCMessage, _options?: TransportSendOptions): Promise<void> {
    if (!this.#started) throw new ClosedError('The transport is closed, or not yet started. Nothing was sent: connect first.', { outcome: 'not-sent' });
    if (!('method' in message)) return this.#answer(message);
    if ('id' in message) return this.#request(message);
    if (message.method === 'notifications/initialized') return this.#onInitialized(message);
    if (message.method === 'notifications/cancelled') return this.#cancel(message);
    return this.#notify(message);
  }

  /** Leaves. A stored session stays resumable; any other is ended on the server. Calls in flight fail with `ClosedError`. */
  async close(): Promise<void> {
    await this.#close(this.#keeper?.persistent ? 'keep' : 'end');
  }

  /** Ends the session on the server (DELETE), forgets it, and closes. */
  async end(): Promise<void> {
    await this.#close('end');
  }

  async [asyncDispose](): Promise<void> {
    await this.close();
  }

  // ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

  async #request(message: JSONRPCRequest): Promise<void> {
    const call = this.#correlator.open(message, (answer) => {
      if ('result' in answer && this.#restorables.note(message)) this.#keeper?.update(this.#restorables.snapshot());
      this.#toClient(answer);
    });
    const run = message.method === 'initialize' ? this.#attach(call) : this.#run(call);
    run.catch((error: unknown) => call.fail(error as Error));
    try {
      await call.settled;
    } catch (error) {
      this.#correlator.close(call);
      // The SDK keeps the handler of a request whose send() rejects. An error message for it, after it has rejected, clears that up.
      after(0, () => {
        if (this.#started) this.#toClient({ jsonrpc: '2.0', id: message.id, error: { code: -32000, message: (error as Error).message } });
      });
      throw error;
    }
  }

  /** One call of the client, over as many sessions as it takes. */
  async #run(call: PendingCall): Promise<void> {
    const what = describe(call.request);
    for (let replayed = false; ; replayed = true) {
      const session = await this.#ready().catch((error: unknown) => {
        throw notSentBecause(error, what);
      });
      if (call.done) return;
      const ending = await this.#transmit(call, session);
      if (call.done) return;
      if (!(ending.type === 'refused' && ending.failure.verdict === 'session-lost')) throw errorOf(ending, what);

      this.#lose(session, `the server answered ${ending.failure.status} to a request on it`);
      if (this.#options.onSessionLost === 'fail') throw errorOf(ending, what);
      if (replayed) {
        throw new SessionLostError(
          `The server refused ${what} on a new session too, as it had on the one before (${ending.failure.status}). It did not run. If the server has several replicas, the load balancer is probably not sticky.`,
        );
      }
    }
  }

  async #transmit(call: PendingCall, session: ActiveSession): Promise<Ending> {
    call.link = session.link;
    const ending = await transmit(call, session, this.#correlator, {
      hear: (message) => this.#hear(message),
      onAccepted: () => this.#onAccepted(session),
    });
    if (ending.type === 'not-sent') this.#reachable = false;
    return ending;
  }

  /** A request of our own, over one session and no other. */
  async #ask(session: ActiveSession, method: string, params: Record<string, unknown>): Promise<void> {
    const call = this.#openInternal(method, params);
    const ending = await this.#transmit(call, session);
    if (!call.done) call.fail(errorOf(ending, method));
    this.#correlator.close(call);
    await expectResult(call);
  }

  /** Shows that the session is alive by a request of our own; replaces it where it is not. */
  async #prove(): Promise<void> {
    const call = this.#openInternal('ping', undefined);
    await this.#run(call).catch((error: unknown) => call.fail(error as Error));
    this.#correlator.close(call);
    // An error is an answer too.
    await call.settled;
  }

  #openInternal(method: string, params: Record<string, unknown> | undefined): PendingCall {
    const id = `reprise-${++this.#internalIds}`;
    return this.#correlator.open({ jsonrpc: '2.0', id, method, ...(params ? { params } : {}) });
  }

  async #cancel(message: JSONRPCNotification): Promise<void> {
    const call = this.#correlator.find(message.params?.['requestId'] as string | number);
    if (!call) return;
    const { link, wireId } = call;
    this.#correlator.close(call);
    call.drop();
    call.abort.abort(new Error('the call was cancelled'));
    // The spec forbids to cancel initialize (2025-11-25, Lifecycle); a request that never went out needs no cancelling.
    if (!link || wireId === undefined || call.request.method === 'initialize') return;
    await this.#post(link, { ...message, params: { ...message.params, requestId: wireId } });
  }

  // ── notifications and answers ─────────────────────────────────────────────────────────────────────────────────────────────

  async #notify(message: JSONRPCNotification): Promise<void> {
    const session = await this.#ready();
    const ending = await this.#post(session.link, message);
    if (ending.type === 'refused' && ending.failure.verdict === 'session-lost') {
      this.#lose(session, `the server answered ${ending.failure.status} to a notification on it`);
      if (this.#options.onSessionLost === 'fail') throw errorOf(ending, message.method);
      const renewed = await this.#ready();
      ensureTaken(await this.#post(renewed.link, message), message.method);
    } else ensureTaken(ending, message.method);
  }

  /** An answer to a request of the server. If the session is gone by now, so is whoever asked. */
  async #answer(message: JSONRPCResponse): Promise<void> {
    const session = this.#machine.session;
    if (!session) return;
    const ending = await this.#post(session.link, message);
    if (ending.type === 'refused' && ending.failure.verdict === 'session-lost') return;
    ensureTaken(ending, 'an answer to the server');
  }

  #post(link: Link, message: JSONRPCMessage): Promise<Ending> {
    return link.send(message, { signal: this.#leaving.signal, hear: (heard) => this.#hear(heard) });
  }

  // ── messages of the server ────────────────────────────────────────────────────────────────────────────────────────────────

  #hear(message: JSONRPCMessage): void {
    const remaining = this.#correlator.receive(message);
    if (remaining) this.#toClient(remaining);
  }

  #toClient(message: JSONRPCMessage): void {
    try {
      this.onmessage?.(message);
    } catch (error) {
      this.#report(error as Error);
    }
  }

  #report(error: Error): void {
    try {
      this.onerror?.(error);
    } catch {
      // Whoever throws in an error handler has nowhere left to be told (G11).
    }
  }

  // ── the session ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The client's `initialize`: answered from the store where a session can be taken up, by the server otherwise. */
  async #attach(call: PendingCall): Promise<void> {
    this.#params = call.request.params as InitializeRequest['params'];
    if (!this.#machine.enter({ name: 'loading' })) throw new Error('the session is already initialized');
    this.#keeper ??= await this.#createKeeper();
    const record = await this.#keeper?.load(this.#params.capabilities);
    if (call.done || !this.#started) return;
    if (record) {
      const session = this.#takeUp(record);
      this.#machine.enter({ name: 'resuming', session });
      call.answer({ jsonrpc: '2.0', id: call.request.id, result: { ...session.initialized } });
      return;
    }
    this.#machine.enter({ name: 'negotiating' });
    try {
      const session = await this.#handshake(this.#params, call);
      this.#machine.enter({ name: 'negotiating', session });
      call.answer({ jsonrpc: '2.0', id: call.request.id, result: { ...session.initialized } });
    } catch (error) {
      const denied = this.#options.authProvider !== undefined && !(error instanceof Error && 'outcome' in error);
      this.#machine.enter(denied ? { name: 'authorizing', error: error as Error } : { name: 'failed', error: error as Error });
      throw error;
    }
  }

  /** The client's `initialized`: for the server where it was asked, for nobody where the session was taken up. */
  async #onInitialized(message: JSONRPCNotification): Promise<void> {
    const state = this.#machine.current;
    if (state.name !== 'negotiating' || !state.session) return;
    await this.#establish(state.session, message);
  }

  /** The session that a call goes to now. Waits for a handshake that is under way; starts one where the session was lost. */
  async #ready(): Promise<ActiveSession> {
    const state = this.#machine.current;
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

  /** One new session in place of a lost one, whatever the number of calls that ask for it (G6). */
  #renew(): Promise<ActiveSession> {
    this.#renewal ??= this.#replaceLost().finally(() => (this.#renewal = undefined));
    return this.#renewal;
  }

  async #replaceLost(): Promise<ActiveSession> {
    const state = this.#machine.current;
    if (state.name !== 'lost' || !this.#params) throw new Error('there is no lost session to replace');
    const { session: lost, reason } = state;
    this.#machine.enter({ name: 'negotiating' });
    try {
      const record = await this.#keeper?.load(this.#params.capabilities, lost.id);
      const adopted = record ? this.#takeUp(record) : undefined;
      if (adopted) this.#machine.enter({ name: 'resuming', session: adopted });
      const session = adopted ?? (await this.#establish(await this.#handshake(this.#params)));
      if (!session.resumed) await this.#restore(session);
      this.tell('reset', { reason, adopted: session.resumed });
      this.#announceChange(session);
      return session;
    } catch (error) {
      this.#machine.enter({ name: 'lost', session: lost, reason });
      throw error;
    }
  }

  /** `initialize` on the wire, on a link of its own. Carries no session id, whatever came before. */
  async #handshake(params: InitializeRequest['params'], onBehalfOf?: PendingCall): Promise<ActiveSession> {
    const limit = this.#options.timeout?.connect ?? DEFAULTS.timeout.connect;
    const call = this.#openInternal('initialize', params);
    const stop = after(limit, () => {
      call.fail(new DeadlineError(`The server did not answer the handshake within ${limit} ms (timeout.connect).`, { outcome: 'not-sent', timeout: limit }));
      call.abort.abort(new Error('the handshake timed out'));
    });
    onBehalfOf?.abort.signal.addEventListener('abort', () => call.abort.abort(onBehalfOf.abort.signal.reason), { once: true });
    try {
      return await this.#negotiate(call, this.#connector);
    } finally {
      stop();
      this.#correlator.close(call);
    }
  }

  async #negotiate(call: PendingCall, connector: Connector): Promise<ActiveSession> {
    const link = this.#openLink(connector);
    let sessionId: string | undefined;
    let ending: Ending;
    try {
      await link.open();
      call.link = link;
      ending = await transmit(call, { link } as ActiveSession, this.#correlator, {
        hear: (message) => this.#hear(message),
        onAccepted: (head) => (sessionId = head.sessionId),
      });
    } catch (error) {
      ending = { type: 'not-sent', error: error as Error };
    }
    this.#reachable = ending.type !== 'not-sent';
    if (!call.done) {
      void link.close().catch(() => {});
      const other = ending.type === 'refused' ? connector.fallback?.(ending.failure) : undefined;
      if (!other) throw errorOf(ending, 'initialize');
      const session = await this.#negotiate(call, other).catch((error: unknown) => {
        // Two transports failed: the first one's word is the better explanation.
        throw error instanceof DeadlineError ? error : errorOf(ending, 'initialize');
      });
      connector.close();
      this.#connector = other;
      return session;
    }
    try {
      return this.#activate(link, await expectResult(call), sessionId);
    } catch (error) {
      void link.close().catch(() => {});
      throw error;
    }
  }

  #activate(link: Link, initialized: unknown, sessionId: string | undefined): ActiveSession {
    if (!isInitializeResult(initialized)) throw badServer('The server answered initialize with something that is not an InitializeResult');
    if (sessionId !== undefined && !isSessionId(sessionId)) {
      throw badServer('The server gave a session id that the protocol does not allow (1 to 1024 visible ASCII characters)');
    }
    link.adopt({ id: sessionId, protocolVersion: initialized.protocolVersion });
    return this.#watch({ generation: ++this.#generation, link, id: sessionId, initialized, resumed: false, createdAt: Date.now() });
  }

  #takeUp(record: SessionRecord): ActiveSession {
    const link = this.#openLink(this.#connector);
    link.adopt({ id: record.id, protocolVersion: record.initialized.protocolVersion });
    this.#restorables.load(record);
    return this.#watch({ generation: ++this.#generation, link, id: record.id, initialized: record.initialized, resumed: true, createdAt: record.createdAt });
  }

  #openLink(connector: Connector): Link {
    const link = connector.connect();
    link.onNoise = (error) => this.#report(error);
    link.onMessage = (message) => this.#hear(message);
    return link;
  }

  #watch(session: ActiveSession): ActiveSession {
    session.link.onGone = (reason) => this.#lose(session, reason.message);
    return session;
  }

  /** Completes a handshake: from here on the session is open, stored, and listened to. */
  async #establish(session: ActiveSession, message?: JSONRPCNotification): Promise<ActiveSession> {
    ensureTaken(await this.#post(session.link, message ?? { jsonrpc: '2.0', method: 'notifications/initialized' }), 'initialized');
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
    const { principal, metadata } = this.#options;
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
      ...this.#restorables.snapshot(),
      ...(metadata === undefined ? {} : { metadata }),
    });
    if (record.id === session.id) return session;
    void session.link.end(AbortSignal.any([this.#leaving.signal, AbortSignal.timeout(END_TIMEOUT)]));
    return this.#takeUp(record);
  }

  /** The server took a request: what was stored is proved, and the session is in use. */
  #onAccepted(session: ActiveSession): void {
    this.#reachable = true;
    this.#used();
    const state = this.#machine.current;
    if (state.name !== 'resuming' || state.session !== session) return;
    this.#machine.enter({ name: 'ready', session });
    this.tell('resumed', { age: Math.max(0, Date.now() - session.createdAt) });
    this.#listen(session);
  }

  #used(): void {
    this.#lastUsedAt = Date.now();
    this.#keeper?.update({ lastUsedAt: this.#lastUsedAt });
  }

  /** A session is gone. Only news of the present one counts: ten calls that were refused together lose it once. */
  #lose(session: ActiveSession, reason: string): void {
    const state = this.#machine.current;
    if (!('session' in state) || state.session?.generation !== session.generation || state.name === 'lost') return;
    this.#stopListening();
    this.#machine.enter({ name: 'lost', session, reason });
    // What is in flight on it may still be answered, over HTTP; a pipe has nothing left.
    if (session.link.kind === 'pipe') void session.link.close().catch(() => {});
  }

  async #restore(session: ActiveSession): Promise<void> {
    const results = await Promise.allSettled(this.#restorables.requests().map(({ method, params }) => this.#ask(session, method, params)));
    for (const result of results) {
      if (result.status === 'rejected') this.tell('warning', new Error(`a subscription or the log level could not be restored: ${(result.reason as Error).message}`, { cause: result.reason }));
    }
  }

  /** A new session may be with a new version of the server: whoever caches its lists is told to look again. */
  #announceChange({ initialized: { capabilities } }: ActiveSession): void {
    for (const list of ['tools', 'prompts', 'resources'] as const) {
      if (capabilities[list]?.listChanged) this.#toClient({ jsonrpc: '2.0', method: `notifications/${list}/list_changed` });
    }
  }

  // ── the server-to-client stream ───────────────────────────────────────────────────────────────────────────────────────────

  #listen(session: ActiveSession): void {
    this.#stopListening();
    if (this.#options.listen === false || !session.link.listen) return;
    const cursor = session.resumed ? this.#keeper?.record?.cursor : undefined;
    this.#stream = new ServerStream(
      session.link,
      {
        hear: (message) => this.#hear(message),
        onUp: () => {
          if (this.#machine.current.name === 'degraded') this.#machine.enter({ name: 'ready', session });
        },
        onDown: (reason, retrying) => {
          this.#machine.enter({ name: 'degraded', session, reason });
          this.tell('degraded', { reason, retrying });
        },
        onCursor: (eventId) => this.#keeper?.update({ cursor: eventId }),
        onCursorLost: (reason) => this.tell('cursorLost', { reason }),
        prove: () => this.#prove(),
      },
      cursor,
    );
  }

  #stopListening(): void {
    this.#stream?.stop();
    this.#stream = undefined;
  }

  // ── the store, and the end ────────────────────────────────────────────────────────────────────────────────────────────────

  async #createKeeper(): Promise<SessionKeeper | undefined> {
    const { store, principal, authProvider, session = DEFAULTS.session, ttl = DEFAULTS.ttl } = this.#options;
    const { address } = this.#connector;
    if (!store || !address) return undefined;
    if (authProvider && principal === undefined) {
      this.tell('warning', new StoreError('With an `authProvider` and no `principal` the session is not stored: say on whose behalf it is.'));
      return undefined;
    }
    this.#key = await sessionKey(address, principal, session);
    return new SessionKeeper({ store, key: this.#key, scope: { url: address.url, principal }, ttl, tell: this.tell });
  }

  async #close(what: 'keep' | 'end'): Promise<void> {
    if (!this.#started) return;
    this.#started = false;
    const state = this.#machine.current;
    const session = 'session' in state ? state.session : undefined;
    this.#machine.enter({ name: 'closing' });
    this.#stopListening();
    for (const call of this.#correlator.pending) {
      const outcome = call.sent ? 'unknown' : 'not-sent';
      const became = call.sent ? 'It was sent and may or may not have run.' : 'It was not sent.';
      this.#correlator.close(call);
      call.fail(new ClosedError(`The client was closed before ${describe(call.request)} was answered. ${became}`, { outcome }));
      call.abort.abort(new Error('the client was closed'));
    }
    this.#leaving.abort(new Error('the client was closed'));
    if (session && what === 'end' && state.name !== 'lost') {
      await this.#keeper?.forget(session.id ?? '');
      // A server that is known to be away need not be waited for.
      if (this.#reachable || state.name === 'resuming') await session.link.end(AbortSignal.timeout(END_TIMEOUT));
    } else await this.#keeper?.flush();
    await session?.link.close().catch((error: unknown) => this.#report(error as Error));
    this.#connector.close();
    this.#machine.enter({ name: 'closed' });
    try {
      this.onclose?.();
    } catch (error) {
      this.#report(error as Error);
    }
  }
}

function describe({ method, params }: JSONRPCRequest): string {
  const name = params?.['name'] ?? params?.['uri'];
  return typeof name === 'string' ? `${method} ${JSON.stringify(name.slice(0, 100))}` : method;
}

function ensureTaken(ending: Ending, what: string): void {
  if (ending.type !== 'accepted' && ending.type !== 'ended' && ending.type !== 'aborted') throw errorOf(ending, what);
}

/** The result of an internal call, or an error in its place. */
async function expectResult(call: PendingCall): Promise<unknown> {
  const answer: Answer | undefined = await call.settled;
  if (!answer) throw new Error('the request was dropped');
  if ('error' in answer) throw badServer(`The server answered ${call.request.method} with an error: ${answer.error.message}`);
  return answer.result;
}
