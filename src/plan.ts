import type { Client } from '@modelcontextprotocol/sdk/client/index.js';
import type { ProgressCallback, RequestOptions } from '@modelcontextprotocol/sdk/shared/protocol.js';
import { McpError } from '@modelcontextprotocol/sdk/types.js';
import type { BatchContext } from './batch.ts';
import type { CallSpec } from './calls/calls.ts';
import { type Answer, DurableCalls } from './calls/durable.ts';
import type { ToolList } from './calls/tool-list.ts';
import { isSafeMethod, isShared } from './calls/verdict.ts';
import { canonical } from './canonical.ts';
import type { CallOptions } from './client.ts';
import { type ConnectOptions, DEFAULTS } from './options.ts';
import { describeRequest } from './session/outcome.ts';
import type { SessionTransport } from './session/transport.ts';
import { LONGEST_TIMER } from './timers.ts';

type Request = Parameters<Client['request']>[0];
/** The SDK's own request(). */
export type Send = (request: Request, schema: unknown, options: RequestOptions) => Promise<unknown>;

interface PlanContext {
  readonly options: ConnectOptions;
  readonly session: SessionTransport;
  readonly tools: ToolList;
  readonly send: Send;
}

/** Makes of a request of the SDK, with its options and those of the client, what the calls below understand. */
export class Planner {
  /** The whole time of the connect that is under way, in ms. */
  connectTimeout: number | undefined;
  readonly #context: PlanContext;
  /** What the calls of a batch have in common, by the options that they are made with. */
  readonly #batches = new WeakMap<CallOptions, BatchContext>();
  readonly #schemas = new Numbers();

  constructor(context: PlanContext) {
    this.#context = context;
  }

  /** The call with these options belongs to a batch. */
  enrol(options: CallOptions, batch: BatchContext): void {
    this.#batches.set(options, batch);
  }

  plan(request: Request, schema: unknown, options: CallOptions): CallSpec {
    const { method, params } = request;
    const usual = this.#context.options.retry;
    const { safe: marked, callId, retry = usual, timeout, maxTotalTimeout, cache: _, signal, onprogress, resetTimeoutOnProgress = true, ...rest } = options;
    const batch = this.#batches.get(options);
    const { safe, shared } = this.#nature(request, marked);
    const isHandshake = method === 'initialize';
    const shareKey = shared && !batch?.seat && isPlain(rest) ? `${safe} ${canonical(retry)} ${this.#shareKey(request, schema, onprogress)}` : undefined;
    return {
      method,
      name: nameOf(params),
      params,
      what: describeRequest(request),
      ...this.#limits(isHandshake, timeout, maxTotalTimeout, batch),
      signal,
      onprogress: onprogress as ((progress: unknown) => void) | undefined,
      extends: resetTimeoutOnProgress,
      safe,
      retry: retry === false ? false : { ...DEFAULTS.retry, ...usual, ...retry },
      shareKey: callId === undefined ? shareKey : `call ${callId} ${this.#shareKey(request, schema, undefined)}`,
      counts: !isHandshake,
      turn: () => !isHandshake && method !== 'ping' && (batch?.seat?.taken ?? true),
      durable: callId === undefined ? undefined : this.#durable(callId, request, schema, safe),
      send: ({ onprogress: onProgress, signal: attemptSignal, resumptionToken, onresumptiontoken }) => {
        const attempt: RequestOptions = {
          ...rest,
          ...(resumptionToken === undefined ? {} : { resumptionToken }),
          ...(onresumptiontoken ? { onresumptiontoken } : {}),
          ...(onProgress ? { onprogress: onProgress as ProgressCallback } : {}),
          signal: attemptSignal,
          // The deadline is ours: the SDK's timer must never be the first.
          timeout: LONGEST_TIMER,
        };
        // A durable answer is kept as it came, and held against the schema each time that it is handed over.
        const send = (): Promise<unknown> => this.#context.send(request, callId === undefined ? schema : ANYTHING, attempt);
        return batch?.seat && !batch.seat.taken ? batch.seat.take(send) : send();
      },
    };
  }

  /** Whether a request may be repeated, and whether one answer does for all who ask for it at the same time. */
  #nature({ method, params }: Request, marked: boolean | undefined): { readonly safe: boolean; readonly shared: boolean } {
    if (method !== 'tools/call') return { safe: marked ?? isSafeMethod(method), shared: isShared(method) };
    const name = String((params as { name?: unknown } | undefined)?.name);
    const { trustAnnotations = false } = this.#context.options;
    const safe = marked ?? (trustAnnotations && this.#context.tools.isRepeatable(name));
    return { safe, shared: safe && (marked === true || this.#context.tools.isReadOnly(name)) };
  }

  #limits(isHandshake: boolean, timeout: number | undefined, maxTotalTimeout: number | undefined, batch: BatchContext | undefined): { call: number; total: number; batchTimeout?: number; connectTimeout?: number | undefined } {
    const { connect, call: usual, total } = { ...DEFAULTS.timeout, ...this.#context.options.timeout };
    const call = timeout ?? (isHandshake ? connect : usual);
    const all = maxTotalTimeout ?? (isHandshake ? call : Math.max(call, total));
    if (isHandshake) return { call, total: all, connectTimeout: this.connectTimeout };
    if (!batch) return { call, total: all };
    const left = Math.max(1, batch.endsAt - performance.now());
    return left < all ? { call, total: left, batchTimeout: batch.timeout } : { call, total: all };
  }

  #shareKey({ method, params }: Request, schema: unknown, onprogress: unknown): string {
    return `${method} ${this.#schemas.of(schema)} ${onprogress ? 'with' : 'without'} progress ${canonical(params) ?? ''}`;
  }

  #durable(callId: string, { method, params }: Request, schema: unknown, safe: boolean) {
    const { store, ttl = DEFAULTS.ttl } = this.#context.options;
    const { key } = this.#context.session.session;
    if (!store || key === undefined) {
      throw new TypeError('callId makes a call durable, which needs a `store`, a server over HTTP, and with an `authProvider` a `principal`');
    }
    const warn = (error: Error): void => this.#context.session.tell('warning', error);
    return {
      calls: new DurableCalls({ store, prefix: `${key.replace(/^session/, 'call')}/`, ttl, warn }),
      call: { callId, method, params, safe },
      revive: (answer: Answer): unknown => revived(answer, schema),
    };
  }
}

/** What the SDK asks of a schema, for one that everything fits. */
const ANYTHING = { safeParse: (data: unknown) => ({ success: true, data }) };

/** The answer of a durable call as its caller would have got it from the server. */
function revived(answer: Answer, schema: unknown): unknown {
  if ('result' in answer) return (schema as { parse(value: unknown): unknown }).parse(answer.result);
  const { code, message, data } = answer.error;
  // The SDK puts this in front of what the server says.
  return Promise.reject(McpError.fromError(code, message.replace(`MCP error ${code}: `, ''), data));
}

/** Whether a call has no options of the SDK's that make it its caller's own: tasks, related requests, tokens. */
function isPlain(rest: RequestOptions): boolean {
  return Object.values(rest).every((value) => value === undefined);
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
