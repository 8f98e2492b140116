import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import type { RequestOptions } from '@modelcontextprotocol/sdk/shared/protocol.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { type ListToolsResult, ListToolsResultSchema } from '@modelcontextprotocol/sdk/types.js';
import { type BatchOptions, type BatchRequest, runBatch, type SettledResults } from './batch.ts';
import { Calls } from './calls/calls.ts';
import type { CallRecord } from './calls/history.ts';
import type { MetricsSnapshot } from './calls/metrics.ts';
import { onAbort } from './signals.ts';
import { ToolList } from './calls/tool-list.ts';
import { asyncDispose } from './dispose.ts';
import { ClosedError, DeadlineError } from './errors.ts';
import { OutputSchemas } from './output-schemas.ts';
import { checkCallSettings, checkConnectOptions, sessionOptionsOf } from './checks.ts';
import { type CallSettings, type ConnectOptions, DEFAULTS, type Target } from './options.ts';
import { Planner, type Send } from './plan.ts';
import { guardOnError, prepare, spareTimers } from './sdk-client.ts';
import type { SessionEmitter } from './session/events.ts';
import { isAnnouncement } from './session/lifecycle.ts';
import { describeRequest } from './session/outcome.ts';
import { type SessionInfo, SessionTransport } from './session/transport.ts';
import type { UserChange, UserState } from './session/user-state.ts';
import { limitOf, type TimeLimit, within } from './timers.ts';
import { VERSION } from './version.ts';

/** Options of one call: the SDK's, and ours. */
export interface CallOptions extends RequestOptions, CallSettings {}

type Request = Parameters<Client['request']>[0];

/** By these a server tells that what it said before may not hold any more. */
const CHANGED = /^notifications\/(.+\/list_changed|resources\/updated)$/;

/**
 * The SDK's `Client`, over a session that survives. Every verb works as in the SDK; a call that can be saved is saved, and one that
 * cannot fails with an error that says what became of it.
 *
 * Most programs get one by {@link connect}.
 */
export class ResilientClient extends Client {
  readonly #options: ConnectOptions;
  readonly #session: SessionTransport;
  readonly #calls: Calls;
  readonly #tools: ToolList;
  readonly #schemas: OutputSchemas;
  readonly #planner: Planner;
  /** The last close, which may be under way. */
  #leaving: Promise<void> = Promise.resolve();
  /** How often it was closed beside those that ended a handshake: the SDK closes by itself when one fails. */
  #departures = 0;
  #handshakes = 0;
  /** Calls, batches and changes that have not ended. */
  #underWay = 0;
  /** @internal Called when there are none any more. */
  onidle?: (() => void) | undefined;
  /** Answers the SDK's next `tools/list`, which must not go over the wire. */
  #knownTools: ListToolsResult | undefined;

