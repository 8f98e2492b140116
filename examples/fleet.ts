/**
 * Workers that share one session, here as processes of one machine: with Redis they may be on any. Kill some of them (`kill -9`): the
 * others go on, a new one takes the session up, and when the server forgets it, one of them makes a new one for all.
 */
import cluster from 'node:cluster';
import { connect } from 'mcp-reprise';
import { presets } from 'mcp-reprise/node';
import { createClient } from 'redis';

const WORKERS = 4;

if (cluster.isPrimary) for (let i = 1; i <= WORKERS; i++) cluster.fork({ WORKER: String(i) });
else await work(process.env['WORKER'] ?? '?');

async function work(worker: string): Promise<void> {
  const redis = createClient({ url: process.env['REDIS_URL'] ?? 'redis://localhost:6379' });
  redis.on('error', () => {}); // That it fails is told by `warning` below; meanwhile calls go on, with a session of this worker's own.
  redis.connect().catch(() => {}); // Not waited for: while no Redis is there it would wait for ever.
  {
    await using client = await connect(process.env['MCP_URL'] ?? 'http://localhost:3001/mcp', {
      ...presets.fleet({ redis }),
      session: 'workers',
      on: {
        reset: ({ reason, adopted }) => console.log(`worker ${worker}: ${adopted ? 'took up' : 'made'} a new session: ${reason}`),
        warning: ({ message }) => console.warn(`worker ${worker}: ${message}`),
      },
    });
    console.log(`worker ${worker}: ${client.session.resumed ? 'took the session up' : 'made the session'}`);
    const jobs = Array.from({ length: 5 }, (_, job) => `job ${job + 1} of worker ${worker}`);
    const answers = await client.batch(jobs.map((message) => ({ method: 'tools/call' as const, params: { name: 'echo', arguments: { message } } })));
    const own = answers.filter((answer, i) => answer.status === 'fulfilled' && JSON.stringify(answer.value.content).includes(jobs[i] ?? '?'));
    console.log(`worker ${worker}: ${own.length} of ${jobs.length} answers, each its own`);
  }
  // The connection to Redis is the program's, not the store's.
  redis.destroy();
  cluster.worker?.disconnect();
}
