/**
 * A long job that goes on where it stopped: kill it (`kill -9`) in any step and run it again. The session's state knows which steps are
 * done and what came of them; the step under way is a durable call, so it is joined where it is and runs once.
 */
import { connect } from 'mcp-reprise';
import { fileStore } from 'mcp-reprise/node';

const DAY = 24 * 60 * 60_000;
const url = process.env['MCP_URL'] ?? 'http://localhost:3001/mcp';

await using client = await connect(url, {
  store: fileStore('.sessions'),
  session: 'report-2026-11', // One session for each job.
  ttl: 7 * DAY, // So long the state of a job that nobody goes on with is kept.
});

const steps = [
  { id: 'fetch', tool: 'trigger-long-running-operation', arguments: { duration: 2, steps: 2 } },
  { id: 'convert', tool: 'trigger-long-running-operation', arguments: { duration: 2, steps: 4 } },
  { id: 'publish', tool: 'echo', arguments: { message: 'The report is out.' } },
];

for (const [i, { id, tool, arguments: args }] of steps.entries()) {
  const { done = {} } = client.session.data as { done?: Record<string, unknown> };
  if (id in done) {
    console.log(`${id}: done before`);
    continue;
  }
  console.log(`${id}: step ${i + 1} of ${steps.length}`);
  // Whoever makes it again with the same `callId` gets the one answer, also when the first one died before it could note it.
  const { content } = await client.callTool({ name: tool, arguments: args }, undefined, {
    callId: `report-2026-11/${id}`,
    onprogress: ({ progress, total }) => console.log(`${id}: ${progress} of ${total}`),
  });
  await client.update(({ data }) => ({ data: { ...data, done: { ...(data['done'] as object), [id]: content } } }));
}
console.log('all done');
