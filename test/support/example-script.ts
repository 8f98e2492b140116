import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { next, send } from './client-script.ts';

/** A client in its own process: says echoes until it is told to stop, and then ends by itself. */
const [url = ''] = process.argv.slice(2);
const transport = new StreamableHTTPClientTransport(new URL(url));
const client = new Client({ name: 'example', version: '1.0.0' });
await client.connect(transport as Transport);
send({ type: 'ready' });
const { text } = await next<{ type: 'say'; text: string }>('say');
const { content } = await client.callTool({ name: 'echo', arguments: { text } });
console.log('said', text);
send({ type: 'said', content });
await next('stop');
await client.close();
