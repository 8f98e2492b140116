import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { gzipSync } from 'node:zlib';
import type { JSONRPCMessage } from '@modelcontextprotocol/sdk/types.js';
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest';
import { ResilientClient, SessionTransport } from '../../src/index.ts';
import { type HttpOptions, httpConnector } from '../../src/links/http-connector.ts';
import type { Ending, Exchange, Link } from '../../src/links/link.ts';
import { freePort, listen } from '../support/ports.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { type Script, ScriptedServer, writePieces } from './scripted-server.ts';

type Fetch = typeof globalThis.fetch;

const LIMIT = 1024 * 1024;
const SSE = { 'content-type': 'text/event-stream' };
const JSON_TYPE = { 'content-type': 'application/json' };

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  vi.unstubAllGlobals();
  vi.unstubAllEnvs();
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function scripted(script: Script, options?: { secure?: boolean }): Promise<ScriptedServer> {
  const server = await ScriptedServer.start(script, options);
  cleanUps.push(() => server.stop());
  return server;
}

/** A raw server: what it does with each connection is the test's. */
async function raw(onConnection: (socket: Socket) => void): Promise<number> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    onConnection(socket);
  });
  cleanUps.push(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((closed) => server.close(closed));
  });
  return listen(server);
}

const request = (id: number, method = 'tools/list'): JSONRPCMessage => ({ jsonrpc: '2.0', id, method, params: {} });
const notification: JSONRPCMessage = { jsonrpc: '2.0', method: 'notifications/roots/list_changed' };
const result = (id: number, value: unknown = 'ok') => ({ jsonrpc: '2.0', id, result: { value } });
const event = (message: unknown, id?: string) => `${id === undefined ? '' : `id: ${id}\n`}data: ${JSON.stringify(message)}\n\n`;
const answerJson: Script = ({ body }, res) => res.writeHead(200, JSON_TYPE).end(JSON.stringify(result((JSON.parse(body) as { id: number }).id)));

interface Heard {
  messages: JSONRPCMessage[];
  accepted: (string | undefined)[];
  eventIds: string[];
  retries: number[];
}

function listener(signal = new AbortController().signal): { heard: Heard; exchange: Exchange } {
  const heard: Heard = { messages: [], accepted: [], eventIds: [], retries: [] };
  const exchange: Exchange = {
    signal,
    hear: (message) => heard.messages.push(message),
    onAccepted: ({ sessionId }) => heard.accepted.push(sessionId),
    onEventId: (id) => heard.eventIds.push(id),
    onRetryHint: (delay) => heard.retries.push(delay),
  };
  return { heard, exchange };
}

type Outcome = Heard & { ending: Ending };

async function send(link: Link, message: JSONRPCMessage | readonly JSONRPCMessage[] = request(1), signal?: AbortSignal): Promise<Outcome> {
  const { heard, exchange } = listener(signal);
  return { ...heard, ending: await link.send(message, exchange) };
}

async function hear(link: Link, lastEventId?: string, signal?: AbortSignal): Promise<Outcome> {
  const { heard, exchange } = listener(signal);
  return { ...heard, ending: (await link.listen?.(exchange, lastEventId)) ?? { type: 'aborted' } };
}

/** The pool of Node's fetch takes a second connection now and then, when the first has only just become free. */
const expectFew = (connections: number, overFetch: boolean) => (overFetch ? expect([1, 2]).toContain(connections) : expect(connections).toBe(1));

const errorOf = (ending: Ending): Error => {
  if (!('error' in ending)) throw new Error(`no error in ${JSON.stringify(ending)}`);
  return ending.error;
};

