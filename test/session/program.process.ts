import type { CallToolResult } from '@modelcontextprotocol/sdk/types.js';
import { connect } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { next, send } from '../support/client-script.ts';

/** A program that uses the library, in its own process: `node program.process.ts <url> <directory>`, then does as it is told. */
export type Command =
  | { type: 'call'; tool: string; args: Record<string, unknown>; timeout?: number }
  | { type: 'listTools' }
  | { type: 'describe' }
  | { type: 'close' };

export type Report =
  | { type: 'connected'; state: string }
  | { type: 'answer'; text?: string; structured?: unknown; error?: string; code?: string | number }
  | { type: 'tools'; names: string[] }
  | {
      type: 'description';
      capabilities: unknown;
      serverInfo: unknown;
      instructions: string | undefined;
      protocolVersion: string | undefined;
      resumed: boolean;
      state: string;
    }
  | { type: 'heard'; method: string }
  | { type: 'event'; name: string; info: unknown }
  | { type: 'closed' };

const [url = '', directory = ''] = process.argv.slice(2);
const say = (report: Report): void => send(report);
const client = await connect(url, {
  store: fileStore(directory),
  client: { listChanged: { tools: { debounceMs: 0, onChanged: (_error, tools) => say({ type: 'tools', names: tools?.map(({ name }) => name) ?? [] }) } } },
});
client.fallbackNotificationHandler = async ({ method }) => say({ type: 'heard', method });
for (const name of ['resumed', 'reset', 'degraded', 'cursorLost', 'warning'] as const) {
  client.events.on(name, (info: unknown) => say({ type: 'event', name, info: info instanceof Error ? info.message : info }));
}
say({ type: 'connected', state: client.session.state });
for (;;) {
  const command = await next<Command>();
  if (command.type === 'close') break;
  else if (command.type === 'listTools') say({ type: 'tools', names: (await client.listTools()).tools.map(({ name }) => name) });
  else if (command.type === 'call') void call(command);
  else {
    say({
      type: 'description',
      capabilities: client.getServerCapabilities(),
      serverInfo: client.getServerVersion(),
      instructions: client.getInstructions(),
      protocolVersion: client.session.protocolVersion,
      resumed: client.session.resumed,
      state: client.session.state,
    });
  }
}
await client.close();
say({ type: 'closed' });

async function call({ tool, args, timeout }: Command & { type: 'call' }): Promise<void> {
  try {
    const result = (await client.callTool({ name: tool, arguments: args }, undefined, timeout === undefined ? {} : { timeout })) as CallToolResult;
    const [first] = result.content;
    say({ type: 'answer', ...(first?.type === 'text' ? { text: first.text } : {}), structured: result.structuredContent });
  } catch (error) {
    const { message, code } = error as Error & { code?: string };
    say({ type: 'answer', error: message, ...(code === undefined ? {} : { code }) });
  }
}
