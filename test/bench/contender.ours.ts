import { callTool, connect, type ConnectOptions } from 'mcp-reprise';
import type { Contender, ContenderOptions } from './contender.ts';

/** Loaded only by those who keep a session. */
async function settings({ storeAt, redisAt, ours }: ContenderOptions): Promise<ConnectOptions | undefined> {
  if (redisAt) {
    const { createClient } = await import('redis');
    const { redisStore } = await import('mcp-reprise/redis');
    return { ...ours, store: redisStore(await createClient({ url: redisAt.url }).on('error', () => {}).connect(), { prefix: redisAt.prefix }) };
  }
  if (storeAt === undefined) return ours;
  const { fileStore } = await import('mcp-reprise/node');
  return { ...ours, store: fileStore(storeAt) };
}

/** As our README has it: no option is set that a measure does not need. */
export const ours: Contender = {
  prepare: async ({ storeAt } = {}) => storeAt === undefined || (await import('mcp-reprise/node')),
  async connect(url, options = {}) {
    const client = await connect(url, await settings(options));
    return {
      call: (name, text, signal) => client.callTool({ name, arguments: { text } }, undefined, signal && { signal }),
      listTools: () => client.listTools(),
      close: () => client.close(),
      batch: (texts) => client.batch(texts.map((text) => ({ method: 'tools/call', params: { name: 'echo', arguments: { text } } }) as const), { wire: 'array' }),
      get sessionId() {
        return client.session.id;
      },
    };
  },
  once: async (url, tool, text, options = {}) => callTool(url, tool, { text }, await settings(options)),
};
