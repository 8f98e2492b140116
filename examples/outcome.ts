import { connect, RepriseError } from 'mcp-reprise';

const url = process.env['MCP_URL'] ?? 'http://localhost:3001/mcp';
await using client = await connect(url, {
  timeout: { connect: 5_000, call: 30_000 },
  on: {
    reset: ({ reason }) => console.log('a new session:', reason),
    retry: ({ method, attempt, delay, reason }) => console.log(`${method}: attempt ${attempt} failed, again in ${delay} ms: ${reason}`),
  },
});

try {
  // It only looks, so it may be repeated. Without `safe` it is repeated only if it surely did not run.
  await client.callTool({ name: 'echo', arguments: { message: 'look' } }, undefined, { safe: true });
  console.log('answered');
} catch (error) {
  if (!(error instanceof RepriseError)) throw error;
  // 'not-sent' and 'refused': it did not run. 'unknown': it may or may not have run, so look before you call it again.
  console.log(error.outcome, error.message);
}
