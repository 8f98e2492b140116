import { connect } from 'mcp-reprise';
import { fileStore } from 'mcp-reprise/node';

const url = process.env['MCP_URL'] ?? 'http://localhost:3001/mcp';
await using client = await connect(url, { store: fileStore('.sessions') });

const { tools } = await client.listTools();
console.log(client.session.resumed ? 'went on' : 'started', 'with', tools.length, 'tools');
const { content } = await client.callTool({ name: 'echo', arguments: { message: 'Hello again' } });
console.log(content);
