import { callTool, checkHealth } from 'mcp-reprise';
import { fileStore } from 'mcp-reprise/node';

const url = process.env['MCP_URL'] ?? 'http://localhost:3001/mcp';
const store = fileStore('.sessions');

const { ok, latency, era, session, error } = await checkHealth(url, { store });
console.log(ok ? `speaks ${era}, ${session} session, ${Math.round(latency)} ms` : error?.message);

// One request, on the session that is there.
const { content } = await callTool(url, 'echo', { message: 'just this' }, { store });
console.log(content);
