import type { ServerResponse } from 'node:http';
import type { Writable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { waitFor } from '../support/wait.ts';
import { badFor, echoed, event, JSON_TYPE, methodOf, SSE } from './bad-server.ts';
import { clientOf, connected, echo, expectUsable, failureOf, REQUESTERS, startBad } from './harness.ts';

/** Writes something at a pace for as long as there is somebody to hear it. */
function every(interval: number, res: Writable, piece: (n: number) => string | Uint8Array): void {
  let n = 0;
  const say = (): unknown => res.write(piece(n++));
  say();
  const timer = setInterval(say, interval);
  res.once('close', () => clearInterval(timer));
}

const answer = JSON.stringify({ jsonrpc: '2.0', id: 1, result: { content: [] } });

// They wait at the same time.
describe.each(REQUESTERS)('a server that takes its time, over %s:', (_requester, over) => {
  const slow: readonly (readonly [string, number, (res: ServerResponse) => unknown])[] = [
    ['headers that never come', 700, () => undefined],
    ['a body that never comes', 700, (res) => res.writeHead(200, JSON_TYPE).flushHeaders()],
    ['an event that never comes', 700, (res) => res.writeHead(200, SSE).flushHeaders()],
    ['keep-alives only', 700, (res) => every(20, res.writeHead(200, SSE), () => ': keep-alive\n\n')],
    ['keep-alives with event ids only', 700, (res) => every(20, res.writeHead(200, SSE), (n) => `id: ${n}\ndata:\n\n`)],
    ['notifications only', 700, (res) => every(20, res.writeHead(200, SSE), () => event('{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}'))],
    ['one byte every 10 s, of JSON', 11_000, (res) => every(10_000, res.writeHead(200, JSON_TYPE), (n) => answer[n] ?? ' ')],
    ['one byte every 10 s, of an event', 11_000, (res) => every(10_000, res.writeHead(200, SSE), (n) => `data: ${answer}`[n] ?? ' ')],
    ['one byte every 10 s, of the headers', 11_000, (res) => every(10_000, res.socket as Writable, (n) => Buffer.from('HTTP/1.1 200 OK\r\n').subarray(n, n + 1))],
  ];

  describe.concurrent('a call', () => {
    it.each(slow)('that gets %s ends at its deadline, and is cancelled at the server', async (_what, timeout, behave) => {
      await using server = await startBad(badFor('tools/call', (_, res) => behave(res)));
      await using heard = await connected(server, over);
      const start = performance.now();

      const failure = await failureOf(echo(heard.client, 'x', { timeout }), timeout);

      expect(performance.now() - start).toBeGreaterThanOrEqual(timeout - 1);
      expect(failure).toMatchObject({ code: 'DEADLINE', outcome: 'unknown', timeout, message: expect.stringContaining(`${timeout} ms`) });
      const [call] = server.requests('tools/call');
      await call?.closed;
      const [cancelled] = await waitFor(() => (server.requests('notifications/cancelled').length > 0 ? server.requests('notifications/cancelled') : undefined));
      expect(cancelled?.rpc.params?.requestId).toBe(call?.rpc.id);
      await expectUsable(server, heard.client);
    });

    it.each(slow.filter(([, timeout]) => timeout < 1000))('that gets %s instead of the handshake fails in time', async (_what, timeout, behave) => {
      await using server = await startBad(badFor('initialize', (_, res) => behave(res)));
      await using heard = clientOf(server, { ...over, timeout: { connect: timeout } });

      expect(await failureOf(heard.client.connect(), timeout)).toMatchObject({ code: 'DEADLINE', outcome: 'not-sent', message: expect.stringContaining(`${timeout} ms`) });

      // initialize must not be cancelled.
      expect(server.requests('notifications/cancelled')).toEqual([]);
    });

    it('to connect() is told of with the whole time that it had, however much of that went to the end of the last session', async () => {
      await using server = await startBad();
      await using heard = await connected(server, { ...over, timeout: { connect: 700 } });
      server.bad = (asked, res) => {
        if (methodOf(asked) === 'DELETE') setTimeout(() => res.writeHead(200).end(), 100);
      };
      void heard.client.close();

      expect(await failureOf(heard.client.connect(), 700)).toMatchObject({ code: 'DEADLINE', outcome: 'not-sent', timeout: 700, message: expect.stringContaining('700 ms') });
    });

    it('with progress for ever ends at its total deadline, however much progress there is', async () => {
      await using server = await startBad();
      await using heard = await connected(server, over);
      const progress = (token: unknown, n: number): string => event(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":${String(token)},"progress":${n}}}`);
      server.bad = badFor('tools/call', ({ rpc }, res) => every(5, res.writeHead(200, SSE), (n) => progress(rpc.params?._meta?.progressToken, n).repeat(20)));
      let heardProgress = 0;

      const failure = await failureOf(echo(heard.client, 'x', { timeout: 500, maxTotalTimeout: 1500, onprogress: () => heardProgress++ }), 1500);

      expect(failure).toMatchObject({ code: 'DEADLINE', outcome: 'unknown', timeout: 1500 });
      expect(heardProgress).toBeGreaterThan(20);
      await expectUsable(server, heard.client);
    });

    it('whose answer comes after a long time of keep-alives gets it', async () => {
      await using server = await startBad();
      await using heard = await connected(server, over);
      server.bad = badFor('tools/call', ({ rpc }, res) => {
        every(20, res.writeHead(200, SSE), () => ': keep-alive\n\n');
        setTimeout(() => res.end(event(echoed(rpc))), 1000);
      });
      expect(await echo(heard.client, 'at last')).toMatchObject({ content: [{ text: 'at last' }] });
    });

    it('whose refusal has a text that comes a byte every 10 s is refused within 2 s', async () => {
      await using server = await startBad();
      await using heard = await connected(server, over);
      server.bad = badFor('tools/call', (_, res) => every(10_000, res.writeHead(400), () => 'x'));
      expect(await failureOf(echo(heard.client, 'x'), 2000)).toMatchObject({ code: 'REFUSED', status: 400 });
      await expectUsable(server, heard.client);
    });
  });
});
