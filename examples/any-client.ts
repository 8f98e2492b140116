import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SessionTransport } from 'mcp-reprise';
import { fileStore } from 'mcp-reprise/node';

const url = process.env['MCP_URL'] ?? 'http://localhost:3001/mcp';
await using transport = new SessionTransport(url, { store: fileStore('.sessions') });

const client = new Client({ name: 'my-app', version: '1.0.0' });
await client.connect(transport);
console.log(await client.callTool({ name: 'echo', arguments: { message: 'Hello' } }));
