import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import type { ProgressCallback, RequestOptions } from '@modelcontextprotocol/sdk/shared/protocol.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { type ListToolsResult, ListToolsResultSchema, McpError } from '@modelcontextprotocol/sdk/types.js';
import { type BatchContext, type BatchOptions, type BatchRequest, runBatch, type SettledResults } from './batch.ts';
import { Calls } from './calls/calls.ts';
import { type Answer, DurableCalls } from './calls/durable.ts';
import type { CallRecord } from './calls/history.ts';
import type { MetricsSnapshot } from './calls/metrics.ts';
import { onAbort } from './calls/signals.ts';
import { ToolList } from './calls/tool-list.ts';
import { isSafeMethod, isShared } from './calls/verdict.ts';
import { canonical } from './canonical.ts';
import { asyncDispose } from './dispose.ts';
import { ClosedError } from './errors.ts';
import { checkCallSettings, checkConnectOptions, sessionOptionsOf } from './checks.ts';
import { type CallSettings, type ConnectOptions, DEFAULTS, type Target } from './options.ts';
import type { SessionEmitter } from './session/events.ts';
import { describeRequest } from './session/outcome.ts';
import { type SessionInfo, SessionTransport } from './session/transport.ts';
import { LONGEST_TIMER } from './timers.ts';
import { VERSION } from './version.ts';

/** Options of one call: the SDK's, and ours. */
export interface CallOptions extends RequestOptions, CallSettings {}