describe.each([
  ['node:http', undefined],
  ['fetch', globalThis.fetch],
] as const)('the HTTP link over %s', (requester, fetch) => {
  const overFetch = fetch !== undefined;

  function link(url: URL, options: Partial<HttpOptions> = {}): Link & { noise: Error[] } {
    const connector = httpConnector(url, { responseLimit: LIMIT, ...(fetch ? { fetch } : {}), ...options });
    cleanUps.push(() => connector.close());
    const noise: Error[] = [];
    return Object.assign(connector.connect(), { noise, onNoise: (error: Error) => void noise.push(error) });
  }

  describe('a request', () => {
    test('of a message is a POST that takes JSON and events', async () => {
      const server = await scripted(answerJson);

      await send(link(server.url), request(7, 'tools/call'));

      expect(server.seen).toMatchObject([{ method: 'POST', path: '/mcp', body: JSON.stringify(request(7, 'tools/call')) }]);
      expect(server.seen[0]?.headers).toMatchObject({ 'content-type': 'application/json', accept: 'application/json, text/event-stream' });
    });

    test('of several messages is one POST of an array', async () => {
      const server = await scripted((_, res) => res.writeHead(200, JSON_TYPE).end(JSON.stringify([result(2), result(1)])));

      const { messages, ending } = await send(link(server.url), [request(1), request(2)]);

      expect(JSON.parse(server.seen[0]?.body ?? '')).toEqual([request(1), request(2)]);
      expect(messages).toEqual([result(2), result(1)]);
      expect(ending).toEqual({ type: 'ended' });
    });

    test('for a stream is a GET that takes events only, from the last event if there is one', async () => {
      const server = await scripted((_, res) => res.writeHead(200, SSE).end());
      const get = link(server.url);

      await hear(get);
      await hear(get, 'event-7');
      await hear(get, 'é✓');

      expect(server.seen.map(({ method, headers }) => [method, headers.accept, headers['content-type']])).toEqual(server.seen.map(() => ['GET', 'text/event-stream', undefined]));
      const ids = server.seen.map(({ headers }) => headers['last-event-id']);
      // Node shows the bytes of a header one by one; they are UTF-8, as the standard of event streams has it.
      expect(ids).toEqual([undefined, 'event-7', Buffer.from('é✓').toString('latin1')]);
    });

    test('carries the session and the version once they are known, whatever its kind', async () => {
      const server = await scripted((_, res) => res.writeHead(200, SSE).end());
      const session = link(server.url);
      await send(session);
      session.adopt({ id: 'session-1', protocolVersion: '2025-11-25' });
      await send(session);
      await hear(session);
      await session.end(new AbortController().signal);

      const sent = server.seen.map(({ method, headers }) => [method, headers['mcp-session-id'], headers['mcp-protocol-version']]);
      expect(sent).toEqual([
        ['POST', undefined, undefined],
        ['POST', 'session-1', '2025-11-25'],
        ['GET', 'session-1', '2025-11-25'],
        ['DELETE', 'session-1', '2025-11-25'],
      ]);
    });

    test('carries the version also where the server gave no session id, and there is nothing to end then', async () => {
      const server = await scripted(answerJson);
      const session = link(server.url);
      session.adopt({ id: undefined, protocolVersion: '2025-06-18' });
      await send(session);
      await session.end(new AbortController().signal);

      expect(server.seen.map(({ method, headers }) => [method, headers['mcp-session-id'], headers['mcp-protocol-version']])).toEqual([['POST', undefined, '2025-06-18']]);
    });

    test('carries the headers of the user, and ours win', async () => {
      const server = await scripted(answerJson);
      const session = link(server.url, { headers: { 'X-Custom': 'äöü', Authorization: 'Bearer mine' } });
      await send(session);

      expect(server.seen[0]?.headers).toMatchObject({ 'x-custom': 'äöü', authorization: 'Bearer mine', 'content-type': 'application/json' });
    });

    test('keeps the query of the target', async () => {
      const server = await scripted(answerJson);
      await send(link(new URL('?tenant=1', server.url)));

      expect(server.seen[0]?.path).toBe('/mcp?tenant=1');
    });

    test.each([200, 204, 404, 405])('to end the session takes %i for an answer', async (status) => {
      const server = await scripted((_, res) => res.writeHead(status).end());
      const session = link(server.url);
      session.adopt({ id: 'session-1', protocolVersion: '2025-11-25' });

      await session.end(new AbortController().signal);

      expect(server.seen.map(({ method }) => method)).toEqual(['DELETE']);
    });

    test('to end the session that nobody hears is told, and nothing more', async () => {
      const session = link(new URL(`http://127.0.0.1:${await freePort()}/mcp`));
      session.adopt({ id: 'session-1', protocolVersion: '2025-11-25' });

      await session.end(new AbortController().signal);

      expect(session.noise).toHaveLength(1);
    });
  });

  describe('an answer', () => {
    test.each([
      ['application/json', 'json'],
      ['Application/JSON; charset=utf-8', 'json'],
      ['text/event-stream', 'sse'],
      ['TEXT/event-stream;charset=UTF-8', 'sse'],
    ])('of type %s is read', async (type, form) => {
      const server = await scripted((_, res) => res.writeHead(200, { 'content-type': type }).end(form === 'json' ? JSON.stringify(result(1, 'é✓')) : event(result(1, 'é✓'))));

      const { messages, ending, accepted } = await send(link(server.url));

      expect(messages).toEqual([result(1, 'é✓')]);
      expect(ending).toEqual({ type: 'ended' });
      expect(accepted).toEqual([undefined]);
    });

    test('tells the session id of its head, before any message', async () => {
      const server = await scripted((_, res) => res.writeHead(200, { ...SSE, 'mcp-session-id': 'session-1' }).end(event(result(1))));
      const order: string[] = [];

      await link(server.url).send(request(1), {
        signal: new AbortController().signal,
        onAccepted: ({ sessionId }) => order.push(`accepted ${sessionId}`),
        hear: () => order.push('message'),
      });

      expect(order).toEqual(['accepted session-1', 'message']);
    });

    test.each([400, 404, 500])('of %i gives no session id away', async (status) => {
      const server = await scripted((_, res) => res.writeHead(status, { 'mcp-session-id': 'poisoned' }).end());

      const { accepted, ending } = await send(link(server.url));

      expect(accepted).toEqual([]);
      expect(ending).toMatchObject({ type: 'refused', failure: { status } });
    });

    test('of 202 to a request says that nothing will come', async () => {
      const server = await scripted((_, res) => res.writeHead(202).end());

      expect((await send(link(server.url))).ending).toEqual({ type: 'accepted' });
    });

    test.each([
      ['202', 202, {}, ''],
      ['204', 204, {}, ''],
      ['200 and nothing', 200, {}, ''],
      ['200 and JSON', 200, JSON_TYPE, '{}'],
      ['200 and HTML', 200, { 'content-type': 'text/html' }, '<p>fine</p>'],
      ['200 and a stream that ends', 200, SSE, ': nothing\n\n'],
    ])('of %s to a notification is a yes', async (_what, status, headers, body) => {
      const server = await scripted((_, res) => res.writeHead(status, headers).end(body));

      const { ending, messages } = await send(link(server.url), notification);

      expect(ending).toEqual({ type: 'accepted' });
      expect(messages).toEqual([]);
    });

    test.each([
      ['an endless stream', SSE],
      ['an endless body', { 'content-type': 'text/plain' }],
    ])('of 200 and %s to a notification is a yes, and its connection is let go', async (_what, headers) => {
      const server = await scripted((_, res) => {
        res.writeHead(200, headers);
        res.write('x');
      });

      expect((await send(link(server.url), notification)).ending).toEqual({ type: 'accepted' });

      await server.seen[0]?.closed;
    });

    test('to an answer of ours is taken like one to a notification', async () => {
      const server = await scripted((_, res) => res.writeHead(202).end());

      expect((await send(link(server.url), { jsonrpc: '2.0', id: 5, result: {} })).ending).toEqual({ type: 'accepted' });
    });

    test.each([
      ['text/plain', { 'content-type': 'text/plain' }, 'hello'],
      ['application/jsonp', { 'content-type': 'application/jsonp' }, JSON.stringify(result(1))],
      ['no type', {}, 'hello'],
      ['no body', {}, ''],
    ])('of %s is unreadable: it is not known whether the request ran', async (_what, headers, body) => {
      const server = await scripted((_, res) => res.writeHead(200, headers).end(body));

      const { ending, messages } = await send(link(server.url));

      expect(ending.type).toBe('unreadable');
      expect(errorOf(ending).message).toContain('content type');
      expect(messages).toEqual([]);
    });

    test('of JSON to a GET is no stream', async () => {
      const server = await scripted((_, res) => res.writeHead(200, JSON_TYPE).end(JSON.stringify(result(1))));

      expect((await hear(link(server.url))).ending.type).toBe('unreadable');
    });

    test.each([
      ['nothing', ''],
      ['half a message', '{"jsonrpc":"2.0","id":1,"resu'],
      ['no JSON', 'secret words'],
      ['no message', '{"id":1,"secret":"words"}'],
      ['a batch with no message in it', JSON.stringify(['secret words', { id: 1 }])],
      ['an empty batch', '[]'],
      ['what nests too deep', `{"jsonrpc":"2.0","id":1,"result":{"a":${'['.repeat(600)}${']'.repeat(600)}}}`],
    ])('of JSON that is %s is unreadable, and no error repeats it', async (_what, body) => {
      const server = await scripted((_, res) => res.writeHead(200, JSON_TYPE).end(body));

      const { ending, messages } = await send(link(server.url));

      expect(ending.type).toBe('unreadable');
      expect(errorOf(ending).message).not.toMatch(/secret|resu/);
      expect(messages).toEqual([]);
    });

    test('of an array with something else in it loses only that, and tells it without repeating it', async () => {
      const server = await scripted((_, res) => res.writeHead(200, JSON_TYPE).end(JSON.stringify([result(1), 'secret words', { jsonrpc: '2.0', id: {} }, result(2)])));
      const http = link(server.url);

      const { ending, messages } = await send(http);

      expect(ending).toEqual({ type: 'ended' });
      expect(messages).toEqual([result(1), result(2)]);
      expect(http.noise.map(({ message }) => message)).toEqual([expect.stringMatching(/^2 of the 4 items/)]);
    });

    test('of JSON may begin with a byte order mark', async () => {
      const server = await scripted((_, res) => res.writeHead(200, JSON_TYPE).end(`\uFEFF${JSON.stringify(result(1))}`));

      expect((await send(link(server.url))).messages).toEqual([result(1)]);
    });

    test('of JSON over the limit is given up', async () => {
      let written = 0;
      const server = await scripted(async (_, res) => {
        res.writeHead(200, JSON_TYPE);
        // It would go on for ever.
        while (!res.destroyed && written < 100 * LIMIT) {
          written += 64 * 1024;
          await writePieces(res, ['x'.repeat(64 * 1024)]);
        }
      });

      const { ending } = await send(link(server.url));

      expect(ending.type).toBe('unreadable');
      expect(errorOf(ending).message).toContain('limits.responseBytes');
      await server.seen[0]?.closed;
      expect(written).toBeLessThan(50 * LIMIT);
    });

    test('in an encoding is bounded by what it becomes', async () => {
      const bomb = gzipSync(JSON.stringify(result(1, 'x'.repeat(2 * LIMIT))));
      const server = await scripted((_, res) => res.writeHead(200, { ...JSON_TYPE, 'content-encoding': 'gzip' }).end(bomb));

      const { ending } = await send(link(server.url));

      expect(ending.type).toBe('unreadable');
      // fetch asks for encodings by itself and decodes them.
      expect(errorOf(ending).message).toContain(overFetch ? 'limits.responseBytes' : 'not asked for');
      expect(server.seen[0]?.headers['accept-encoding'] !== undefined).toBe(overFetch);
    });

    test('that breaks off in the middle of JSON is cut', async () => {
      const server = await scripted(async (_, res) => {
        res.writeHead(200, { ...JSON_TYPE, 'content-length': '1000' });
        await writePieces(res, ['{"jsonrpc"']);
        res.socket?.destroy();
      });

      expect((await send(link(server.url))).ending.type).toBe('cut');
    });

    test('of each of many requests at a time goes to its own', async () => {
      const waiting: (() => void)[] = [];
      const server = await scripted(({ body }, res) => {
        const { id } = JSON.parse(body) as { id: number };
        res.writeHead(200, SSE).flushHeaders();
        waiting.push(() => res.end(event(result(id))));
        // In the reverse order of the requests.
        if (waiting.length === 10) for (const answer of waiting.reverse()) answer();
      });
      const session = link(server.url);

      const outcomes = await Promise.all(Array.from({ length: 10 }, (_, id) => send(session, request(id))));

      expect(outcomes.map(({ messages }) => messages)).toEqual(Array.from({ length: 10 }, (_, id) => [result(id)]));
    });

    test.skipIf(overFetch)('goes over a new connection where the last one was idle for too long, though the program was too busy for timers', async () => {
      const server = await scripted((_, res) => void res.writeHead(200, JSON_TYPE).end(JSON.stringify(result(1))));
      const session = link(server.url);
      await send(session);
      await send(session);
      expect(server.connections).toBe(1);
      // The socket goes into the pool in a later turn than the end of the answer.
      await new Promise((resolve) => void setImmediate(resolve));

      const now = performance.now.bind(performance);
      const clock = vi.spyOn(performance, 'now').mockImplementation(() => now() + 4001);
      cleanUps.push(() => clock.mockRestore());

      expect((await send(session)).messages).toEqual([result(1)]);
      expect(server.connections).toBe(2);
    });

    test('may take longer than an idle connection is kept', async () => {
      const server = await scripted((_, res) => {
        res.writeHead(200, SSE).flushHeaders();
        // Not a wait for something, but the thing itself: this long nothing happens.
        const timer = setTimeout(() => res.end(event(result(1))), 4500);
        cleanUps.push(() => clearTimeout(timer));
      });

      expect((await send(link(server.url))).messages).toEqual([result(1)]);
    });
  });

  describe('a stream of events', () => {
    const stream = async (...pieces: (string | Uint8Array)[]) => {
      const server = await scripted(async (_, res) => {
        res.writeHead(200, SSE);
        await writePieces(res, pieces);
        res.end();
      });
      const session = link(server.url);
      return { ...(await send(session)), noise: session.noise };
    };

    test.each([
      ['\\n', '\n'],
      ['\\r\\n', '\r\n'],
      ['\\r', '\r'],
    ])('may have lines that end with %s', async (_name, end) => {
      const { messages, eventIds, noise } = await stream([': hello', 'event: message', 'id: 7', 'data: {"jsonrpc":"2.0",', 'data:"id":1,"result":{}}', '', ''].join(end), end);

      expect(messages).toEqual([{ jsonrpc: '2.0', id: 1, result: {} }]);
      expect(eventIds).toEqual(['7']);
      expect(noise).toEqual([]);
    });

    test('may come byte by byte', async () => {
      const bytes = Buffer.from(`:é\n\n${event(result(1, 'é✓😀'), 'a-1')}event: message\r\ndata: ${JSON.stringify(result(2))}\r\n\r\n`);
      const { messages, eventIds } = await stream(...Array.from(bytes, (byte) => Uint8Array.of(byte)));

      expect(messages).toEqual([result(1, 'é✓😀'), result(2)]);
      expect(eventIds).toEqual(['a-1']);
    });

    test('may come with several events in a piece', async () => {
      const { messages } = await stream(event(result(1)) + event(result(2)) + event(result(3)).slice(0, 9), event(result(3)).slice(9));

      expect(messages).toEqual([result(1), result(2), result(3)]);
    });

    test('may begin with a byte order mark', async () => {
      expect((await stream(`\uFEFF${event(result(1))}`)).messages).toEqual([result(1)]);
    });

    test('may have comments, fields without meaning, and events without data', async () => {
      const { messages, noise } = await stream(`: ping\n\n:\n\nwhatever: 1\nretry\n\nevent: message\n\ndata:\n\n${event(result(1))}`);

      expect(messages).toEqual([result(1)]);
      expect(noise).toEqual([]);
    });

    test('tells the id of an event after its message, also of one without data', async () => {
      const server = await scripted((_, res) => res.writeHead(200, SSE).end(`id: priming\ndata: \n\n${event(notification, 'first')}${event(result(1))}`));
      const order: string[] = [];
      const session = link(server.url);

      await session.send(request(1), {
        signal: new AbortController().signal,
        hear: (message) => order.push('method' in message ? message.method : 'answer'),
        onEventId: (id) => order.push(id),
      });

      expect(order).toEqual(['priming', 'notifications/roots/list_changed', 'first', 'answer']);
      expect(session.noise).toEqual([]);
    });

    test.each([
      ['a control character', 'a\u0001b'],
      ['more than 1,024 characters', 'x'.repeat(1025)],
    ])('cannot be resumed from an id with %s, which no header carries', async (_what, id) => {
      const { messages, eventIds } = await stream(event(notification, 'good') + event(result(1), id));

      expect(messages).toEqual([notification, result(1)]);
      expect(eventIds).toEqual(['good']);
    });

    test('tells the delay that the server asks for, if it is a number', async () => {
      expect((await stream(`retry: 3000\n\nretry: soon\n\nretry: -1\n\nretry:\n\n${event(result(1))}`)).retries).toEqual([3000]);
    });

    test('has events of other types skipped, and told', async () => {
      const { messages, noise } = await stream(`event: ping\n${event(notification)}event: endpoint\ndata: /old\n\n${event(result(1))}`);

      expect(messages).toEqual([result(1)]);
      expect(noise.map(({ message }) => message)).toEqual([expect.stringContaining('"ping"'), expect.stringContaining('"endpoint"')]);
    });

    test.each(['no JSON', '{"half":', '"text"', '[]', '{"jsonrpc":"1.0","id":1,"result":{}}', '{"jsonrpc":"2.0","id":1}', '{"jsonrpc":"2.0","id":{},"result":{}}'])(
      'has %s skipped, and told without repeating it',
      async (data) => {
        const { messages, noise, ending } = await stream(`data: ${data}\n\n${event(result(1))}`);

        expect(messages).toEqual([result(1)]);
        expect(noise).toHaveLength(1);
        expect(noise[0]?.message).not.toContain(data);
        expect(ending).toEqual({ type: 'ended' });
      },
    );

    test('has the array in an event heard without what is no message in it', async () => {
      const { messages, noise } = await stream(event([result(1), null, result(2)]));

      expect(messages).toEqual([result(1), result(2)]);
      expect(noise.map(({ message }) => message)).toEqual([expect.stringMatching(/^1 of the 3 items/)]);
    });

    test('that ends in the middle of an event has not said it', async () => {
      const { messages, ending } = await stream(event(notification), event(result(1)).trimEnd());

      expect(messages).toEqual([notification]);
      expect(ending).toEqual({ type: 'ended' });
    });

    test('that breaks off is cut, and its last event id is known', async () => {
      const server = await scripted(async (_, res) => {
        res.writeHead(200, SSE);
        await writePieces(res, [event(notification, 'last')]);
        res.socket?.destroy();
      });

      const { ending, eventIds } = await send(link(server.url));

      expect(ending.type).toBe('cut');
      expect(eventIds).toEqual(['last']);
    });

    test.each([
      ['one line', (piece: string) => piece],
      ['many lines', (piece: string) => `\ndata: ${piece}`],
      ['comments in between', (piece: string) => `\n: c\ndata: ${piece}`],
    ])('with an event over the limit in %s is given up', async (_what, wrap) => {
      let written = 0;
      const server = await scripted(async (_, res) => {
        res.writeHead(200, SSE);
        res.write('data: ');
        while (!res.destroyed && written < 100 * LIMIT) {
          written += 64 * 1024;
          await writePieces(res, [wrap('x'.repeat(64 * 1024))]);
        }
      });

      const { ending } = await send(link(server.url));

      expect(ending.type).toBe('unreadable');
      expect(errorOf(ending).message).toContain('limits.responseBytes');
      await server.seen[0]?.closed;
    });

    test('may be longer than the limit in all, in events or in comments', async () => {
      const big = 'x'.repeat(LIMIT / 4);
      const events = Array.from({ length: 8 }, (_, id) => event(result(id, big)));
      const comments = Array.from({ length: 8 }, () => `: ${big}\n\n`);

      const { messages, ending } = await stream(...events, ...comments, event(result(8)));

      expect(ending).toEqual({ type: 'ended' });
      expect(messages).toHaveLength(9);
    });
  });

  describe('a refusal', () => {
    test.each([405, 404, 400, 500])('of %i to a GET is handed over', async (status) => {
      const server = await scripted((_, res) => res.writeHead(status).end());

      expect((await hear(link(server.url))).ending).toMatchObject({ type: 'refused', failure: { status } });
    });

    test('comes with its words, its delay and its JSON-RPC error', async () => {
      const error = { jsonrpc: '2.0', id: 1, error: { code: -32000, message: 'Too busy' } };
      const server = await scripted((_, res) => res.writeHead(429, { ...JSON_TYPE, 'retry-after': '7' }).end(JSON.stringify(error)));

      expect((await send(link(server.url))).ending).toEqual({
        type: 'refused',
        failure: { status: 429, verdict: 'busy', retryAfter: 7000, error, text: 'Too busy' },
      });
    });

    test('is read only so far, and an endless one is let go', async () => {
      let written = 0;
      const server = await scripted(async (_, res) => {
        res.writeHead(503);
        const piece = 'overloaded '.repeat(6000);
        while (!res.destroyed && written < 100 * LIMIT) {
          written += piece.length;
          await writePieces(res, [piece]);
        }
      });

      const { ending } = await send(link(server.url));

      expect(ending).toMatchObject({ type: 'refused', failure: { status: 503, text: expect.stringContaining('overloaded') } });
      await server.seen[0]?.closed;
      expect(written).toBeLessThan(16 * LIMIT);
    });

    test('whose text never comes is still a refusal', async () => {
      const server = await scripted((_, res) => res.writeHead(404).flushHeaders());

      expect((await send(link(server.url))).ending).toMatchObject({ type: 'refused', failure: { status: 404, text: '' } });
    });

    test('whose text breaks off is still a refusal', async () => {
      const server = await scripted(async (_, res) => {
        res.writeHead(400, { 'content-length': '1000' });
        await writePieces(res, ['no']);
        res.socket?.destroy();
      });

      expect((await send(link(server.url))).ending).toMatchObject({ type: 'refused', failure: { status: 400 } });
    });
  });

  describe('a redirect', () => {
    const headers = { 'x-api-key': 'key-0123456789', authorization: 'Bearer token-0123456789' };
    const session = { id: 'session-0123456789', protocolVersion: '2025-11-25' };
    const redirecting = (status: number, location: string): Script => ({ path }, res) =>
      path === '/mcp' ? res.writeHead(status, { location }).end('moved') : res.writeHead(200, SSE).end(event(result(1)));

    async function redirected(status: number, location: string) {
      const server = await scripted(redirecting(status, location));
      const moved = link(server.url, { headers });
      moved.adopt(session);
      return { server, moved, sent: () => server.seen.map(({ method, path }) => `${method} ${path}`) };
    }

    test.each([307, 308])('of %i within the origin is followed for a POST, with its headers and body', async (status) => {
      const { server, moved, sent } = await redirected(status, '/mcp/?from=here');

      const { messages } = await send(moved);

      expect(messages).toEqual([result(1)]);
      expect(sent()).toEqual(['POST /mcp', 'POST /mcp/?from=here']);
      expect(server.seen[1]).toMatchObject({ body: JSON.stringify(request(1)), headers: { ...headers, 'mcp-session-id': session.id, 'content-type': 'application/json' } });
      expectFew(server.connections, overFetch);
    });

    test.each([301, 302, 303])('of %i is not followed for a POST, which it would make a GET', async (status) => {
      const { server, moved, sent } = await redirected(status, '/mcp/?secret=1');

      const { ending } = await send(moved);

      expect(ending).toMatchObject({ type: 'refused', failure: { status, verdict: status === 303 ? 'unknown' : 'refused', text: expect.stringContaining(`${server.url.origin}/mcp/ not followed`) } });
      expect(JSON.stringify(ending)).not.toContain('secret=1');
      expect(sent()).toEqual(['POST /mcp']);
    });

    test.each([301, 302, 303, 307, 308])('of %i within the origin is followed for a GET', async (status) => {
      const { server, moved, sent } = await redirected(status, 'elsewhere');

      expect((await hear(moved, 'event-1')).messages).toEqual([result(1)]);
      expect(sent()).toEqual(['GET /mcp', 'GET /elsewhere']);
      expect(server.seen[1]?.headers).toMatchObject({ ...headers, 'last-event-id': 'event-1', 'mcp-session-id': session.id });
    });

    test.each([307, 308])('of %i within the origin is followed for a DELETE', async (status) => {
      const { moved, sent } = await redirected(status, '/mcp/');

      await moved.end(new AbortController().signal);

      expect(sent()).toEqual(['DELETE /mcp', 'DELETE /mcp/']);
    });

    test.each([301, 302, 303, 307, 308])('of %i to another origin is never followed: nothing of ours gets there', async (status) => {
      const other = await scripted(answerJson);
      const { moved, server } = await redirected(status, `${other.url.href}?secret=1`);

      const posted = await send(moved);
      const got = await hear(moved);
      await moved.end(new AbortController().signal);

      for (const { ending } of [posted, got]) {
        expect(ending).toMatchObject({ type: 'refused', failure: { status, text: expect.stringContaining(`${other.url.href} not followed`) } });
        expect(JSON.stringify(ending)).not.toContain('secret=1');
      }
      expect(server.seen.map(({ method }) => method)).toEqual(['POST', 'GET', 'DELETE']);
      expect(other.seen).toEqual([]);
      expect(other.connections).toBe(0);
    });

    test('by a location without a protocol is to another origin too', async () => {
      const other = await scripted(answerJson);
      const { moved } = await redirected(307, `//${other.url.host}/mcp`);

      expect((await send(moved)).ending.type).toBe('refused');
      expect(other.connections).toBe(0);
    });

    test('to the same place with a password in it is not followed', async () => {
      const { server, moved } = await redirected(307, '/mcp');
      server.script = redirecting(307, `http://user:secret@${server.url.host}/mcp/`);

      const { ending } = await send(moved);

      expect(ending.type).toBe('refused');
      expect(JSON.stringify(ending)).not.toContain('user:secret');
      expect(server.seen).toHaveLength(1);
    });

    test('from https to http is never followed', async () => {
      vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0');
      const plain = await scripted(answerJson);
      const secure = await scripted(redirecting(307, plain.url.href), { secure: true });
      const moved = link(secure.url, { headers });
      moved.adopt(session);

      expect((await send(moved)).ending).toMatchObject({ type: 'refused', failure: { status: 307 } });
      expect((await hear(moved)).ending).toMatchObject({ type: 'refused', failure: { status: 307 } });
      expect(secure.seen).toHaveLength(2);
      expect(plain.connections).toBe(0);
    });

    test('after redirect is followed five times at most', async () => {
      const server = await scripted((_, res) => res.writeHead(307, { location: '/mcp' }).end());

      expect((await send(link(server.url))).ending).toMatchObject({ type: 'refused', failure: { status: 307, text: expect.stringContaining('more than 5') } });
      expect(server.seen).toHaveLength(6);
    });

    test('after a redirect is named from the place that answered', async () => {
      const server = await scripted(({ path }, res) =>
        path === '/mcp' ? res.writeHead(307, { location: '/a/b/mcp' }).end() : res.writeHead(302, { location: 'login' }).end(),
      );

      expect((await send(link(server.url))).ending).toMatchObject({ failure: { text: expect.stringContaining('/a/b/login not followed') } });
    });

    test.each([undefined, 'http://[nonsense'])('to %s is refused', async (location) => {
      const server = await scripted((_, res) => res.writeHead(307, location === undefined ? {} : { location }).end());

      expect((await send(link(server.url))).ending).toMatchObject({ type: 'refused', failure: { status: 307 } });
    });

    test('leaves the link as it was', async () => {
      const other = await scripted(answerJson);
      const { moved, server } = await redirected(307, other.url.href);
      await send(moved);
      server.script = answerJson;

      expect((await send(moved, request(2))).messages).toEqual([result(2)]);
      expect(server.seen[1]?.headers['mcp-session-id']).toBe(session.id);
    });
  });

  describe('an abort', () => {
    test('before the request asks for nothing and sends nothing', async () => {
      const server = await scripted(answerJson);
      const headers = vi.fn<() => Record<string, string>>(() => ({}));

      expect((await send(link(server.url, { headers }), request(1), AbortSignal.abort())).ending).toEqual({ type: 'aborted' });
      expect(headers).not.toHaveBeenCalled();
      expect(server.connections).toBe(0);
    });

    test('while the headers are asked for sends nothing', async () => {
      const server = await scripted(answerJson);
      const giveUp = new AbortController();
      const headers = () => {
        giveUp.abort();
        return new Promise<never>(() => {});
      };

      expect((await send(link(server.url, { headers }), request(1), giveUp.signal)).ending).toEqual({ type: 'aborted' });
      expect(server.connections).toBe(0);
    });

    test('before the answer ends the request', async () => {
      const giveUp = new AbortController();
      const server = await scripted(() => giveUp.abort(new Error('enough')));

      const { ending, messages } = await send(link(server.url), request(1), giveUp.signal);

      expect(ending).toEqual({ type: 'aborted' });
      expect(messages).toEqual([]);
      await server.seen[0]?.closed;
    });

    test.each([
      ['a stream', SSE, event(notification)],
      ['JSON', JSON_TYPE, '{"jsonrpc"'],
    ])('within %s ends it', async (_what, type, beginning) => {
      const giveUp = new AbortController();
      const server = await scripted(async (_, res) => {
        res.writeHead(200, type);
        await writePieces(res, [beginning]);
        giveUp.abort();
      });

      expect((await send(link(server.url), request(1), giveUp.signal)).ending).toEqual({ type: 'aborted' });
      await server.seen[0]?.closed;
    });

    test('by a message lets none of those after it through', async () => {
      const giveUp = new AbortController();
      const server = await scripted((_, res) => res.writeHead(200, SSE).end(event(result(1)) + event(result(2)) + event(result(3))));
      const messages: JSONRPCMessage[] = [];

      await link(server.url).send(request(1), {
        signal: giveUp.signal,
        hear: (message) => {
          messages.push(message);
          giveUp.abort();
        },
      });

      expect(messages).toEqual([result(1)]);
    });

    test('after the end is of no interest, and leaves no listener behind', async () => {
      const server = await scripted(answerJson);
      const session = link(server.url, { headers: () => ({ 'x-a': 'b' }) });
      const giveUp = new AbortController();
      let listeners = 0;
      const { signal } = giveUp;
      const add = signal.addEventListener.bind(signal);
      const remove = signal.removeEventListener.bind(signal);
      vi.spyOn(signal, 'addEventListener').mockImplementation((...args: Parameters<typeof add>) => {
        listeners++;
        add(...args);
      });
      vi.spyOn(signal, 'removeEventListener').mockImplementation((...args: Parameters<typeof remove>) => {
        listeners--;
        remove(...args);
      });

      for (let id = 0; id < 5; id++) await send(session, request(id), signal);

      // What fetch keeps on a signal is its own affair.
      if (!overFetch) await waitFor(() => listeners === 0);
      giveUp.abort();
      expect(server.seen).toHaveLength(5);
    });
  });

  describe('what did not get there', () => {
    const to = (port: number, protocol = 'http') => link(new URL(`${protocol}://127.0.0.1:${port}/mcp`));

    test('because the connection was refused was not sent', async () => {
      const { ending } = await send(to(await freePort()));

      expect(ending.type).toBe('not-sent');
      expect(errorOf(ending).message).toContain('ECONNREFUSED');
    });

    test('because the name does not exist was not sent', async () => {
      expect((await send(link(new URL('http://nosuchhost.invalid/mcp')))).ending.type).toBe('not-sent');
    });

    test('because the certificate is not to be trusted was not sent', async () => {
      const server = await scripted(answerJson, { secure: true });

      expect((await send(link(server.url))).ending.type).toBe('not-sent');
      expect(server.seen).toEqual([]);
    });

    test('because the connection was reset before TLS stood was not sent', async () => {
      const port = await raw((socket) => socket.once('data', () => socket.resetAndDestroy()));

      // Node's fetch does not tell this from a reset after the request; to be wrong in that direction is safe.
      expect((await send(to(port, 'https'))).ending.type).toBe(overFetch ? 'cut' : 'not-sent');
    });

    test('because a port that speaks no TLS was spoken to in TLS is never taken for an answer', async () => {
      const server = await scripted(answerJson);

      expect((await send(to(Number(server.url.port), 'https'))).ending.type).toBe(overFetch ? 'cut' : 'not-sent');
      expect(server.seen).toEqual([]);
    });

    test('may have got there when the connection is reset after the request', async () => {
      const port = await raw((socket) => socket.once('data', () => socket.resetAndDestroy()));

      expect((await send(to(port))).ending.type).toBe('cut');
    });

    test('may have got there when the connection is closed after the request', async () => {
      const port = await raw((socket) => socket.once('data', () => socket.end()));

      expect((await send(to(port))).ending.type).toBe('cut');
    });

    test('may have got there when what comes back is not HTTP', async () => {
      const port = await raw((socket) => socket.once('data', () => socket.end('SSH-2.0-OpenSSH\r\n')));

      expect((await send(to(port))).ending.type).toBe('cut');
    });

    test('may have got there when the connection is reset in the middle of a large request', async () => {
      const port = await raw((socket) => socket.once('data', () => socket.resetAndDestroy()));
      const large: JSONRPCMessage = { ...request(1), params: { text: 'x'.repeat(20 * LIMIT) } };

      expect((await send(to(port), large)).ending.type).toBe('cut');
    });

    test('may have got there over a connection that was used before', async () => {
      let reset = false;
      const port = await raw((socket) =>
        socket.on('data', () => {
          if (reset) socket.resetAndDestroy();
          else socket.write(`HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ${JSON.stringify(result(1)).length}\r\n\r\n${JSON.stringify(result(1))}`);
        }),
      );
      const session = to(port);
      expect((await send(session)).messages).toEqual([result(1)]);
      reset = true;

      expect((await send(session)).ending.type).toBe('cut');
    });

    test('gets there over TLS that is trusted', async () => {
      vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0');
      const server = await scripted(answerJson, { secure: true });
      const session = link(server.url);

      expect((await send(session, request(1))).messages).toEqual([result(1)]);
      expect((await send(session, request(2))).messages).toEqual([result(2)]);
      expectFew(server.connections, overFetch);
    });
  });

  describe('a connection', () => {
    test.each([
      ['JSON', JSON_TYPE, (id: number) => JSON.stringify(result(id))],
      ['a stream', SSE, (id: number) => event(result(id))],
      ['a refusal', { status: 429 }, () => 'later'],
      ['202', { status: 202 }, () => ''],
      ['204', { status: 204 }, () => ''],
    ] as const)('is used again after %s', async (_what, head, body) => {
      const { status = 200, ...headers } = head as { status?: number };
      const server = await scripted((seen, res) => res.writeHead(status, headers).end(body((JSON.parse(seen.body) as { id: number }).id)));
      const session = link(server.url);

      for (let id = 0; id < 20; id++) await send(session, request(id));

      expect(server.seen).toHaveLength(20);
      expectFew(server.connections, overFetch);
    });

    // Those of fetch are not ours to close.
    test.skipIf(overFetch)('is closed with the connector, and a new one can be made after that', async () => {
      const server = await scripted(answerJson);
      const connector = httpConnector(server.url, { responseLimit: LIMIT });
      await send(connector.connect());
      expect(server.open).toBe(1);

      connector.close();

      // Sooner than by the time after which an idle one is given up.
      await waitFor(() => server.open === 0, { timeout: 3000 });
      expect((await send(connector.connect())).messages).toEqual([result(1)]);
      connector.close();
    });
  });

  describe('a client over it', () => {
    const over = fetch ? { fetch } : {};
    const fixtures: FixtureProcess[] = [];
    const fixture = async (mode: 'sse' | 'json'): Promise<FixtureProcess> => {
      const server = await startServer({ mode });
      fixtures.push(server);
      return server;
    };
    afterAll(() => Promise.all(fixtures.map((server) => server.stop())));

    test.each(['sse', 'json'] as const)('uses one connection for twenty calls, answered in %s', async (mode) => {
      const server = await fixture(mode);
      const client = new ResilientClient(server.url, { listen: false, ...over });
      cleanUps.push(() => client.close());
      await client.connect();

      for (let i = 0; i < 20; i++) {
        const answer = await client.callTool({ name: 'echo', arguments: { text: `${i}` } });
        expect(answer).toMatchObject({ content: [{ text: `${i}` }] });
      }

      const requests = await server.requests();
      expect(requests).toHaveLength(22);
      expectFew(new Set(requests.map(({ socket }) => socket)).size, overFetch);
    });

    test('carries the session id and the version from the handshake on, and nothing of them before', async () => {
      const server = await fixture('sse');
      const client = new ResilientClient(server.url, over);
      cleanUps.push(() => client.close());
      await client.connect();
      await client.ping();
      await waitFor(async () => (await server.requests()).some(({ http }) => http === 'GET'));
      const { id, protocolVersion } = client.session;
      await client.close();

      const [initialize, ...others] = await server.requests();
      expect([initialize?.sessionId, initialize?.protocolVersion]).toEqual([undefined, undefined]);
      expect(others.map(({ sessionId, protocolVersion }) => [sessionId, protocolVersion])).toEqual(others.map(() => [id, protocolVersion]));
      expect(new Set(others.map(({ http }) => http))).toEqual(new Set(['POST', 'GET', 'DELETE']));
    });

    test('takes a session id from a good answer to initialize and from nothing else', async () => {
      const initialized = { protocolVersion: '2025-11-25', capabilities: {}, serverInfo: { name: 's', version: '0' } };
      let refuse = true;
      const server = await scripted(({ method, body }, res) => {
        const { id, method: rpc } = (body ? JSON.parse(body) : {}) as { id?: number; method?: string };
        const spoof = { 'mcp-session-id': 'spoofed' };
        if (method !== 'POST' || id === undefined) return res.writeHead(method === 'POST' ? 202 : 405, spoof).end();
        if (rpc !== 'initialize') return res.writeHead(200, { ...JSON_TYPE, ...spoof }).end(JSON.stringify({ jsonrpc: '2.0', id, result: {} }));
        if (refuse) return res.writeHead(500, spoof).end();
        return res.writeHead(200, { ...JSON_TYPE, 'mcp-session-id': 'real' }).end(JSON.stringify({ jsonrpc: '2.0', id, result: initialized }));
      });
      const client = new ResilientClient(server.url, { retry: false, ...over });
      cleanUps.push(() => client.close());
      await expect(client.connect()).rejects.toThrow();
      expect(client.session.id).toBeUndefined();
      refuse = false;

      await client.connect();
      await client.ping();
      await client.ping();

      expect(client.session.id).toBe('real');
      expect(new Set(server.seen.map(({ headers }) => headers['mcp-session-id']))).toEqual(new Set([undefined, 'real']));
    });

    test('goes on without a stream where the server offers none (405)', async () => {
      const server = await fixture('sse');
      await server.behave({ get: 405 });
      const client = new ResilientClient(server.url, over);
      cleanUps.push(() => client.close());
      const degraded = once(client.events as never, 'degraded');
      await client.connect();

      expect(await degraded).toMatchObject([{ retrying: false }]);
      expect(await client.callTool({ name: 'echo', arguments: { text: 'fine' } })).toMatchObject({ content: [{ text: 'fine' }] });
      expect((await server.requests()).filter(({ http }) => http === 'GET')).toHaveLength(1);
    });
  });

  test(`is over ${requester}`, async () => {
    const server = await scripted(answerJson);
    await send(link(server.url));

    // Node's fetch has a name of its own for itself; node:http has none.
    expect(server.seen[0]?.headers['user-agent']).toBe(overFetch ? 'node' : undefined);
  });
});

