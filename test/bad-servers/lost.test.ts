import { describe, expect, it } from 'vitest';
import { memoryStore } from '../../src/index.ts';
import { type Badness, badFor, GOOD, JSON_TYPE, methodOf, result } from './bad-server.ts';
import { clientOf, connected, echo, expectUsable, failureOf, REQUESTERS, startBad } from './harness.ts';

/** Makes a session whenever it is asked for one, and forgets it at once. */
const forgetful: Badness = (asked, res) => (['initialize', 'notifications/initialized', 'DELETE'].includes(methodOf(asked)) ? GOOD : res.writeHead(404).end());

describe.each(REQUESTERS)('a connection that is reset while the server is told that the handshake is complete, over %s', (_requester, over) => {
  it('costs no session: it is told again', async () => {
    await using server = await startBad();
    let resets = 0;
    server.bad = badFor('notifications/initialized', (_, res) => (resets++ < 2 ? void res.socket?.resetAndDestroy() : GOOD));
    await using heard = await connected(server, over);
    await expectUsable(server, heard.client);

    expect(server.requests('initialize')).toHaveLength(1);
    expect(server.requests('notifications/initialized')).toHaveLength(3);
  });

  it('each time is told of, within its time', async () => {
    await using server = await startBad(badFor('notifications/initialized', (_, res) => void res.socket?.resetAndDestroy()));
    await using heard = clientOf(server, over);

    expect(await failureOf(heard.client.connect(), 10_000)).toMatchObject({ code: 'UNREACHABLE', outcome: 'not-sent', message: expect.stringMatching(/broke off during the handshake.*No call was sent/) });
    expect(server.requests('initialize')).toHaveLength(1);
  });
});

describe.each(REQUESTERS)('404 after every re-initialization over %s', (_requester, over) => {
  it.each([true, false])('ends a call, after one replay, with an error that says what may be wrong; safe: %s', async (safe) => {
    await using server = await startBad();
    await using heard = await connected(server, { ...over, store: memoryStore() });
    server.bad = forgetful;

    const failure = await failureOf(echo(heard.client, 'x', { safe }), 15_000);

    expect(failure).toMatchObject({ code: 'SESSION_LOST', outcome: 'refused', message: expect.stringMatching(/sticky/) });
    expect(failure.message).not.toMatch(/session-\d/);
    expect(server.requests('tools/call')).toHaveLength(2);
    expect(server.requests('initialize')).toHaveLength(2);
    await expectUsable(server, heard.client);
  });

  it('ends twenty calls at a time with hardly more handshakes, one after the other', async () => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    server.bad = forgetful;

    const failures = await Promise.all(Array.from({ length: 20 }, (_, i) => failureOf(echo(heard.client, String(i)), 15_000)));

    expect(new Set(failures.map(({ code }) => code))).toEqual(new Set(['SESSION_LOST']));
    // Each of them would have made two.
    expect(server.requests('initialize').length).toBeLessThanOrEqual(10);
    await expectUsable(server, heard.client);
  });

  it('of what is to be restored on the new session makes no storm of handshakes', async () => {
    await using server = await startBad();
    await using heard = await connected(server, over);
    await heard.client.subscribeResource({ uri: 'test://one' });
    server.bad = forgetful;

    const failure = await failureOf(echo(heard.client, 'x', { timeout: 2000 }), 2000);

    expect(failure).toMatchObject({ outcome: expect.stringMatching(/refused|not-sent/) });
    // At the least 50, 100, 200, … ms apart, and two cut the call short.
    expect(server.requests('initialize').length).toBeLessThanOrEqual(8);
    await expectUsable(server, heard.client);
  });

  it('of `initialized` itself fails the client that connects, at once', async () => {
    await using server = await startBad(badFor('notifications/initialized', (_, res) => res.writeHead(404).end()));
    await using heard = clientOf(server, { ...over, store: memoryStore() });

    expect(await failureOf(heard.client.connect(), 0)).toMatchObject({ code: 'SESSION_LOST' });

    expect(server.requests('initialize')).toHaveLength(1);
    server.bad = () => GOOD;
    await heard.client.connect();
    await expectUsable(server, heard.client);
  });

  it('of the notification stream and of what asks for the session leaves an idle client with few handshakes', async () => {
    await using server = await startBad(forgetful);
    const heard = await connected(server, { ...over, listen: true });
    await failureOf(heard.client.ping({ timeout: 1500 }), 1500);
    expect(server.requests('initialize').length).toBeLessThanOrEqual(8);
    await heard.client.close();
    await heard.client.connect();
    await expectUsable(server, heard.client);
    await heard.client.close();
  });
});

describe.each(REQUESTERS)('a list of tools whose pages never end, over %s,', (_requester, over) => {
  const endless: Badness = badFor('tools/list', ({ rpc }, res) => {
    const page = Number((rpc.params as { cursor?: string } | undefined)?.cursor ?? 0);
    const tools = Array.from({ length: 100 }, (_, i) => ({ name: `tool-${page}-${i}`, inputSchema: { type: 'object' }, annotations: { readOnlyHint: true } }));
    return res.writeHead(200, JSON_TYPE).end(result(rpc.id, { tools, nextCursor: String(page + 1) }));
  });

  it('is asked for page by page, as the caller does, and none of it is kept', async () => {
    await using server = await startBad(endless);
    const store = memoryStore();
    await using heard = await connected(server, { ...over, store, trustAnnotations: true });
    const { client } = heard;
    const size = async (): Promise<number> => (await store.get(client.session.key ?? ''))?.value.length ?? 0;
    const before = await size();

    let cursor: string | undefined;
    for (let page = 0; page < 50; page++) {
      const listed = await client.listTools(cursor === undefined ? undefined : { cursor });
      expect(listed.tools[0]?.name).toBe(`tool-${page}-0`);
      cursor = listed.nextCursor;
    }
    await client.listTools();

    expect(server.requests('tools/list')).toHaveLength(51);
    await expectUsable(server, client);
    await client.close();
    // Some use was counted.
    expect(await size()).toBeLessThan(before + 500);
  });

  it('ends when the caller\'s signal does', async () => {
    await using server = await startBad(endless);
    await using heard = await connected(server, over);
    const stop = new AbortController();
    const walk = async (): Promise<void> => {
      let cursor: string | undefined;
      for (let page = 0; ; page++) {
        cursor = (await heard.client.listTools(cursor === undefined ? {} : { cursor }, { signal: stop.signal })).nextCursor;
        if (page === 20) stop.abort(new Error('enough'));
      }
    };
    expect((await failureOf(walk(), 10_000)).message).toBe('enough');
    await expectUsable(server, heard.client);
  });
});
