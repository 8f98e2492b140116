import { connect, OutcomeUnknownError, UnreachableError } from 'mcp-reprise';

const url = process.env['MCP_URL'] ?? 'http://localhost:3001/mcp';
await using client = await connect(url, { timeout: { call: 30_000 } });

client.events.on('reset', ({ reason }) => console.log('a new session:', reason));
client.events.on('retry', ({ method, attempt, delay }) => console.log(method, 'again:', attempt, 'in', delay, 'ms'));

try {
  // Only looks, so it may be repeated. Without `safe` it is sent once.
  await client.callTool({ name: 'echo', arguments: { message: 'look' } }, undefined, { safe: true });
  console.log('answered');
} catch (error) {
  if (error instanceof OutcomeUnknownError) console.log('it may or may not have run: look first');
  else if (error instanceof UnreachableError) console.log('it was never sent');
  else throw error;
}
