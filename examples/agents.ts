/**
 * An agent for many users: each has a session of their own, with their own token, and its client is there as long as it is needed.
 */
import { ConnectionPool } from 'mcp-reprise';
import { fileStore } from 'mcp-reprise/node';

const url = process.env['MCP_URL'] ?? 'http://localhost:3001/mcp';

await using pool = new ConnectionPool({
  store: fileStore('.sessions'),
  max: 100, // For one more the client is closed that was not used the longest; its session stays in the store.
  idleTimeout: 60_000,
});

/** From your login. */
const tokenOf = async (user: string): Promise<string> => `token-of-${user}`;

/** What a web server would call for each request. */
async function answer(user: string, question: string): Promise<string> {
  // The principal keeps users apart: they never share a client, a session or an answer.
  // Asked before each request, since tokens change while the client stays.
  const headers = async () => ({ Authorization: `Bearer ${await tokenOf(user)}` });
  await using lease = await pool.lease(url, { principal: user, headers });
  const { client } = lease;
  const { data } = await client.update(({ data }) => ({ data: { ...data, questions: Number(data['questions'] ?? 0) + 1 } }));
  await client.callTool({ name: 'echo', arguments: { message: question } });
  return `${user}: question ${data['questions']} on ${client.session.resumed ? 'the session that was there' : 'a new session'}`;
}

const asked = [answer('ada', 'What runs?'), answer('bob', 'What is new?'), answer('ada', 'And now?')];
for (const line of await Promise.all(asked)) console.log(line);

const { size, leases } = pool.stats;
console.log(`${size} clients, ${leases} of them in use`);
