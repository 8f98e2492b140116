import { connect } from 'mcp-reprise';
import { fileStore } from 'mcp-reprise/node';

const url = process.env['MCP_URL'] ?? 'http://localhost:3001/mcp';
await using client = await connect(url, { store: fileStore('.sessions') });

// Kill this program while it waits, and run it again: it takes up the call where it is, and the tool runs once.
const params = { name: 'trigger-long-running-operation', arguments: { duration: 5, steps: 5 } };
const { content } = await client.callTool(params, undefined, {
  callId: 'import-42',
  onprogress: ({ progress, total }) => console.log('step', progress, 'of', total),
});
console.log(content);
