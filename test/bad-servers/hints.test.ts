import { describe, expect, it } from 'vitest';
import { memoryStore } from '../../src/index.ts';
import { type Badness, badFor, echoed, GOOD, type Rpc, SSE } from './bad-server.ts';
import { clientOf, connected, echo, expectUsable, failureOf, REQUESTERS, startBad } from './harness.ts';

/** `retry:` on the stream of a session is in test/session/stream.test.ts, how `Retry-After` is read in test/links/http-failure.test.ts. */

const YEAR_9999 = 'Fri, 31 Dec 9999 23:59:59 GMT';
/** So long it is until then at the least, in ms. */
const AGES = 200_000_000_000_000;

/** Breaks the stream of a call off with a hint, and each that resumes it too, until so many are broken; then it answers. */
function breakingOff(retry: string, times: number): Badness {
  let call: Rpc = {};
  let left = times;
  return ({ method, rpc }, res) => {
    if (rpc.method === 'tools/call') call = rpc;
    else if (method !== 'GET') return GOOD;
    return res.writeHead(200, SSE).end(left-- > 0 ? `id: event-${left}\nretry: ${retry}\ndata:\n\n` : `data: ${echoed(call)}\n\n`);
  };
}

describe.each(REQUESTERS)('`retry:` on the stream of a call over %s', (_requester, over) => {
  it.each(['0', '-1', 'NaN', '1e400', '0x10', ''])('of "%s" is no reason to wait, and none for a storm', async (retry) => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    server.bad = breakingOff(retry, 4);
    const start = performance.now();

    expect(await echo(heard.client, 'x')).toEqual({ content: [{ type: 'text', text: 'x' }] });

    // At once, after at least 50, 100 and 200 ms.
    expect(performance.now() - start).toBeGreaterThanOrEqual(349);
    expect(server.requests('tools/call')).toHaveLength(1);
    expect(server.requests('GET')).toHaveLength(4);
    await expectUsable(server, heard.client);
  });

  it.each([
    ['2^32', '4294967296'],
    ['2^31', '2147483648'],
    ['so many digits that it is no number any more', '9'.repeat(400)],
  ])('of %s is waited for, as far as the call has time', async (_what, retry) => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    server.bad = breakingOff(retry, 1_000_000);

    const failure = await failureOf(echo(heard.client, 'x', { timeout: 700 }), 700);

    expect(failure).toMatchObject({ code: 'DEADLINE', outcome: 'unknown', timeout: 700 });
    // An overflow would come back after 1 ms each time.
    expect(server.requests('GET')).toEqual([]);
    await expectUsable(server, heard.client);
  });
});

describe.each(REQUESTERS)('`Retry-After` in the year 9999 over %s', (_requester, over) => {
  const busy = (status: number): Badness => badFor('tools/call', (_, res) => res.writeHead(status, { 'retry-after': YEAR_9999 }).end());

  it.each([true, false])('of a server that has too many requests fails a call at once and says how long (G5); safe: %s', async (safe) => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    server.bad = busy(429);

    const failure = await failureOf(echo(heard.client, 'x', { safe }), 0);

    expect(failure).toMatchObject({ code: 'RATE_LIMITED', outcome: 'refused', message: expect.stringContaining('429') });
    expect(failure.retryAfter).toBeGreaterThan(AGES);
    expect(server.requests('tools/call')).toHaveLength(1);
    await expectUsable(server, heard.client);
  });

  it.each([true, false])('of a server that is away fails a call at once (G5); safe: %s', async (safe) => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    server.bad = busy(503);

    const failure = await failureOf(echo(heard.client, 'x', { safe }), 0);

    expect(failure).toMatchObject({ code: 'OUTCOME_UNKNOWN', message: expect.stringContaining('503') });
    expect(failure.retryAfter).toBeGreaterThan(AGES);
    expect(server.requests('tools/call')).toHaveLength(1);
    await expectUsable(server, heard.client);
  });

  it.each([429, 503])('of a handshake that is answered %i fails at once', async (status) => {
    await using server = await startBad(badFor('initialize', (_, res) => res.writeHead(status, { 'retry-after': YEAR_9999 }).end()));
    await using heard = clientOf(server, { ...over, store: memoryStore() });

    const failure = await failureOf(heard.client.connect(), 0);

    expect(failure.message).toContain(String(status));
    expect(failure.retryAfter).toBeGreaterThan(AGES);
    expect(server.requests('initialize')).toHaveLength(1);
    server.bad = () => GOOD;
    await heard.client.connect();
    await expectUsable(server, heard.client);
  });

  it('of a stream that is resumed is waited for, as far as the call has time', async () => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    server.bad = ({ method, rpc }, res) => {
      if (rpc.method === 'tools/call') return res.writeHead(200, SSE).end('id: 0\ndata:\n\n');
      return method === 'GET' ? res.writeHead(503, { 'retry-after': YEAR_9999 }).end() : GOOD;
    };

    const failure = await failureOf(echo(heard.client, 'x', { timeout: 700 }), 700);

    expect(failure).toMatchObject({ code: 'DEADLINE', outcome: 'unknown' });
    expect(server.requests('GET')).toHaveLength(1);
    await expectUsable(server, heard.client);
  });

  it('of the notification stream leaves calls alone', async () => {
    await using server = await startBad(badFor('GET', (_, res) => res.writeHead(503, { 'retry-after': YEAR_9999 }).end()));
    await using heard = clientOf(server, { ...over, listen: true });
    const degraded = new Promise<{ retrying: boolean }>((resolve) => heard.client.events.once('degraded', resolve));
    await heard.client.connect();

    expect(await degraded).toMatchObject({ retrying: true });
    await expectUsable(server, heard.client);
    expect(server.requests('GET')).toHaveLength(1);
  });
});
