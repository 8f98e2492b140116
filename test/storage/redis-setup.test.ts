import { connect } from 'node:net';
import { describe, expect, it } from 'vitest';
import { runScript } from '../support/client-process.ts';
import { waitFor } from '../support/wait.ts';
import { redisUrl } from './redis-parts.ts';

type Started = { type: 'started'; url: string };

const listens = (url: string): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(Number(new URL(url).port), '127.0.0.1');
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });

// Somebody's own Redis is not started by the tests.
describe.skipIf(!redisUrl || process.env['REDIS_URL'])('The Redis of a test run', () => {
  it('ends with it, even when it is killed', async () => {
    await using run = runScript<Started>(new URL('./redis-setup.process.ts', import.meta.url));
    const { url } = await run.next('started');
    expect(await listens(url)).toBe(true);
    await run.kill();
    await waitFor(async () => !(await listens(url)), { what: 'the end of Redis' });
  });
});
