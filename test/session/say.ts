import type { CallOptions } from '../../src/client.ts';

interface Calls {
  callTool(params: { name: string; arguments: Record<string, unknown> }, schema?: undefined, options?: CallOptions): Promise<object>;
}

/** Calls a tool and returns the text of its answer. */
export async function say(client: Calls, name: string, args: Record<string, unknown> = {}, options: CallOptions = {}): Promise<string> {
  const { content } = (await client.callTool({ name, arguments: args }, undefined, options)) as { content?: { text?: string }[] };
  return content?.[0]?.text ?? '';
}
