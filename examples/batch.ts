import { connect } from 'mcp-reprise';

const url = process.env['MCP_URL'] ?? 'http://localhost:3001/mcp';
await using client = await connect(url);

const [tools, echo, typo] = await client.batch(
  [
    { method: 'tools/list' },
    { method: 'tools/call', params: { name: 'echo', arguments: { message: 'one of many' } } },
    { method: 'resources/read', params: { uri: 'no://such/resource' } },
  ],
  { timeout: 10_000 },
);

// As from Promise.allSettled, each with the type of its own request: one that fails leaves the others alone.
if (tools.status === 'fulfilled') console.log(tools.value.tools.length, 'tools');
if (echo.status === 'fulfilled') console.log(echo.value.content);
if (typo.status === 'rejected') console.log(typo.reason.message);
