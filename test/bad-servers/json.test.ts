import { describe, expect, it } from 'vitest';
import { memoryStore } from '../../src/index.ts';
import { badFor, event, GOOD, INITIALIZED, JSON_TYPE, result, said, SSE } from './bad-server.ts';
import { clientOf, connected, echo, expectUsable, failureOf, REQUESTERS, startBad } from './harness.ts';

const DEEP = 200_000;
const arrays = '['.repeat(DEEP) + ']'.repeat(DEEP);
const objects = '{"a":'.repeat(DEEP) + '1' + '}'.repeat(DEEP);
/** Which `JSON.parse` alone would take. */
const deep = [
  ['arrays', arrays],
  ['objects', objects],
  ['arrays without an end', '['.repeat(DEEP)],
] as const;

describe.each(REQUESTERS)('JSON that nests 200,000 deep over %s', (_requester, over) => {
  it.each(deep)('in a result, of %s, leaves the outcome unknown and says so', async (_what, value) => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    server.bad = badFor('tools/call', ({ rpc }, res) => res.writeHead(200, JSON_TYPE).end(`{"jsonrpc":"2.0","id":${rpc.id},"result":{"content":[],"deep":${value}}}`));

    expect(await failureOf(echo(heard.client, 'x'), 0)).toMatchObject({ code: 'OUTCOME_UNKNOWN', message: expect.stringMatching(/nests more than 512 levels deep/) });

    await expectUsable(server, heard.client);
  });

  it.each(deep)('in an event, of %s, is skipped: the answer may still come', async (_what, value) => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    server.bad = badFor('tools/call', ({ rpc }, res) =>
      res.writeHead(200, SSE).end(event(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":${value}}}`) + event(value) + event(result(rpc.id, said('mine')))),
    );

    expect(await echo(heard.client, 'x')).toEqual(said('mine'));

    await expectUsable(server, heard.client);
  });

  it.each(deep)('in a refusal, of %s, is a refusal all the same', async (_what, value) => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    server.bad = badFor('tools/call', ({ rpc }, res) => res.writeHead(400, JSON_TYPE).end(`{"jsonrpc":"2.0","id":${rpc.id},"error":{"code":1,"message":"no","data":${value}}}`));

    const failure = await failureOf(echo(heard.client, 'x'), 0);

    expect(failure).toMatchObject({ code: 'REFUSED', status: 400 });
    expect(failure.message.length).toBeLessThan(1000);
    await expectUsable(server, heard.client);
  });

  it('in the answer to the handshake fails it, and says so', async () => {
    await using server = await startBad(
      badFor('initialize', ({ rpc }, res) => res.writeHead(200, { ...JSON_TYPE, 'mcp-session-id': 's' }).end(result(rpc.id, INITIALIZED).replace('"tools":{}', `"tools":{"x":${arrays}}`))),
    );
    await using heard = clientOf(server, { ...over, store: memoryStore() });

    expect(await failureOf(heard.client.connect(), 0)).toMatchObject({ code: 'BAD_SERVER', message: expect.stringContaining('levels deep') });

    server.bad = () => GOOD;
    await heard.client.connect();
    await expectUsable(server, heard.client);
  });

  it('within a text is only a text', async () => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    expect(await echo(heard.client, arrays)).toEqual(said(arrays));
  });
});

describe.each(REQUESTERS)('keys that mean something to JavaScript over %s', (_requester, over) => {
  const keys = '"__proto__":{"polluted":true},"constructor":{"prototype":{"polluted":true}},"toString":1,"then":2';

  it('are data in an answer, also in what is kept with the session, and change no object', async () => {
    await using server = await startBad();
    const store = memoryStore();
    await using heard = await connected(server, { ...over, store });
    const tools = `[{"name":"__proto__","inputSchema":{"type":"object",${keys}},"annotations":{${keys}},"_meta":{${keys}}},{"name":"echo","inputSchema":{"type":"object"}}]`;
    server.bad = ({ rpc }, res) => {
      if (rpc.method === 'tools/list') return res.writeHead(200, JSON_TYPE).end(`{"jsonrpc":"2.0","id":${rpc.id},${keys},"result":{${keys},"tools":${tools}}}`);
      if (rpc.method !== 'tools/call') return GOOD;
      return res.writeHead(200, SSE).end(event(`{"jsonrpc":"2.0","id":${rpc.id},${keys},"result":{"content":[],"structuredContent":{${keys}},${keys}}}`));
    };

    const listed = await heard.client.listTools();
    const again = await heard.client.listTools();
    const called = await heard.client.callTool({ name: '__proto__', arguments: JSON.parse(`{${keys}}`) as Record<string, unknown> });

    for (const value of [listed, again, called, called.structuredContent]) {
      expect(Object.getPrototypeOf(value)).toBe(Object.prototype);
      expect((value as { polluted?: unknown }).polluted).toBeUndefined();
    }
    expect(listed.tools.map(({ name }) => name)).toEqual(['__proto__', 'echo']);
    expect(again.tools.map(({ name }) => name)).toEqual(['__proto__', 'echo']);
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
    await expectUsable(server, heard.client);
    await heard.client.close();

    // The next process reads it from the store.
    await using next = await connected(server, { ...over, store });
    expect(next.client.session.resumed).toBe(true);
    expect((await next.client.listTools()).tools.map(({ name }) => name)).toEqual(['__proto__', 'echo']);
    await expectUsable(server, next.client);
    expect(next.warnings).toEqual([]);
    const stored = JSON.parse((await store.get(next.client.session.key ?? ''))?.value ?? '{}') as { calls: object };
    expect(Object.entries(stored.calls)).toEqual(expect.arrayContaining([['__proto__', 1]]));
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
  });

  it('are data in errors, notifications and the answer to the handshake', async () => {
    await using server = await startBad(
      badFor('initialize', ({ rpc }, res) => {
        server.sessions.add('own');
        res.writeHead(200, { ...JSON_TYPE, 'mcp-session-id': 'own' }).end(result(rpc.id, INITIALIZED).replace('"tools":{}', `"tools":{},${keys.replaceAll(/:[12]\b/g, ':{}')}`));
      }),
    );
    const store = memoryStore();
    await using heard = await connected(server, { ...over, store });
    const { client } = heard;
    server.bad = badFor('tools/call', ({ rpc }, res) => {
      const progress = `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":${rpc.params?._meta?.progressToken},"progress":1,${keys}}}`;
      res.writeHead(200, SSE).end(event(progress) + event(`{"jsonrpc":"2.0","id":${rpc.id},"error":{"code":-1,"message":"bad","data":{${keys}},${keys}},${keys}}`));
    });
    const seen: object[] = [];

    const failure = await failureOf(echo(client, 'x', { onprogress: (progress) => seen.push(progress) }), 0);

    expect(failure).toMatchObject({ code: -1, message: expect.stringContaining('bad') });
    expect(seen).toHaveLength(1);
    expect(Object.getPrototypeOf(seen[0])).toBe(Object.prototype);
    await expectUsable(server, client);
    await client.close();
    await using next = await connected(server, { ...over, store });
    expect(next.client.session).toMatchObject({ resumed: true, id: 'own' });
    await expectUsable(server, next.client);
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
  });
});
