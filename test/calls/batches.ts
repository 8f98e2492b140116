import type { BatchOptions, BatchRequest, ResilientClient } from '../../src/index.ts';
import type { CallOptions } from '../../src/client.ts';

export const CALL = 'tools/call';

export type ToolCall = BatchRequest & { readonly method: 'tools/call' };
export const tool = (name: string, args: Record<string, unknown>, options: CallOptions = {}) => ({ method: CALL, params: { name, arguments: args }, options }) as const satisfies ToolCall;
export const echo = (text: string, options?: CallOptions) => tool('echo', { text }, options);
export const work = (nonce: string, ms: number, options?: CallOptions) => tool('work', { nonce, ms }, options);
export const numbered = (count: number, prefix: string) => Array.from({ length: count }, (_, i) => `${prefix} ${i}`);

/** The text of a tool's answer, or what it failed with. */
const said = (result: PromiseSettledResult<unknown>): unknown =>
  result.status === 'rejected' ? result.reason : (result.value as { content?: { text?: string }[] }).content?.[0]?.text;

export const batchOf = async (client: ResilientClient, requests: readonly BatchRequest[], options?: BatchOptions) => (await client.batch(requests, options)).map(said);
