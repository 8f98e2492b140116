import { connect } from 'mcp-reprise';
import type { Contender } from './contender.ts';

/** As our README has it: no option is set that a measure does not need. */
export const ours: Contender = {
  async connect(url, options = {}) {
    const client = await connect(url, options.ours);
    return {
      call: (name, text) => client.callTool({ name, arguments: { text } }),
      listTools: () => client.listTools(),
      close: () => client.close(),
      batch: (texts) => client.batch(texts.map((text) => ({ method: 'tools/call', params: { name: 'echo', arguments: { text } } }) as const), { wire: 'array' }),
      get sessionId() {
        return client.session.id;
      },
    };
  },
};
