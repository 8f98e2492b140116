/** The same with the bare SDK: it keeps the session id by hand and hands it to the next transport, as the SDK offers. */
import { readFileSync, writeFileSync } from 'node:fs';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';

const [url = '', file = ''] = process.argv.slice(2);

const stored = readStored();
const client = new Client({ name: 'bare', version: '1.0.0' });
const transport = new StreamableHTTPClientTransport(new URL(url), stored ? { sessionId: stored } : {});
await client.connect(transport as Transport);
if (transport.sessionId) writeFileSync(file, transport.sessionId);
process.send?.({ type: 'connected', resumed: stored !== undefined, capabilities: client.getServerCapabilities() !== undefined });
const { content } = await client.callTool({ name: 'work', arguments: { nonce: `bare ${process.pid}`, ms: 300 } });
process.send?.({ type: 'answer', content });
await client.callTool({ name: 'work', arguments: { nonce: 'long work', ms: 60_000 } });

function readStored(): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
}
