import type { CallToolResult, Implementation } from '@modelcontextprotocol/sdk/types.js';
import type { ProgressCallback } from '@modelcontextprotocol/sdk/shared/protocol.js';
import { ResilientClient } from './client.ts';
import { checkCallSettings } from './checks.ts';
import type { CallSettings, ConnectOptions, Target } from './options.ts';
import { supportedVersions } from './session/outcome.ts';

/** What a one-off call can be given: the options of a client, and those of the call. */
export interface OneOffOptions extends ConnectOptions, Pick<CallSettings, 'safe' | 'callId'> {
  /** Hears of the progress that the server reports. */
  readonly onprogress?: ProgressCallback;
}

/**
 * Calls one tool and leaves. With a `store` the next one-off call, in this process or another, goes out on the same session: it is one
 * request. Without one the session is ended (DELETE).
 *
 * @throws RepriseError as the calls of a client do; TypeError or RangeError for options that make no sense
 */
export async function callTool(target: Target, name: string, args?: Readonly<Record<string, unknown>>, options: OneOffOptions = {}): Promise<CallToolResult> {
  if (typeof name !== 'string' || name === '') throw new TypeError('callTool(target, name, args?, options?): the second argument is the name of the tool');
  if (args !== undefined && (typeof args !== 'object' || args === null || Array.isArray(args))) throw new TypeError('callTool(target, name, args?, options?): the arguments must be an object');
  const { safe, callId, onprogress, ...connectOptions } = options;
  if (onprogress !== undefined && typeof onprogress !== 'function') throw new TypeError('onprogress must be a function');
  if (callId !== undefined && !connectOptions.store) throw new TypeError('callId makes a call durable, which needs a `store`');
  const call = { ...(safe === undefined ? {} : { safe }), ...(callId === undefined ? {} : { callId }) };
  checkCallSettings(call);
  const client = oneOffClient(target, connectOptions);
  try {
    await client.connect();
    const { signal } = options;
    return (await client.callTool({ name, ...(args ? { arguments: { ...args } } : {}) }, undefined, {
      ...call,
      ...(signal ? { signal } : {}),
      ...(onprogress ? { onprogress } : {}),
    })) as CallToolResult;
  } finally {
    await client.close();
  }
}

/** What there is to know of a server's health. */
export interface Health {
  /** It answered a ping. */
  readonly ok: boolean;
  /** How long that took, in ms: connecting where that was necessary, and the ping. */
  readonly latency: number;
  /** The version of the protocol that it speaks with us: `'2025-11-25'`. Where it said that it speaks newer ones only, the newest of those. */
  readonly era?: string;
  /** Its name and version. */
  readonly server?: Implementation;
  /** Whether a stored session was taken up and is alive, or a new one made. */
  readonly session?: 'resumed' | 'new';
  /** What is wrong. */
  readonly error?: Error;
}

/**
 * Asks a server for a sign of life, on the stored session where there is one. Does not throw for a server that is not well.
 *
 * @throws TypeError or RangeError for options that make no sense; the reason of your own `signal`
 */
export async function checkHealth(target: Target, options: ConnectOptions = {}): Promise<Health> {
  const { signal, retry = false } = options;
  const client = oneOffClient(target, { ...options, retry });
  const start = performance.now();
  let error: Error | undefined;
  try {
    await client.connect();
    await client.ping(signal ? { signal } : undefined);
  } catch (failure) {
    error = failure instanceof Error ? failure : new Error(String(failure));
  }
  const latency = performance.now() - start;
  const { protocolVersion, resumed } = client.session;
  const server = client.getServerVersion();
  await client.close();
  signal?.throwIfAborted();
  const era = protocolVersion ?? supportedVersions(error).filter(isDate).sort().at(-1);
  return {
    ok: error === undefined,
    latency,
    ...(era === undefined ? {} : { era }),
    ...(server ? { server } : {}),
    ...(error ? { error } : { session: resumed ? 'resumed' : 'new' }),
  };
}

/** Nobody stays to hear notifications. */
function oneOffClient(target: Target, options: ConnectOptions): ResilientClient {
  const { listen = false } = options;
  return new ResilientClient(target, { ...options, listen });
}

/** Versions of the protocol are days. */
function isDate(version: string): boolean {
  return /^\d{4}-\d\d-\d\d$/.test(version);
}
