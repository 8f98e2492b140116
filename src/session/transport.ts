import type { Transport, TransportSendOptions } from '@modelcontextprotocol/sdk/shared/transport.js';
import type {
  InitializeRequest,
  InitializeResult,
  JSONRPCMessage,
  JSONRPCRequest,
} from '@modelcontextprotocol/sdk/types.js';
import { asyncDispose } from '../dispose.ts';
import { ClosedError } from '../errors.ts';
import { connectorFor } from '../links/connector.ts';
import type { Traffic } from '../links/requester.ts';
import { checkSessionOptions } from '../checks.ts';
import { DEFAULTS, type SessionOptions, type Target } from '../options.ts';
import { after, type TimeLimit } from '../timers.ts';
import type { PendingCall } from './correlator.ts';
import { Delivery } from './delivery.ts';
import { createEvents, type EventCounts, type SessionEmitter, type Tell } from './events.ts';
import { Lifecycle } from './lifecycle.ts';
import type { Parcel } from './parcel.ts';
import type { StateName } from './state.ts';
import type { UserChange, UserState } from './user-state.ts';
import { type CancelHow, Wire } from './wire.ts';

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
  readonly metadata: UserState['metadata'];
  /** The user's state object, as this process knows it; another one may have changed it. */
  readonly data: UserState['data'];
}

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
  /** @internal Called when a new session is in the place of a lost one, before anyone else hears of it. */
  onreset?: (() => void) | undefined;
  /** @internal The time that the handshake of the client above has. */
  connectWithin: TimeLimit | undefined;
  /** @internal Tells an event of the client above. */
  readonly tell: Tell;
  /** @internal How often each event was told. */
  readonly told: Readonly<EventCounts>;

  readonly #wire: Wire;
  readonly #lifecycle: Lifecycle;
  readonly #delivery: Delivery;
  readonly #traffic: Traffic | undefined;
  #started = false;
  #closing: Promise<void> | undefined;

  /** @throws TypeError or RangeError for a target or an option that makes no sense */
  constructor(target: Target, options: SessionOptions = {}) {
    checkSessionOptions(options);
    const { events, tell, told } = createEvents(options.on ?? {}, (error) => this.#report(error));
    this.events = events;
    this.tell = (event, ...args) => {
      if (event === 'reset') this.onreset?.();
      tell(event, ...args);
    };
    this.told = told;
    this.#wire = new Wire((message) => this.#toClient(message));
    const connector = connectorFor(target, { ...options, responseLimit: options.limits?.responseBytes ?? DEFAULTS.responseBytes });
    this.#traffic = connector.traffic;
    this.#lifecycle = new Lifecycle(connector, {
      options,
      tell: this.tell,
      wire: this.#wire,
      toClient: (message) => this.#toClient(message),
      report: (error) => this.#report(error),
      prove: () => this.#delivery.prove(),
    });
    this.#delivery = new Delivery(this.#wire, this.#lifecycle, options);
  }

  /** `undefined` until the client is connected: the SDK would take an id for a handshake that is already done. */
  get sessionId(): string | undefined {
    return this.#lifecycle.session?.id;
  }

  get session(): SessionInfo {
    const { state, record, key, lastUsedAt, stored } = this.#lifecycle;
    const session = 'session' in state ? state.session : undefined;
    return {
      id: session?.id,
      key,
      state: state.name,
      resumed: session?.resumed ?? false,
      protocolVersion: session?.initialized.protocolVersion,
      createdAt: session?.createdAt,
      lastUsedAt,
      expiresAt: (stored && record?.expiresAt) || undefined,
      ...this.#lifecycle.user,
    };
  }

  /** What the server said of itself when the present session was made. */
  get initialized(): InitializeResult | undefined {
    const { state } = this.#lifecycle;
    return 'session' in state ? state.session?.initialized : undefined;
  }

  /** Messages of the server that were dropped: they belong to no request of this client, or ask while too many questions are open. */
  get droppedMessages(): number {
    return this.#wire.dropped;
  }

  /**
   * Changes what is kept with the session: `metadata`, and `data`, a small state object. With a store this is atomic among all
   * processes, and it outlives them and the server's session, but not the `ttl`; without one it lasts as long as the client is connected.
   *
   * @param change - is told what is there, and returns what is to take its place; asked again where somebody else was quicker
   * @returns the session, with what is kept now
   * @throws TypeError or RangeError for what cannot be kept (JSON objects; `data` of at most 64 KB); ClosedError where the client is not
   *   connected; StoreError when others were quicker every time
   */
  async update(change: (session: UserState) => UserChange): Promise<SessionInfo> {
    await this.#lifecycle.update(change);
    return this.session;
  }

  /** @internal Whether several requests can go out in one POST. */
  takesArrays(anyVersion = false): boolean {
    return this.#delivery.parcels.takesArrays(this.#lifecycle.session, anyVersion);
  }

  /** @internal Collects `size` requests that are to go out in one POST; `anyVersion`: whatever version of the protocol is spoken. */
  parcel(size: number, anyVersion = false): Parcel {
    return this.#delivery.parcels.create(size, anyVersion);
  }

  /**
   * @internal Runs what cancels a call, and says whether the server may have it; `undefined` where no call was cancelled. `'detach'`:
   * the server is not told, and the call goes on there.
   */
  cancelling(cancel: () => void, how: CancelHow = 'tell'): 'sent' | 'not-sent' | undefined {
    return this.#wire.cancelling(cancel, how);
  }

  /** @internal Whether the client failed to connect because of what is stored of the session, which is then not taken up again. */
  disown(): boolean {
    return this.#lifecycle.disown();
  }

  /** @internal Asks the server for a sign of life. An error is one too; rejects where there is no answer. */
  ping(): Promise<void> {
    return this.#delivery.prove();
  }

  /** @internal What has gone over the wire so far. */
  get traffic(): Traffic {
    return this.#traffic ?? { sent: 0, received: 0, streams: 0 };
  }

  /** @internal What the client above kept with the present session. */
  recall(name: string): unknown {
    return this.#lifecycle.recall(name);
  }

  /** @internal The same, as it stands in the store. */
  recallStored(name: string): Promise<unknown> {
    return this.#lifecycle.recallStored(name);
  }

  /** @internal Counts a use of something by its name, with the session. */
  count(name: string): void {
    this.#lifecycle.count(name);
  }

  /** @internal Keeps something with the session for the next process, until the session ends. */
  remember(name: string, value: unknown): void {
    this.#lifecycle.remember(name, value);
  }

  async start(): Promise<void> {
    if (this.#started) throw new Error('the transport is already started; Client.connect() starts it by itself');
    this.#started = true;
    this.#lifecycle.start(this.connectWithin);
  }

  /** Exchanges the authorization code that the user came back with. Then connect (again). */
  async finishAuth(authorizationCode: string): Promise<void> {
    await this.#lifecycle.finishAuth(authorizationCode);
  }

  /** The version is known from the handshake, and each session has its own. */
  setProtocolVersion(_version: string): void {}

  /**
   * Sends a message. For a request it resolves when the answer has been handed over (or the request was cancelled), and rejects
   * when there will be none, with an error that says what became of it.
   *
   * With `resumptionToken` a request is not sent: its answer is waited for, under the id that it was sent with before.
   */
  async send(message: JSONRPCMessage, options: TransportSendOptions = {}): Promise<void> {
    if (!this.#started) throw notStarted(options);
    if (!('method' in message)) await this.#delivery.answer(message);
    else if ('id' in message) await this.#request(message, options);
    else if (message.method === 'notifications/initialized') await this.#lifecycle.complete(message);
    else if (message.method === 'notifications/cancelled') await this.#wire.cancel(message);
    else await this.#delivery.notify(message);
  }

  /** Leaves. A stored session stays resumable; any other is ended on the server. Calls in flight fail with `ClosedError`. */
  async close(): Promise<void> {
    await this.#close(this.#lifecycle.stored ? 'keep' : 'end');
  }

  /** Ends the session on the server (DELETE), forgets it, and closes. */
  async end(): Promise<void> {
    await this.#close('end');
  }

  async [asyncDispose](): Promise<void> {
    await this.close();
  }

  async #request(message: JSONRPCRequest, options: TransportSendOptions): Promise<void> {
    const call = this.#wire.open(message, (answer) => {
      if ('result' in answer) this.#lifecycle.granted(message);
      // The SDK handles notifications a microtask later, and by then would have dropped the progress handler of an answered call.
      queueMicrotask(() => this.#toClient(answer));
    });
    const run = message.method === 'initialize' ? this.#attach(call) : this.#deliver(call, options);
    run.catch((error: unknown) => call.fail(error as Error));
    try {
      await call.settled;
    } catch (error) {
      this.#wire.close(call);
      // The SDK keeps the handler of a request whose send() rejects. An error message for it, after it has rejected, clears that up.
      after(0, () => {
        if (this.#started) this.#toClient({ jsonrpc: '2.0', id: message.id, error: { code: -32000, message: (error as Error).message } });
      });
      throw error;
    }
  }

  async #attach(call: PendingCall): Promise<void> {
    const session = await this.#lifecycle.attach(call.request.params as InitializeRequest['params'], call.abort.native);
    if (!session) return;
    this.#wire.close(call);
    call.answer({ jsonrpc: '2.0', id: call.request.id, result: { ...session.initialized } });
  }

  #deliver(call: PendingCall, { resumptionToken, onresumptiontoken }: TransportSendOptions): Promise<void> {
    const onToken = onresumptiontoken && ((token: string) => this.#guarded(() => onresumptiontoken(token)));
    if (resumptionToken !== undefined) return this.#delivery.join(call, resumptionToken, onToken);
    return this.#delivery.run(call, { onToken, place: this.#delivery.parcels.claim() });
  }

  #toClient(message: JSONRPCMessage): void {
    this.#guarded(() => this.onmessage?.(message));
  }

  /** Runs code that is not ours: what it throws is reported, and breaks nothing. */
  #guarded(task: () => unknown): void {
    try {
      const result = task();
      if (result instanceof Promise) result.catch((error: unknown) => this.#report(error as Error));
    } catch (error) {
      this.#report(error as Error);
    }
  }

  #report(error: Error): void {
    report(this.onerror, error);
  }

  async #close(what: 'keep' | 'end'): Promise<void> {
    if (this.#started) {
      this.#started = false;
      this.#closing = this.#shut(what);
    }
    await this.#closing;
  }

  async #shut(what: 'keep' | 'end'): Promise<void> {
    this.#wire.shut();
    await this.#lifecycle.close(what);
    // The SDK's Client chains its own to what it finds here: what was left from this connection would hear the next one's messages too.
    const { onclose, onerror } = this;
    this.onmessage = undefined;
    this.onclose = undefined;
    this.onerror = undefined;
    try {
      // May connect again at once.
      onclose?.();
    } catch (error) {
      report(onerror, error as Error);
    }
  }
}

/** A call that is only waited for was sent before. */
function notStarted({ resumptionToken }: TransportSendOptions): ClosedError {
  const outcome = resumptionToken === undefined ? 'not-sent' : 'unknown';
  return new ClosedError('The transport is closed, or not yet started.', { advice: 'Nothing was sent: connect first.', outcome });
}

/** Whoever throws in an error handler has nowhere left to be told (G11). */
function report(onerror: SessionTransport['onerror'], error: Error): void {
  try {
    onerror?.(error);
  } catch {
    // Said above.
  }
}
