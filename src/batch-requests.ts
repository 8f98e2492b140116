import type { Client } from '@modelcontextprotocol/sdk/client/index.js';
import type { CallToolResult } from '@modelcontextprotocol/sdk/types.js';
import type { CallOptions, ResilientClient } from './client.ts';

/** What a verb of the SDK takes first. */
type First<V extends keyof Client> = Client[V] extends (first: infer P, ...rest: never) => unknown ? P : never;

/** The SDK's verbs by the method that they send: with them come the result's type, and what the SDK does with it. */
const VERBS = {
  ping: (client, _: undefined, options) => client.ping(options),
  'completion/complete': (client, params: First<'complete'>, options) => client.complete(params, options),
  'logging/setLevel': (client, { level }: { readonly level: First<'setLoggingLevel'> }, options) => client.setLoggingLevel(level, options),
  'prompts/get': (client, params: First<'getPrompt'>, options) => client.getPrompt(params, options),
  'prompts/list': (client, params: First<'listPrompts'>, options) => client.listPrompts(params, options),
  'resources/list': (client, params: First<'listResources'>, options) => client.listResources(params, options),
  'resources/read': (client, params: First<'readResource'>, options) => client.readResource(params, options),
  'resources/subscribe': (client, params: First<'subscribeResource'>, options) => client.subscribeResource(params, options),
  'resources/templates/list': (client, params: First<'listResourceTemplates'>, options) => client.listResourceTemplates(params, options),
  'resources/unsubscribe': (client, params: First<'unsubscribeResource'>, options) => client.unsubscribeResource(params, options),
  'tools/call': (client, params: First<'callTool'>, options) => client.callTool(params, undefined, options),
  'tools/list': (client, params: First<'listTools'>, options) => client.listTools(params, options),
} satisfies Record<string, (client: ResilientClient, params: never, options: CallOptions) => Promise<unknown>>;

type Verbs = typeof VERBS;
type Schema = Parameters<Client['request']>[1];

/** One request of the SDK, with the options of that call. */
type KnownRequest = {
  [M in keyof Verbs]: { readonly method: M; readonly options?: CallOptions } & (undefined extends Parameters<Verbs[M]>[1]
    ? { readonly params?: Parameters<Verbs[M]>[1] }
    : { readonly params: Parameters<Verbs[M]>[1] });
}[keyof Verbs];

/** Any other request, with the schema of its result. */
interface OtherRequest {
  readonly method: string;
  readonly params?: Record<string, unknown>;
  readonly schema: Schema;
  readonly options?: CallOptions;
}

/**
 * A request of the SDK, or any other with the `schema` of its result. What is wrong with its params or options is its own failure, as
 * it would be of the SDK's verb; what is no request, or has no schema where one is needed, fails the batch before anything is sent.
 */
export type BatchRequest = KnownRequest | OtherRequest;

/** What a schema makes: of zod 4, or 3. */
type OutputOf<S> = S extends { _zod: { output: infer O } } | { _output: infer O } ? O : unknown;
type ResultOf<R> = R extends { readonly schema: infer S } ? OutputOf<S> : R extends { readonly method: infer M extends keyof Verbs } ? M extends 'tools/call' ? CallToolResult : Awaited<ReturnType<Verbs[M]>> : unknown;

/** One settled result for each request, at its place. */
export type SettledResults<T extends readonly BatchRequest[]> = { -readonly [I in keyof T]: PromiseSettledResult<ResultOf<T[I]>> };

const WITHOUT_PARAMS = /^(ping|.+\/list)$/;

/** Makes a request, as the SDK's own verb for it would be called. */
export async function send(client: ResilientClient, request: BatchRequest, options: CallOptions): Promise<unknown> {
  const { method, params } = request;
  if (params !== undefined && (typeof params !== 'object' || params === null || Array.isArray(params))) throw new TypeError(`the params of ${method} must be an object`);
  if ('schema' in request && request.schema) return client.request(request.params ? { method, params: request.params } : { method }, request.schema, options);
  if (params === undefined && !WITHOUT_PARAMS.test(method)) throw new TypeError(`${method} needs params`);
  const verb = VERBS[method as keyof Verbs] as (client: ResilientClient, params: unknown, options: CallOptions) => Promise<unknown>;
  return verb(client, params, options);
}

const KEYS: readonly string[] = ['method', 'params', 'schema', 'options'];

/** Throws where something is no request, or none of which the result could be read. */
export function checkRequests(requests: readonly BatchRequest[]): void {
  if (!Array.isArray(requests)) throw new TypeError("batch() takes an array of requests, such as [{ method: 'tools/call', params: { name: 'echo' } }]");
  for (const [i, request] of (requests as readonly Partial<OtherRequest>[]).entries()) {
    const { method, schema } = request ?? {};
    if (typeof method !== 'string') throw new TypeError(`request ${i} of the batch has no method`);
    const stranger = Object.keys(request).find((name) => !KEYS.includes(name));
    if (stranger !== undefined) throw new TypeError(`request ${i} of the batch has no "${stranger}"; it knows ${KEYS.join(', ')} (what a call takes beside its params, such as callId, goes into options)`);
    if (method === 'initialize') throw new TypeError('initialize must not be part of a batch: connect() sends it');
    if (!schema && !Object.hasOwn(VERBS, method)) throw new TypeError(`request ${i} of the batch, ${method}, is none of the SDK's: give the \`schema\` of its result`);
  }
}
