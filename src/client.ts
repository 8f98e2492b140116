import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import type { RequestOptions } from '@modelcontextprotocol/sdk/shared/protocol.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { type ListToolsResult, ListToolsResultSchema } from '@modelcontextprotocol/sdk/types.js';
import { Deadline } from './calls/deadline.ts';
import { retrying } from './calls/retry.ts';
import { isSafeMethod } from './calls/verdict.ts';
import { asyncDispose } from './dispose.ts';
import { ClosedError } from './errors.ts';
import { checkConnectOptions, type ConnectOptions, DEFAULTS, duration, sessionOptionsOf, type Target } from './options.ts';
import type { SessionEmitter } from './session/events.ts';
import { describeRequest } from './session/outcome.ts';
import { type SessionInfo, SessionTransport } from './session/transport.ts';
import { LONGEST_TIMER } from './timers.ts';
import { VERSION } from './version.ts';

/** Options of one call: the SDK's, and ours. */
export interface CallOptions extends RequestOptions {
  /** The call may be repeated: if it is not known what became of it, it is made again. */
  readonly safe?: boolean;
}

type Request = Parameters<Client['request']>[0];

/**
 * The SDK's `Client`, over a session that survives. Every verb works as in the SDK; a call that can be saved is saved, and one that
 * cannot fails with an error that says what became of it.
 *
 * Most programs get one by {@link connect}.
 */
export class ResilientClient extends Client {
  readonly #options: ConnectOptions;
  readonly #session: SessionTransport;
  /** The calls that are not settled yet. */
  readonly #calls = new Set<Deadline>();
  /** The last close, which may be under way. */
  #leaving: Promise<void> = Promise.resolve();
  #callCount = 0;
  /** What the server says of its tools, where that is believed: which of them may be called again. */
  #repeatable: ReadonlySet<string> = new Set();
  /** Answers the SDK's next `tools/list`, which must not go over the wire. */
  #knownTools: ListToolsResult | undefined;

  /** @throws TypeError or RangeError for a target or an option that makes no sense */
  constructor(target: Target, options: ConnectOptions = {}) {
    checkConnectOptions(options);
    super(options.clientInfo ?? { name: 'mcp-reprise', version: VERSION }, {
      ...options.client,
      ...(options.capabilities ? { capabilities: options.capabilities } : {}),
    });
    guardOnError(this);
    this.#options = options;
    this.#session = new SessionTransport(target, sessionOptionsOf(options));
    // Assigned rather than overridden: the type of request() differs between the SDK's versions, and stays as it is in each.
    const send = super.request.bind(this) as (request: Request, schema: unknown, options: RequestOptions) => Promise<unknown>;
    this.request = ((request: Request, schema: unknown, callOptions?: CallOptions) =>
      this.#call(request, callOptions ?? {}, (attemptOptions) => send(request, schema, attemptOptions))) as Client['request'];
  }

  /** The session as it stands now. */
  get session(): SessionInfo {
    return this.#session.session;
  }

  /** What happens to the session and its calls. */
  get events(): SessionEmitter {
    return this.#session.events;
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
      if ('method' in message && message.method === 'notifications/tools/list_changed') this.#session.remember(TOOLS, undefined);
    };
    // The SDK listens to a signal during the first half of the handshake only.
    const giveUp = (): void => void this.close();
    signal?.addEventListener('abort', giveUp, { once: true });
    try {
      await super.connect(this.#session, { ...options, ...(signal ? { signal } : {}) });
      await this.#recallTools();
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener('abort', giveUp);
    }
  }

  /** OAuth: exchanges the code that the user came back with. Then `connect()` again. */
  async finishAuth(authorizationCode: string): Promise<void> {
    await this.#session.finishAuth(authorizationCode);
  }

  /** As in the SDK, with `safe` among the options. */
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
    this.#leaving = leaving;
    for (const call of this.#calls) call.close();
    await leaving;
  }

  /** Output validation must hold from the first call of a resumed session on: the SDK gets the tools that it knew before. */
  async #recallTools(): Promise<void> {
    const known = ListToolsResultSchema.safeParse({ tools: this.#session.recall(TOOLS) });
    if (!known.success) return;
    if (this.#options.trustAnnotations) this.#believe(known.data);
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

  async #call(request: Request, options: CallOptions, send: (options: RequestOptions) => Promise<unknown>): Promise<unknown> {
    if (this.#knownTools && request.method === 'tools/list') return this.#knownTools;
    // What the SDK would say by a plain Error.
    if (!this.transport) throw new ClosedError(`The client is not connected, so ${describeRequest(request)} was not sent: connect first.`, { outcome: 'not-sent' });
    const number = ++this.#callCount;
    const { timeout: limits = {}, retry } = this.#options;
    if (options.timeout !== undefined) duration(options.timeout, 'timeout', LONGEST_TIMER);
    if (options.maxTotalTimeout !== undefined) duration(options.maxTotalTimeout, 'maxTotalTimeout', LONGEST_TIMER);
    const { safe, signal, onprogress, resetTimeoutOnProgress = true, ...rest } = options;
    const isHandshake = request.method === 'initialize';
    const usual = isHandshake ? (limits.connect ?? DEFAULTS.timeout.connect) : (limits.call ?? DEFAULTS.timeout.call);
    const call = options.timeout ?? usual;
    const total = options.maxTotalTimeout ?? (isHandshake ? call : (limits.total ?? Math.max(call, DEFAULTS.timeout.total)));
    const deadline = new Deadline({ what: describeRequest(request), setBy: isHandshake ? 'timeout.connect' : 'timeout.call', call, total, signal, giveUp: (abort) => this.#session.cancelling(abort) });
    this.#calls.add(deadline);
    try {
      deadline.throwIfOver();
      const attemptOptions: RequestOptions = {
        ...rest,
        // The deadline is ours: the SDK's timer must never be the first.
        timeout: LONGEST_TIMER,
        ...(onprogress
          ? {
              onprogress: (progress) => {
                if (resetTimeoutOnProgress) deadline.progress();
                onprogress(progress);
              },
            }
          : {}),
      };
      delete attemptOptions.maxTotalTimeout;
      const result = await retrying(() => deadline.during((attemptSignal) => send({ ...attemptOptions, signal: attemptSignal })), {
        deadline,
        safe: safe ?? this.#isSafe(request),
        retry: retry === false ? false : { ...DEFAULTS.retry, ...retry },
        onRetry: (info) => this.#session.tell('retry', { call: number, method: request.method, ...info }),
      });
      if (request.method === 'tools/list') this.#noteTools(request, result as ListToolsResult);
      return result;
    } finally {
      this.#calls.delete(deadline);
      deadline.dispose();
    }
  }

  #isSafe({ method, params }: Request): boolean {
    if (method !== 'tools/call') return isSafeMethod(method);
    return this.#repeatable.has(String((params as { name?: unknown } | undefined)?.name));
  }

  #noteTools({ params }: Request, result: ListToolsResult): void {
    if (this.#options.trustAnnotations) this.#believe(result);
    // A list in pages is not kept: the SDK validates by the last page only.
    const whole = (params as { cursor?: unknown } | undefined)?.cursor === undefined && result.nextCursor === undefined;
    this.#session.remember(TOOLS, whole ? result.tools : undefined);
  }

  #believe({ tools }: ListToolsResult): void {
    const known = new Set(this.#repeatable);
    for (const { name, annotations } of tools) {
      if (annotations?.readOnlyHint || annotations?.idempotentHint) known.add(name);
      else known.delete(name);
    }
    this.#repeatable = known;
  }
}

/** The name under which the tools are kept with the session. */
const TOOLS = 'tools';

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