  /** @throws TypeError or RangeError for a target or an option that makes no sense */
  constructor(target: Target, options: ConnectOptions = {}) {
    checkConnectOptions(options);
    const schemas = new OutputSchemas(options.client?.jsonSchemaValidator);
    super(options.clientInfo ?? { name: 'mcp-reprise', version: VERSION }, {
      ...options.client,
      jsonSchemaValidator: schemas,
      ...(options.capabilities ? { capabilities: options.capabilities } : {}),
    });
    guardOnError(this);
    spareTimers(this);
    this.#options = options;
    const session = new SessionTransport(target, sessionOptionsOf(options));
    this.#session = session;
    this.#schemas = schemas;
    schemas.onunusable = (error) => session.tell('warning', error);
    this.#tools = new ToolList({ recall: () => session.recall('tools'), recallStored: () => session.recallStored('tools'), remember: (value) => session.remember('tools', value) });
    session.onreset = () => {
      this.#tools.drop();
      this.#calls.changed();
    };
    const retry = options.retry === false ? undefined : options.retry;
    const { minTimeout: min, maxTimeout: max, factor } = { ...DEFAULTS.retry, ...retry };
    this.#calls = new Calls(
      {
        concurrency: options.concurrency ?? DEFAULTS.concurrency,
        rateLimit: options.rateLimit,
        budget: retry?.budget === false ? { tokens: Number.POSITIVE_INFINITY, ratio: 0 } : { ...DEFAULTS.budget, ...retry?.budget },
        circuitFailures: options.circuitBreaker ? options.circuitBreaker.failures : Number.POSITIVE_INFINITY,
        pingBackoff: { min, max, factor },
        history: { ...DEFAULTS.history, ...options.history },
      },
      {
        cancelling: (abort, how) => session.cancelling(abort, how),
        ping: () => session.ping(),
        onRetry: (info) => session.tell('retry', info),
        onCircuit: (open, reason) => session.tell('circuit', { open, reason }),
        onSettled: (record) => {
          const { method, name, outcome, error, attempts } = record;
          if (method === 'tools/call' && name !== undefined && outcome === 'answered' && error === undefined && attempts > 0) session.count(name);
          session.tell('call', record);
        },
      },
    );
    // Assigned rather than overridden: the type of request() differs between the SDK's versions, and stays as it is in each.
    const ask = super.request.bind(this) as Send;
    const send: Send = (asked, schema, callOptions) => {
      // What was noted in the store before may be late.
      this.#requireTransport(asked);
      return ask(asked, schema, callOptions);
    };
    this.#planner = new Planner({ options, session, tools: this.#tools, send });
    this.request = ((request: Request, schema: unknown, callOptions?: CallOptions) => {
      const call = this.#call(request, schema, callOptions ?? {});
      return request.method === 'initialize' ? call : this.#counted(call);
    }) as Client['request'];
  }

  /** The session as it stands now. */
  get session(): SessionInfo {
    return this.#session.session;
  }

  /**
   * Changes what is kept with the session: `metadata`, and `data`, a small state object. With a store this is atomic among all
   * processes, and it outlives them and the server's session, but not the `ttl`; without one it lasts as long as the client is connected.
   *
   * ```ts
   * await client.update(({ data }) => ({ data: { ...data, page: Number(data.page ?? 0) + 1 } }));
   * ```
   *
   * @param change - is told what is there, and returns what is to take its place; asked again where somebody else was quicker
   * @returns the session, with what is kept now
   * @throws TypeError or RangeError for what cannot be kept (objects, as JSON keeps them; `data` of at most 64 KB); ClosedError where the
   *   client is not connected; StoreError when the store fails, or others were quicker every time: nothing was changed
   */
  update(change: (session: UserState) => UserChange): Promise<SessionInfo> {
    return this.#counted(this.#session.update(change));
  }

  /** @internal Whether calls are under way. */
  get busy(): boolean {
    return this.#underWay > 0;
  }

  /** What happens to the session and its calls. */
  get events(): SessionEmitter {
    return this.#session.events;
  }

  /** The last calls, oldest first: names, times and what became of them. How many, and whether with arguments and results, says the option `history`. */
  history(): readonly CallRecord[] {
    return this.#calls.history();
  }

  /** What this client has done since it was made, in numbers. */
  metrics(): MetricsSnapshot {
    const { told, traffic, droppedMessages } = this.#session;
    return {
      ...this.#calls.metrics(),
      retries: told.retry,
      resumes: told.resumed,
      resets: told.reset,
      bytes: { sent: traffic.sent, received: traffic.received },
      openStreams: traffic.streams,
      droppedMessages,
    };
  }

  /**
   * Makes several requests under one deadline and one limit of concurrency. Settles like `Promise.allSettled`, in the order of the
   * requests, and never rejects: one that fails, or is aborted, leaves the others alone.
   *
   * Where the session speaks 2025-03-26 they go out as JSON arrays, up to 100 in one POST; elsewhere side by side.
   *
   * @throws TypeError or RangeError for requests or options that make no sense
   */
  async batch<const T extends readonly BatchRequest[]>(requests: T, options: BatchOptions = {}): Promise<SettledResults<T>> {
    const batch = runBatch(this, requests, options, {
      calls: this.#calls,
      session: this.#session,
      timeout: { call: DEFAULTS.timeout.call, total: DEFAULTS.timeout.total, ...this.#options.timeout },
      enrol: (callOptions, context) => this.#planner.enrol(callOptions, context),
    });
    return this.#counted(batch);
  }

  /** Connects to the server, or takes up the stored session, which needs no request. The transport is the client's own. */
  override async connect(transport?: Transport, options?: RequestOptions): Promise<void> {
    if (transport !== undefined && transport !== this.#session) {
      throw new TypeError('a ResilientClient has its own transport; for another one use the SDK\'s Client over a SessionTransport');
    }
    const { signal } = { ...this.#options, ...options };
    if (options) checkCallSettings(options);
    // All that is waited for has one time: what is left of the client's last session, and both halves of the handshake.
    const timeout = options?.timeout ?? this.#options.timeout?.connect ?? DEFAULTS.timeout.connect;
    const limit = limitOf(timeout);
    // The SDK does not wait for the close that follows a failed connect.
    await this.#left(limit);
    if (this.transport) throw new Error('the client is connected already, or about to be: close() it first');
    this.#session.connectWithin = limit;
    this.#planner.connectTimeout = timeout;
    // The SDK listens to a signal during the first half of the handshake only.
    const release = signal ? onAbort(signal, () => void this.close()) : () => {};
    const attach = (): Promise<void> => this.#attach({ ...options, timeout: Math.max(1, Math.ceil(limit.by - performance.now())), ...(signal ? { signal } : {}) });
    try {
      await attach().catch(async (error: unknown) => {
        // What the SDK says of a handshake that it cannot use. Anything else, a close() among it, has a code.
        if (signal?.aborted || 'code' in (error as Error)) throw error;
        await this.#left(limit);
        if (!this.#session.disown()) throw error;
        await attach();
      });
      await this.#recallTools();
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      release();
    }
  }

  /** Waits for the close that may be under way. Whoever closes meanwhile means the connection that is to come: nothing else could end that. */
  async #left({ by, timeout }: TimeLimit): Promise<void> {
    const departures = this.#departures;
    await within(this.#leaving, Math.max(0, by - performance.now()), () => stillLeaving(timeout));
    if (this.#departures !== departures) throw new ClosedError('The client was closed while it was about to connect.', { advice: 'Nothing was sent.', outcome: 'not-sent' });
  }

  async #attach(options: RequestOptions): Promise<void> {
    this.#session.onmessage = (message) => {
      // What a reset means was seen to at once.
      if (!('method' in message) || isAnnouncement(message)) return;
      if (message.method === 'notifications/tools/list_changed') this.#tools.drop();
      if (CHANGED.test(message.method)) this.#calls.changed();
    };
    this.#calls.open();
    this.#handshakes++;
    try {
      await super.connect(this.#session, options);
    } finally {
      this.#handshakes--;
    }
  }

  /** OAuth: exchanges the code that the user came back with. Then `connect()` again. */
  async finishAuth(authorizationCode: string): Promise<void> {
    await this.#session.finishAuth(authorizationCode);
  }

  /** As in the SDK, with {@link CallOptions}. */
  override async callTool(
    params: Parameters<Client['callTool']>[0],
    resultSchema?: Parameters<Client['callTool']>[1],
    options?: CallOptions,
  ): ReturnType<Client['callTool']> {
    if (resultSchema !== undefined && !('_zod' in resultSchema || 'parse' in resultSchema)) {
      throw new TypeError('callTool(params, resultSchema, options): options are the third argument; the second is a schema, or undefined');
    }
    return super.callTool(params, resultSchema, options);
  }

  /** As in the SDK. A list that the server gave this session within `toolListTtl`, and has not taken back, is not asked for again. */
  override async listTools(params?: Parameters<Client['listTools']>[0], options?: CallOptions): ReturnType<Client['listTools']> {
    return super.listTools(params, options);
  }

  // The SDK's other verbs as they are, but for their options.

  override async ping(options?: CallOptions): ReturnType<Client['ping']> {
    return super.ping(options);
  }

  override async complete(params: Parameters<Client['complete']>[0], options?: CallOptions): ReturnType<Client['complete']> {
    return super.complete(params, options);
  }

  override async getPrompt(params: Parameters<Client['getPrompt']>[0], options?: CallOptions): ReturnType<Client['getPrompt']> {
    return super.getPrompt(params, options);
  }

  override async listPrompts(params?: Parameters<Client['listPrompts']>[0], options?: CallOptions): ReturnType<Client['listPrompts']> {
    return super.listPrompts(params, options);
  }

  override async listResources(params?: Parameters<Client['listResources']>[0], options?: CallOptions): ReturnType<Client['listResources']> {
    return super.listResources(params, options);
  }

  override async listResourceTemplates(params?: Parameters<Client['listResourceTemplates']>[0], options?: CallOptions): ReturnType<Client['listResourceTemplates']> {
    return super.listResourceTemplates(params, options);
  }

  override async readResource(params: Parameters<Client['readResource']>[0], options?: CallOptions): ReturnType<Client['readResource']> {
    return super.readResource(params, options);
  }

  override async subscribeResource(params: Parameters<Client['subscribeResource']>[0], options?: CallOptions): ReturnType<Client['subscribeResource']> {
    return super.subscribeResource(params, options);
  }

  override async unsubscribeResource(params: Parameters<Client['unsubscribeResource']>[0], options?: CallOptions): ReturnType<Client['unsubscribeResource']> {
    return super.unsubscribeResource(params, options);
  }

  override async setLoggingLevel(level: Parameters<Client['setLoggingLevel']>[0], options?: CallOptions): ReturnType<Client['setLoggingLevel']> {
    return super.setLoggingLevel(level, options);
  }

  // What the server said when the present session was made: the SDK knows only the first one.
  override getServerCapabilities(): ReturnType<Client['getServerCapabilities']> {
    return this.#session.initialized?.capabilities ?? super.getServerCapabilities();
  }

  override getServerVersion(): ReturnType<Client['getServerVersion']> {
    return this.#session.initialized?.serverInfo ?? super.getServerVersion();
  }

  override getInstructions(): ReturnType<Client['getInstructions']> {
    return this.#session.initialized?.instructions ?? super.getInstructions();
  }

  /** Leaves. With a store the session stays resumable; without one it is ended on the server (DELETE). */
  override async close(): Promise<void> {
    await this.#leave(this.#session.close());
  }

  /** Ends the session on the server (DELETE), forgets it, and closes. */
  async end(): Promise<void> {
    await this.#leave(this.#session.end());
  }

  /** The same as {@link close}, for `await using`. */
  async [asyncDispose](): Promise<void> {
    await this.close();
  }

  async #leave(leaving: Promise<void>): Promise<void> {
    if (this.#handshakes === 0) this.#departures++;
    this.#calls.close();
    this.#leaving = leaving.then(() => this.#calls.idle());
    await this.#leaving;
  }

  /** Output validation must hold from the first call of a resumed session on: the SDK gets the tools that it knew before. */
  async #recallTools(): Promise<void> {
    const known = ListToolsResultSchema.safeParse(this.#tools.last);
    if (!known.success) return;
    this.#tools.believe(known.data);
    if (!known.data.tools.some(({ outputSchema, execution }) => outputSchema ?? execution)) return;
    this.#knownTools = known.data;
    this.#schemas.note(known.data);
    try {
      await super.listTools();
    } finally {
      this.#knownTools = undefined;
    }
  }

  async #call(request: Request, schema: unknown, options: CallOptions): Promise<unknown> {
    const { method, params } = request;
    if (this.#knownTools && method === 'tools/list') return this.#knownTools;
    this.#requireTransport(request);
    checkCallSettings(options);
    const cursor = (params as { cursor?: unknown } | undefined)?.cursor;
    const listsTools = method === 'tools/list' && schema === ListToolsResultSchema;
    const known = listsTools && cursor === undefined && options.cache !== false ? await this.#knownList() : undefined;
    if (known) {
      this.#schemas.note(known);
      options.signal?.throwIfAborted();
      this.#calls.noteCached(method);
      return known;
    }
    const { changes } = this.#tools;
    const answer = this.#calls.run(this.#planner.plan(request, schema, options));
    prepare(schema);
    const result = await answer;
    if (listsTools) {
      this.#schemas.note(result as ListToolsResult);
      this.#tools.note(cursor, result as ListToolsResult, changes);
    }
    return result;
  }

  /** What the SDK would say by a plain Error. */
  #requireTransport(request: Request): void {
    if (!this.transport) throw new ClosedError('The client is not connected.', { advice: `${describeRequest(request)} was not sent: connect first.`, outcome: 'not-sent' });
  }

  async #counted<T>(work: Promise<T>): Promise<T> {
    this.#underWay++;
    try {
      return await work;
    } finally {
      this.#underWay--;
      if (!this.busy) this.onidle?.();
    }
  }

  async #knownList(): Promise<ListToolsResult | undefined> {
    const { toolListTtl = DEFAULTS.toolListTtl } = this.#options;
    return toolListTtl === false ? undefined : this.#tools.within(toolListTtl);
  }
}

function stillLeaving(timeout: number): DeadlineError {
  return new DeadlineError(`The client did not get rid of its last session within ${timeout} ms (timeout.connect).`, { advice: 'Nothing was sent.', outcome: 'not-sent', timeout });
}