describe('a fetch that was given', () => {
  const spying = () => {
    const calls: { url: string; init: RequestInit }[] = [];
    const fetch: Fetch = (url, init = {}) => {
      calls.push({ url: String(url), init });
      return globalThis.fetch(url, init);
    };
    return { calls, fetch };
  };
  const connect = (url: URL, options: Partial<HttpOptions>): Link => {
    const connector = httpConnector(url, { responseLimit: LIMIT, ...options });
    cleanUps.push(() => connector.close());
    return connector.connect();
  };

  test('makes every request, with the given settings, and follows no redirect', async () => {
    const server = await scripted((_, res) => res.writeHead(200, SSE).end());
    const { calls, fetch } = spying();
    const requestInit = { credentials: 'include', mode: 'cors', redirect: 'follow' } as never;
    const link = connect(server.url, { fetch, requestInit });
    link.adopt({ id: 'session-1', protocolVersion: '2025-11-25' });

    await send(link);
    await hear(link);
    await link.end(new AbortController().signal);

    expect(calls.map(({ url, init: { method, redirect, credentials, mode } }) => [url, method, redirect, credentials, mode])).toEqual([
      [server.url.href, 'POST', 'manual', 'include', 'cors'],
      [server.url.href, 'GET', 'manual', 'include', 'cors'],
      [server.url.href, 'DELETE', 'manual', 'include', 'cors'],
    ]);
  });

  test('is the only one: the global fetch is not asked', async () => {
    const real = globalThis.fetch;
    const server = await scripted(answerJson);
    const globally = vi.fn<Fetch>();
    vi.stubGlobal('fetch', globally);

    expect((await send(connect(server.url, { fetch: (url, init) => real(url, init) }))).messages).toEqual([result(1)]);
    expect(globally).not.toHaveBeenCalled();
  });

  test('is the global one of the moment where there are only settings', async () => {
    const globally = vi.fn<Fetch>(async () => new Response(JSON.stringify(result(1)), { headers: JSON_TYPE }));
    const link = connect(new URL('http://127.0.0.1:1/mcp'), { requestInit: { credentials: 'include' } });
    vi.stubGlobal('fetch', globally);

    expect((await send(link)).messages).toEqual([result(1)]);
    expect(globally).toHaveBeenCalledTimes(1);
  });

  test.each([
    ['https://example.com/mcp', 'http://example.com/mcp/', false],
    ['https://example.com/mcp', 'https://example.com:8443/mcp', false],
    ['https://example.com/mcp', 'https://evil.example.com/mcp', false],
    ['https://example.com/mcp', 'https://example.com.evil.test/mcp', false],
    ['http://example.com/mcp', 'http://example.com:8080/mcp', false],
    ['http://example.com:8080/mcp', 'https://example.com/mcp', false],
    ['http://example.com/mcp', 'https://example.com/mcp', true],
    ['https://example.com/mcp', '/mcp/', true],
  ])('is not led from %s to %s unless it is the same server (%s)', async (from, to, follows) => {
    const urls: string[] = [];
    const fetch: Fetch = async (url) => {
      urls.push(String(url));
      return urls.length === 1 ? new Response(null, { status: 307, headers: { location: to } }) : new Response(JSON.stringify(result(1)), { headers: JSON_TYPE });
    };

    const { ending } = await send(connect(new URL(from), { fetch }));

    expect(urls).toEqual(follows ? [from, new URL(to, from).href] : [from]);
    expect(ending.type).toBe(follows ? 'ended' : 'refused');
  });

  test('that hides where a redirect leads, as in a browser, ends in a refusal', async () => {
    const fetch: Fetch = async () => ({ type: 'opaqueredirect', status: 0, ok: false, headers: new Headers(), body: null }) as Response;

    expect((await send(connect(new URL('https://example.com/mcp'), { fetch }))).ending).toMatchObject({
      type: 'refused',
      failure: { verdict: 'refused', text: expect.stringContaining('does not show') },
    });
  });

  test.each([
    ['as a browser says it', new TypeError('Failed to fetch'), 'cut'],
    ['of an address that refused', Object.assign(new TypeError('fetch failed'), { cause: { code: 'ECONNREFUSED', syscall: 'connect' } }), 'not-sent'],
    ['of all addresses that refused', Object.assign(new TypeError('fetch failed'), { cause: { code: 'ECONNREFUSED', errors: [{ code: 'ECONNREFUSED', syscall: 'connect' }, { code: 'ENETUNREACH', syscall: 'connect' }] } }), 'not-sent'],
    ['of a name that is not known for now', Object.assign(new TypeError('fetch failed'), { cause: { code: 'EAI_AGAIN', syscall: 'getaddrinfo' } }), 'not-sent'],
    ['of no connection in time', Object.assign(new TypeError('fetch failed'), { cause: { code: 'UND_ERR_CONNECT_TIMEOUT' } }), 'not-sent'],
    ['of a certificate that has expired', Object.assign(new TypeError('fetch failed'), { cause: { code: 'CERT_HAS_EXPIRED' } }), 'not-sent'],
    ['of another host in the certificate', Object.assign(new TypeError('fetch failed'), { cause: { code: 'ERR_TLS_CERT_ALTNAME_INVALID' } }), 'not-sent'],
    ['of node-fetch, which has no cause', Object.assign(new Error('request failed'), { code: 'ECONNREFUSED', syscall: 'connect' }), 'not-sent'],
    ['of a connection that was reset', Object.assign(new TypeError('fetch failed'), { cause: { code: 'ECONNRESET', syscall: 'read' } }), 'cut'],
    ['of a route that was lost', Object.assign(new TypeError('fetch failed'), { cause: { code: 'EHOSTUNREACH', syscall: 'read' } }), 'cut'],
    ['of a socket that the other side closed', Object.assign(new TypeError('fetch failed'), { cause: { code: 'UND_ERR_SOCKET' } }), 'cut'],
    ['of a write after the connection was lost, among refused ones', Object.assign(new TypeError('fetch failed'), { cause: { errors: [{ syscall: 'connect' }, { syscall: 'write' }] } }), 'cut'],
  ])('and fails, %s: %s is %s', async (_what, error, type) => {
    const { ending } = await send(connect(new URL('https://example.com/mcp'), { fetch: () => Promise.reject(error) }));

    expect(ending.type).toBe(type);
  });
});

describe('a bare transport', () => {
  test('reports a stream event that it had to skip to onerror, and goes on', async () => {
    const initialized = { protocolVersion: '2025-11-25', capabilities: {}, serverInfo: { name: 's', version: '0' } };
    const server = await scripted(({ body, method }, res) => {
      const { id } = (body ? JSON.parse(body) : {}) as { id?: number };
      if (method !== 'POST' || id === undefined) return res.writeHead(method === 'POST' ? 202 : 405).end();
      return res.writeHead(200, SSE).end(`data: nonsense\n\n${event({ jsonrpc: '2.0', id, result: initialized })}`);
    });
    const transport = new SessionTransport(server.url);
    cleanUps.push(() => transport.close());
    const errors: Error[] = [];
    const messages: JSONRPCMessage[] = [];
    transport.onerror = (error) => errors.push(error);
    transport.onmessage = (message) => messages.push(message);
    await transport.start();

    await transport.send({ jsonrpc: '2.0', id: 0, method: 'initialize', params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'c', version: '0' } } });

    expect(messages).toEqual([{ jsonrpc: '2.0', id: 0, result: initialized }]);
    expect(errors.map(({ message }) => message)).toEqual([expect.stringContaining('not a JSON-RPC message')]);
  });
});
