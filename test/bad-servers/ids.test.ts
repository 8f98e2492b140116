import { describe, expect, it } from 'vitest';
import { badFor, echoed, event, GOOD, JSON_TYPE, result, said, SSE } from './bad-server.ts';
import { connected, echo, expectUsable, failureOf, REQUESTERS, startBad } from './harness.ts';

const foreign = said('of somebody else');

/** Ids that no request has, next to the one that it has. */
const STRANGE: readonly (readonly [string, (id: number) => string])[] = [
  ['unknown', (id) => String(id + 1)],
  ['unknown and huge', () => '1e308'],
  ['unknown and negative', (id) => String(-id)],
  ['0', () => '0'],
  ['the right one as a text', (id) => `"${id}"`],
  ['the right one and a half', (id) => `${id % 1000}.5`],
  ['null', () => 'null'],
  ['true', () => 'true'],
  ['an array with the right one', (id) => `[${id}]`],
  ['an object', (id) => `{"id":${id}}`],
  ['__proto__', () => '"__proto__"'],
  ['missing', () => 'MISSING'],
];

/** An answer under another id, as it would stand on the wire. */
const under = (id: string, body: string): string => `{"jsonrpc":"2.0",${id === 'MISSING' ? '' : `"id":${id},`}${body}}`;
const RESULT = `"result":${JSON.stringify(foreign)}`;
const ERROR = '"error":{"code":-32603,"message":"of somebody else"}';

describe.each(REQUESTERS)('an answer over %s', (_requester, over) => {
  it.each(STRANGE)('under an id that is %s is never taken for another: the right one is still waited for', async (_what, idFor) => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    server.bad = badFor('tools/call', ({ rpc }, res) => {
      const id = idFor(rpc.id ?? 0);
      return res.writeHead(200, SSE).end(event(under(id, RESULT)) + event(under(id, ERROR)) + event(echoed(rpc)));
    });

    expect(await echo(heard.client, 'mine')).toEqual(said('mine'));

    await expectUsable(server, heard.client);
  });

  it.each(STRANGE)('of JSON under an id that is %s leaves the outcome unknown, at once, and says that there was no answer', async (_what, idFor) => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    server.bad = badFor('tools/call', ({ rpc }, res) => res.writeHead(200, JSON_TYPE).end(under(idFor(rpc.id ?? 0), RESULT)));

    const failure = await failureOf(echo(heard.client, 'mine'), 0);

    expect(failure).toMatchObject({ code: 'OUTCOME_UNKNOWN', message: expect.stringMatching(/without the answer in it|is not a JSON-RPC message/) });
    expect(failure.message).not.toContain('somebody else');
    // It is not safe.
    expect(server.requests('tools/call')).toHaveLength(1);
    await expectUsable(server, heard.client);
  });

  it('of JSON under the wrong id is asked for again where the call is safe', async () => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    let wrong = 2;
    server.bad = badFor('tools/call', (_, res) => (wrong-- > 0 ? res.writeHead(200, JSON_TYPE).end(result(1, foreign)) : GOOD));

    expect(await echo(heard.client, 'mine', { safe: true })).toEqual(said('mine'));

    expect(new Set(server.requests('tools/call').map(({ rpc }) => rpc.id)).size).toBe(3);
    expect(heard.client.metrics().droppedMessages).toBe(2);
  });

  it('that comes twice, or twice in an array, counts once: the first', async () => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    server.bad = badFor('tools/call', ({ rpc }, res) => {
      const second = result(rpc.id, foreign);
      return res.writeHead(200, SSE).end(event(`[${echoed(rpc)},${second}]`) + event(second) + event(under(String(rpc.id), ERROR)));
    });

    expect(await echo(heard.client, 'mine')).toEqual(said('mine'));

    await expectUsable(server, heard.client);
    expect(heard.client.metrics().droppedMessages).toBe(3);
  });

  it('that comes late, when its call has failed, is nobody\'s: on the stream of another call, or as its JSON', async () => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    const { client } = heard;
    let late = 0;
    server.bad = badFor('tools/call', ({ rpc }, res) => {
      late = rpc.id ?? 0;
      res.writeHead(200, SSE).write(': nothing yet\n\n');
    });
    expect(await failureOf(echo(client, 'late', { timeout: 300 }), 300)).toMatchObject({ code: 'DEADLINE', outcome: 'unknown' });

    server.bad = badFor('tools/call', ({ rpc }, res) => res.writeHead(200, SSE).end(event(result(late, foreign)) + event(echoed(rpc))));
    expect(await echo(client, 'mine')).toEqual(said('mine'));
    server.bad = badFor('tools/call', ({ rpc }, res) => res.writeHead(200, JSON_TYPE).end(`[${result(late, foreign)},${echoed(rpc)}]`));
    expect(await echo(client, 'mine too')).toEqual(said('mine too'));

    await expectUsable(server, client);
    expect(client.metrics().droppedMessages).toBe(2);
  });

  it('to another call, of this client or of somebody else, on a resumed stream is never taken for that stream\'s own', async () => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    const { client } = heard;
    const ids = new Map<string, number>();
    const waiting: (() => void)[] = [];
    server.bad = ({ method, rpc }, res) => {
      const text = rpc.params?.arguments?.text;
      if (text !== undefined) ids.set(text, rpc.id ?? 0);
      // One is cut as soon as both are there, the other one is answered when that was resumed.
      if (text === 'cut') return void waiting.push(() => res.writeHead(200, SSE).end('id: 1\ndata:\n\n'));
      if (text === 'other') {
        waiting.push(() => res.writeHead(200, SSE).end(event(result(rpc.id, foreign))));
        return waiting[0]?.();
      }
      if (method !== 'GET') return GOOD;
      const strange = event(result(7, foreign)) + event(result(ids.get('other'), said('other')));
      res.writeHead(200, SSE).end(strange + event(result(ids.get('cut'), said('cut'))));
      return undefined;
    };
    const first = echo(client, 'cut');
    await expect.poll(() => waiting.length).toBe(1);
    const second = echo(client, 'other');

    expect(await first).toEqual(said('cut'));
    // It came over another stream of the same session, under its own id.
    expect(await second).toEqual(said('other'));
    waiting[1]?.();

    expect(server.requests('GET').map(({ headers }) => headers['last-event-id'])).toEqual(['1']);
    await expectUsable(server, client);
    await expect.poll(() => client.metrics().droppedMessages).toBeGreaterThanOrEqual(1);
  });

  it('that never comes on a resumed stream, where another call\'s does, is waited for until the deadline', async () => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    server.bad = ({ method, rpc }, res) => {
      if (rpc.method === 'tools/call') return res.writeHead(200, SSE).end('id: 1\ndata:\n\n');
      return method === 'GET' ? res.writeHead(200, SSE).end(event(result(7, foreign), '2')) : GOOD;
    };

    const failure = await failureOf(echo(heard.client, 'mine', { timeout: 500 }), 500);

    expect(failure).toMatchObject({ code: 'DEADLINE', outcome: 'unknown' });
    // It is asked for at a pace, and each time from where it is.
    expect(server.requests('GET').length).toBeLessThanOrEqual(11);
    await expectUsable(server, heard.client);
    expect(heard.client.metrics().droppedMessages).toBeGreaterThan(0);
  });
});

