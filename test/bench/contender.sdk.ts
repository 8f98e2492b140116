import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import type { Contender } from './contender.ts';

/** The SDK's v1 client over its own transport, as its documentation has it. */
export const sdk: Contender = {
  async connect(url, { sessionId } = {}) {
    const transport = new StreamableHTTPClientTransport(new URL(url), sessionId === undefined ? {} : { sessionId });
    const client = new Client({ name: 'bench', version: '1.0.0' });
    await client.connect(transport as Transport);
    return {
      call: (name, text, signal) => client.callTool({ name, arguments: { text } }, undefined, signal && { signal }),
      listTools: () => client.listTools(),
      close: async () => {
        await transport.terminateSession();
        await client.close();
      },
      get sessionId() {
        return transport.sessionId;
      },
    };
  },
};
