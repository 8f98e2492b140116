import { describe, expect, it } from 'vitest';
import { memoryStore } from '../../src/index.ts';
import { badFor, GOOD, INITIALIZED, JSON_TYPE, result } from './bad-server.ts';
import { clientOf, connected, echo, expectUsable, failureOf, REQUESTERS, startBad } from './harness.ts';

describe.each(REQUESTERS)('a session id over %s', (_requester, over) => {
  it.each([
    ['empty', ''],
    ['too long', 'x'.repeat(1025)],
    ['with a space', 'quark s'],
    ['with a tab', 'quark\ts'],
    ['in Latin-1', 'quark-\u00ef'],
    ['in UTF-8', Buffer.from('quark-\u20ac').toString('latin1')],
    ['given twice', ['quark-1', 'quark-2']],
  ])('that is %s is refused when it is given, by an error that says so and does not repeat it', async (_what, id) => {
    await using server = await startBad(badFor('initialize', ({ rpc }, res) => res.writeHead(200, { ...JSON_TYPE, 'mcp-session-id': id }).end(result(rpc.id, INITIALIZED))));
    await using heard = clientOf(server, { ...over, store: memoryStore() });
    const { client } = heard;

    const failure = await failureOf(client.connect(), 15_000);

    expect(failure).toMatchObject({ code: 'BAD_SERVER', message: expect.stringContaining('session id') });
    expect(failure.message).not.toMatch(/quark|xxxx/);
    expect(client.session.id).toBeUndefined();
    // It went nowhere, not even into a DELETE.
    expect(server.asked.map(({ headers }) => headers['mcp-session-id'])).toEqual([undefined]);
    server.bad = () => GOOD;
    await client.connect();
    await expectUsable(server, client);
  });

  it.each([
    ['of the longest length', 'x'.repeat(1024)],
    ['of all that is allowed', String.fromCharCode(...Array.from({ length: 0x7e - 0x20 }, (_, i) => 0x21 + i))],
  ])('%s is taken, and goes back as it is', async (_what, id) => {
    await using server = await startBad(badFor('initialize', ({ rpc }, res) => res.writeHead(200, { ...JSON_TYPE, 'mcp-session-id': id }).end(result(rpc.id, INITIALIZED))));
    server.sessions.add(id);
    await using heard = await connected(server, over);
    await expectUsable(server, heard.client);
    expect(server.requests('tools/call')[0]?.headers['mcp-session-id']).toBe(id);
  });

  it.each([
    ['a later answer', 200],
    ['an answer of 202', 202],
    ['a refusal', 400],
    ['an error of the server', 500],
    ['a 404, which ends the session', 404],
  ])('that %s changes is not believed, nor stored', async (_what, status) => {
    await using server = await startBad();
    const store = memoryStore();
    await using heard = await connected(server, { ...over, store });
    const { client } = heard;
    let bad = 1;
    server.bad = ({ rpc }, res) => {
      if (rpc.method !== 'tools/call' || bad-- <= 0) return GOOD;
      res.writeHead(status, { ...JSON_TYPE, 'mcp-session-id': 'spoofed' });
      return res.end(status === 200 ? result(rpc.id, { content: [] }) : '');
    };

    const call = echo(client, 'x');
    if (status === 200 || status === 404) await call;
    else await failureOf(call, 60_000);
    await expectUsable(server, client);

    const own = status === 404 ? 'session-2' : 'session-1';
    expect(client.session.id).toBe(own);
    expect(server.asked.every(({ headers }) => headers['mcp-session-id'] !== 'spoofed')).toBe(true);
    await client.close();
    expect(JSON.parse((await store.get(client.session.key ?? ''))?.value ?? '{}')).toMatchObject({ id: own });
  });
});