describe.each(REQUESTERS)('an answer that the SDK would not recognize, over %s,', (_requester, over) => {
  const more = '"extra":1,"__proto__":{},"params":null';

  it.each([
    ['result', (id: number) => `{"jsonrpc":"2.0","id":${id},${more},"result":${JSON.stringify(said('mine'))}}`],
    ['error', (id: number) => `{"jsonrpc":"2.0","id":${id},${more},"error":{"code":-1,"message":"no","more":1}}`],
  ])('because its %s has other members beside it is an answer all the same', async (what, bodyFor) => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    server.bad = badFor('tools/call', ({ rpc }, res) => res.writeHead(200, JSON_TYPE).end(bodyFor(rpc.id ?? 0)));

    const call = echo(heard.client, 'x');

    if (what === 'result') expect(await call).toEqual(said('mine'));
    else expect(await failureOf(call, 0)).toMatchObject({ code: -1 });
    await expectUsable(server, heard.client);
  });

  it.each([
    ['a `_meta` of null', '"result":{"content":[],"_meta":null}'],
    ['a `_meta` that is a list', '"result":{"content":[],"_meta":[]}'],
    ['a progress token that is none', '"result":{"content":[],"_meta":{"progressToken":{}}}'],
    ['a related task that is none', '"result":{"content":[],"_meta":{"io.modelcontextprotocol/related-task":{"taskId":1}}}'],
    ['a code that is no integer', '"error":{"code":1.5,"message":"no"}'],
    ['a code that is too large for one', '"error":{"code":1e300,"message":"no"}'],
    ['neither a result nor an error', '"outcome":"fine"'],
    ['both a result and an error', '"result":{"content":[]},"error":{"code":1,"message":"no"}'],
  ])('because of %s is none: its call fails at once', async (_what, body) => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    for (const [type, wrap] of [[JSON_TYPE, String], [SSE, (text: string) => event(text)]] as const) {
      server.bad = badFor('tools/call', ({ rpc }, res) => res.writeHead(200, type).end(wrap(under(String(rpc.id), body))));
      expect(await failureOf(echo(heard.client, 'x'), 0)).toMatchObject({ code: 'OUTCOME_UNKNOWN' });
    }
    await expectUsable(server, heard.client);
  });
});

describe.each(REQUESTERS)('no answer over %s', (_requester, over) => {
  it.each([
    ['202 to a request', 202, {}, '', /with 202 and will send no answer/],
    ['204 to a request', 204, {}, '', /with 202 and will send no answer/],
    ['a stream that ends at once', 200, SSE, '', /without the answer in it/],
    ['a stream that ends after other things', 200, SSE, event('{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}'), /without the answer in it/],
    ['a stream that ends in the middle of the answer', 200, SSE, 'data: {"jsonrpc":"2.0","id":', /without the answer in it/],
    ['a body of nothing', 200, JSON_TYPE, '', /cannot be read \(the body is not JSON\)/],
    ['half a body', 200, JSON_TYPE, '{"jsonrpc":"2.0","id":1,"resu', /cannot be read \(the body is not JSON\)/],
    ['a page', 200, { 'content-type': 'text/html' }, '<html>', /cannot be read \(the server answered 200 with content type "text\/html"/],
    ['no type', 200, {}, '{}', /with no content type/],
  ] as const)('but %s leaves the outcome unknown, at once, and says so', async (_what, status, head, body, message) => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    server.bad = badFor('tools/call', (_, res) => res.writeHead(status, head).end(body));

    expect(await failureOf(echo(heard.client, 'x'), 0)).toMatchObject({ code: 'OUTCOME_UNKNOWN', message: expect.stringMatching(message) });

    expect(server.requests('tools/call')).toHaveLength(1);
    await expectUsable(server, heard.client);
  });
});
