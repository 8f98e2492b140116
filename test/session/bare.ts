import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import type { RequestOptions } from '@modelcontextprotocol/sdk/shared/protocol.js';
import { type CallToolResult, CallToolResultSchema } from '@modelcontextprotocol/sdk/types.js';
import { onTestFinished } from 'vitest';
import { type SessionOptions, SessionTransport, type Target } from '../../src/index.ts';

/** The SDK's own client over a `SessionTransport`: what the session does by itself, without our client above it. */
export interface Bare {
  readonly client: Client;
  readonly transport: SessionTransport;
  /** Calls a tool and returns the text of its answer. */
  call(name: string, args: Record<string, unknown>, options?: RequestOptions): Promise<string>;
}

export async function bare(target: Target, options: SessionOptions = {}): Promise<Bare> {
  const transport = new SessionTransport(target, options);
  const client = new Client({ name: 'bare', version: '1.0.0' });
  onTestFinished(() => client.close());
  await client.connect(transport);
  const call: Bare['call'] = async (name, args, requestOptions) => {
    // Synchronous up to the transport, unlike callTool().
    const result: CallToolResult = await client.request({ method: 'tools/call', params: { name, arguments: args } }, CallToolResultSchema, requestOptions);
    const [first] = result.content;
    return first?.type === 'text' ? first.text : '';
  };
  return { client, transport, call };
}
