/**
 * A program that goes on where it was: run it, stop it in any way you like (Ctrl-C, `kill -9`), run it again. No run but the first
 * one shakes hands, and none ends the session.
 */
import { connect } from 'mcp-reprise';
import { fileStore } from 'mcp-reprise/node';

const url = process.env['MCP_URL'] ?? 'http://localhost:3001/mcp';
await using client = await connect(url, {
  store: fileStore('.sessions'),
  session: 'restart',
  on: {
    resumed: () => console.log('the server still knows the session'),
    // The server forgot it: there is a new one already, with the same subscriptions. What else it kept for us is gone.
    reset: ({ reason }) => console.log('the server had forgotten the session:', reason),
    warning: (error) => console.warn(error.message),
  },
});

// What the program wants to know the next time is kept with the session, and changed atomically.
const { data } = await client.update(({ data }) => ({ data: { ...data, runs: Number(data['runs'] ?? 0) + 1 } }));
console.log(`run ${data['runs']}, ${client.session.resumed ? 'on the session that was there' : 'on a new session'}`);

const { content } = await client.callTool({ name: 'echo', arguments: { message: `run ${data['runs']}` } });
console.log(content);