type Request = Parameters<Client['request']>[0];
type Send = (request: Request, schema: unknown, options: RequestOptions) => Promise<unknown>;

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
  readonly #send: Send;
  /** The last close, which may be under way. */
  #leaving: Promise<void> = Promise.resolve();
  /** Answers the SDK's next `tools/list`, which must not go over the wire. */
  #knownTools: ListToolsResult | undefined;
  /** What the calls of a batch have in common, by the options that they are made with. */
  readonly #batches = new WeakMap<CallOptions, BatchContext>();
  readonly #schemas = new Numbers();

  /** @throws TypeError or RangeError for a target or an option that makes no sense */
  constructor(target: Target, options: ConnectOptions = {}) {
    checkConnectOptions(options);
    super(options.clientInfo ?? { name: 'mcp-reprise', version: VERSION }, {
      ...options.client,
      ...(options.capabilities ? { capabilities: options.capabilities } : {}),
    });
    guardOnError(this);
    this.#options = options;
    const session = new SessionTransport(target, sessionOptionsOf(options));
    this.#session = session;
    this.#tools = new ToolList({ recall: () => session.recall('tools'), remember: (value) => session.remember('tools', value) });
    const retry = options.retry === false ? undefined : options.retry;
    const { minTimeout: min, maxTimeout: max, factor } = { ...DEFAULTS.retry, ...retry };
    this.#calls = new Calls(
      {
        concurrency: options.concurrency ?? DEFAULTS.concurrency,
        rateLimit: options.rateLimit,
        budget: retry?.budget === false ? { tokens: Number.POSITIVE_INFINITY, ratio: 0 } : { ...DEFAULTS.budget, ...retry?.budget },
        circuitFailures: options.circuitBreaker ? options.circuitBreaker.failures : Number.POSITIVE_INFINITY,
        pingBackoff: { min, max, factor, floor: 0 },
        history: { ...DEFAULTS.history, ...options.history },
      },
      {
        cancelling: (abort, how) => session.cancelling(abort, how),
        ping: () => session.ping(),
        onRetry: (info) => session.tell('retry', info),
        onCircuit: (open, reason) => session.tell('circuit', { open, reason }),
        onSettled: (record) => session.tell('call', record),
      },
    );
    // Assigned rather than overridden: the type of request() differs between the SDK's versions, and stays as it is in each.
    this.#send = super.request.bind(this) as Send;
    this.request = ((request: Request, schema: unknown, callOptions?: CallOptions) => this.#call(request, schema, callOptions ?? {})) as Client['request'];
  }

  /** The session as it stands now. */
  get session(): SessionInfo {
    return this.#session.session;
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
    return runBatch(this, requests, options, {
      calls: this.#calls,
      session: this.#session,
      timeout: { call: DEFAULTS.timeout.call, total: DEFAULTS.timeout.total, ...this.#options.timeout },
      enrol: (callOptions, context) => this.#batches.set(callOptions, context),
    });
  }

  /** Connects to the server, or takes up the stored session, which needs no request. The transport is the client's own. */
  override async connect(transport?: Transport, options?: RequestOptions): Promise<void> {
    if (transport !== undefined && transport !== this.#session) {
      throw new TypeError('a ResilientClient has its own transport; for another one use the SDK\'s Client over a SessionTransport');
    }
    const { signal } = { ...this.#options, ...options };
    // The SDK does not wait for the close that follows a failed connect.
    await this.#leaving;
    if (this.transport) throw new Error('the client is connected already, or about to be: close() it first');
    this.#session.onmessage = (message) => {
      if ('method' in message && message.method === 'notifications/tools/list_changed') this.#tools.drop();
    };
    this.#calls.open();
    // The SDK listens to a signal during the first half of the handshake only.
    const release = signal ? onAbort(signal, () => void this.close()) : () => {};
    try {
      await super.connect(this.#session, { ...options, ...(signal ? { signal } : {}) });
      await this.#recallTools();
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      release();
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
    try {
      await super.listTools();
    } catch (error) {
      // A schema that cannot be compiled fails the user's own listTools() as well; it must not fail the connection.
      this.#session.tell('warning', new Error(`the tools of the stored session cannot be used for validation: ${(error as Error).message}`, { cause: error }));
    } finally {
      this.#knownTools = undefined;
    }
  }

  async #call(request: Request, schema: unknown, options: CallOptions): Promise<unknown> {
    const { method, params } = request;
    if (this.#knownTools && method === 'tools/list') return this.#knownTools;
    const what = describeRequest(request);
    // What the SDK would say by a plain Error.
    if (!this.transport) throw new ClosedError('The client is not connected.', { advice: `${what} was not sent: connect first.`, outcome: 'not-sent' });
    checkCallSettings(options);
    const asksTools = method === 'tools/list' && schema === ListToolsResultSchema;
    const cursor = (params as { cursor?: unknown } | undefined)?.cursor;
    const { toolListTtl = DEFAULTS.toolListTtl } = this.#options;
    if (asksTools && cursor === undefined && toolListTtl !== false && options.cache !== false) {
      const known = this.#tools.within(toolListTtl);
      if (known) {
        options.signal?.throwIfAborted();
        this.#calls.noteCached(method);
        return known;
      }
    }

    const { safe: marked, callId, retry = this.#options.retry, timeout, maxTotalTimeout, cache: _, signal, onprogress, resetTimeoutOnProgress = true, ...rest } = options;
    const batch = this.#batches.get(options);
    const { safe, shared } = this.#nature(request, marked);
    const isHandshake = method === 'initialize';
    const name = nameOf(params);
    const result = await this.#calls.run({
      method,
      name,
      params,
      what,
      ...this.#limits(isHandshake, timeout, maxTotalTimeout, batch),
      signal,
      onprogress: onprogress as ((progress: unknown) => void) | undefined,
      extends: resetTimeoutOnProgress,
      safe,
      retry: retry === false ? false : { ...DEFAULTS.retry, ...this.#options.retry, ...retry },
      shareKey: callId === undefined ? (shared && !batch?.seat && isPlain(rest) ? this.#shareKey(request, schema, onprogress) : undefined) : `call ${callId}`,
      counts: !isHandshake,
      turn: () => !isHandshake && method !== 'ping' && !(batch?.seat && !batch.seat.taken),
      durable: callId === undefined ? undefined : this.#durable(callId, request, schema, safe),
      send: ({ onprogress: onProgress, signal: attemptSignal, ...tokens }) => {
        const attempt: RequestOptions = {
          ...rest,
          ...definedOf(tokens),
          signal: attemptSignal,
          // The deadline is ours: the SDK's timer must never be the first.
          timeout: LONGEST_TIMER,
          ...(onProgress ? { onprogress: onProgress as ProgressCallback } : {}),
        };
        const send = (): Promise<unknown> => this.#send(request, schema, attempt);
        return batch?.seat && !batch.seat.taken ? batch.seat.take(send) : send();
      },
    });
    if (asksTools) this.#tools.note(cursor, result as ListToolsResult);
    return result;
  }

  /** Whether a request may be repeated, and whether one answer does for all who ask for it at the same time. */
  #nature({ method, params }: Request, marked: boolean | undefined): { readonly safe: boolean; readonly shared: boolean } {
    if (method !== 'tools/call') return { safe: marked ?? isSafeMethod(method), shared: isShared(method) };
    const name = String((params as { name?: unknown } | undefined)?.name);
    const { trustAnnotations = false } = this.#options;
    const safe = marked ?? (trustAnnotations && this.#tools.isRepeatable(name));
    return { safe, shared: safe && (marked === true || this.#tools.isReadOnly(name)) };
  }

  #limits(isHandshake: boolean, timeout: number | undefined, maxTotalTimeout: number | undefined, batch: BatchContext | undefined): { call: number; total: number; totalSaid?: string } {
    const { connect, call: usual, total } = { ...DEFAULTS.timeout, ...this.#options.timeout };
    const call = timeout ?? (isHandshake ? connect : usual);
    const all = maxTotalTimeout ?? (isHandshake ? call : Math.max(call, total));
    if (!batch) return { call, total: all };
    const left = Math.max(1, batch.endsAt - performance.now());
    return left < all ? { call: Math.min(call, left), total: left, totalSaid: `the ${batch.timeout} ms of its batch` } : { call, total: all };
  }

  #shareKey({ method, params }: Request, schema: unknown, onprogress: unknown): string {
    return `${method} ${this.#schemas.of(schema)} ${onprogress ? 'with' : 'without'} progress ${canonical(params) ?? ''}`;
  }

  #durable(callId: string, { method, params }: Request, schema: unknown, safe: boolean) {
    const { store, ttl = DEFAULTS.ttl } = this.#options;
    const { key } = this.#session.session;
    if (!store || key === undefined) {
      throw new TypeError('callId makes a call durable, which needs a `store`, a server over HTTP, and with an `authProvider` a `principal`');
    }
    const warn = (error: Error): void => this.#session.tell('warning', error);
    return {
      calls: new DurableCalls({ store, prefix: `${key.replace(/^session/, 'call')}/`, ttl, warn }),
      call: { callId, method, params, safe },
      revive: (answer: Answer): unknown => revived(answer, schema),
    };
  }
}

/** The answer of a durable call as its caller would have got it from the server. */
function revived(answer: Answer, schema: unknown): unknown {
  if ('result' in answer) return (schema as { parse(value: unknown): unknown }).parse(answer.result);
  const { code, message, data } = answer.error;
  // The SDK puts this in front of what the server says.
  return Promise.reject(new McpError(code, message.replace(`MCP error ${code}: `, ''), data));
}

/** Whether a call has no options of the SDK's that make it its caller's own: tasks, related requests, tokens. */
function isPlain(rest: RequestOptions): boolean {
  return Object.values(rest).every((value) => value === undefined);
}

function definedOf<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, each]) => each !== undefined)) as { [K in keyof T]: Exclude<T[K], undefined> };
}

/** What a request is about, for the history. */
function nameOf(params: unknown): string | undefined {
  const { name, uri } = (params ?? {}) as { name?: unknown; uri?: unknown };
  const about = name ?? uri;
  return typeof about === 'string' ? about.slice(0, 200) : undefined;
}

/** Gives each object a number of its own. */
class Numbers {
  readonly #numbers = new WeakMap<object, number>();
  #count = 0;

  of(value: unknown): number {
    if (typeof value !== 'object' || value === null) return 0;
    let number = this.#numbers.get(value);
    if (number === undefined) this.#numbers.set(value, (number = ++this.#count));
    return number;
  }
}

/** The SDK calls the user's `onerror` from promises that nobody awaits: what it throws there would end the process (G11). */
function guardOnError(client: Client): void {
  let listener: ((error: Error) => void) | undefined;
  const guarded = (error: Error): void => {
    try {
      listener?.(error);
    } catch {
      // Whoever throws in an error handler has nowhere left to be told.
    }
  };
  Object.defineProperty(client, 'onerror', {
    configurable: true,
    enumerable: true,
    get: () => listener && guarded,
    set(next: typeof listener) {
      listener = next;
    },
  });
}
