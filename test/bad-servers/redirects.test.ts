import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { ScriptedServer } from '../links/scripted-server.ts';
import { type BadServer, badFor, GOOD, SSE } from './bad-server.ts';
import { clientOf, connected, echo, expectUsable, failureOf, REQUESTERS, startBad } from './harness.ts';

/** A server of somebody else. What is sent there is also seen by the harness. */
async function elsewhere(): Promise<ScriptedServer> {
  const other = await ScriptedServer.start((_, res) => res.writeHead(200, { 'content-type': 'application/json' }).end('{}'));
  onTestFinished(() => other.stop());
  return other;
}

const redirect = (server: BadServer, method: string, status: number, location: string): void => {
  server.bad = badFor(method, (_, res) => res.writeHead(status, { location }).end());
};

const STATUSES = [301, 302, 303, 307, 308];
const headers = { authorization: 'Bearer mine', 'x-api-key': 'mine-too' };

describe.each(REQUESTERS)('a redirect to another origin over %s', (_requester, over) => {
  it.each(STATUSES)('by %i of a call is a refusal that says so', async (status) => {
    const other = await elsewhere();
    await using server = await startBad();
    await using heard = await connected(server, { ...over, headers });
    redirect(server, 'tools/call', status, `${other.url.href}?token=secret`);

    const failure = await failureOf(echo(heard.client, 'x'), 60_000);

    // After 303 the answer is elsewhere, so it may have run.
    expect(failure).toMatchObject({ outcome: status === 303 ? 'unknown' : 'refused', message: expect.stringContaining(`redirect to ${other.url.href} not followed: it leaves the server's origin`) });
    expect(failure.message).not.toMatch(/secret|mine|session-1/);
    await expectUsable(server, heard.client);
    expect(other.connections).toBe(0);
  });

  it.each(STATUSES)('by %i of the handshake is a refusal', async (status) => {
    const other = await elsewhere();
    await using server = await startBad();
    redirect(server, 'initialize', status, other.url.href);
    await using heard = clientOf(server, { ...over, headers });

    const failure = await failureOf(heard.client.connect(), 15_000);

    expect(failure).toMatchObject({ code: 'REFUSED', status, message: expect.stringContaining("leaves the server's origin") });
    server.bad = () => GOOD;
    await heard.client.connect();
    await expectUsable(server, heard.client);
    expect(other.connections).toBe(0);
  });

  it.each(STATUSES)('by %i of the notification stream leaves the client without it', async (status) => {
    const other = await elsewhere();
    await using server = await startBad();
    redirect(server, 'GET', status, other.url.href);
    await using heard = clientOf(server, { ...over, headers, listen: true });
    const degraded = new Promise<{ reason: string }>((resolve) => heard.client.events.once('degraded', resolve));
    await heard.client.connect();

    expect((await degraded).reason).toContain("leaves the server's origin");
    await expectUsable(server, heard.client);
    expect(other.connections).toBe(0);
  });

  it('of what ends the session sends it nowhere', async () => {
    const other = await elsewhere();
    await using server = await startBad();
    const { client } = await connected(server, { ...over, headers });
    redirect(server, 'DELETE', 308, other.url.href);
    await client.end();
    expect(server.requests('DELETE')).toHaveLength(1);
    expect(other.connections).toBe(0);
  });

  it('of a stream that is resumed gives neither the session nor the event away', async () => {
    const other = await elsewhere();
    await using server = await startBad();
    await using heard = await connected(server, over);
    server.bad = ({ method, rpc }, res) => {
      if (rpc.method === 'tools/call') return res.writeHead(200, SSE).end('id: event-1\ndata:\n\n');
      return method === 'GET' ? res.writeHead(307, { location: other.url.href }).end() : GOOD;
    };

    const failure = await failureOf(echo(heard.client, 'x'), 60_000);

    expect(failure).toMatchObject({ code: 'OUTCOME_UNKNOWN', message: expect.stringContaining("leaves the server's origin") });
    expect(server.requests('GET')[0]?.headers['last-event-id']).toBe('event-1');
    await expectUsable(server, heard.client);
    expect(other.connections).toBe(0);
  });
});

describe.each(REQUESTERS)('over %s', (_requester, over) => {
  it('a redirect from https to http is a refusal: nothing is sent in the clear', async () => {
    vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0');
    onTestFinished(() => void vi.unstubAllEnvs());
    const plain = await elsewhere();
    await using server = await startBad(undefined, { secure: true });
    await using heard = await connected(server, { ...over, headers });
    // The same name, and even the same port with another protocol.
    for (const location of [plain.url.href, server.url.href.replace('https:', 'http:')]) {
      redirect(server, 'tools/call', 307, location);
      const failure = await failureOf(echo(heard.client, 'x'), 60_000);
      expect(failure).toMatchObject({ code: 'REFUSED', status: 307, message: expect.stringContaining(`redirect to ${location} not followed`) });
    }
    await expectUsable(server, heard.client);
    expect(plain.connections).toBe(0);
  });

  it('a server of the old kind whose stream names an endpoint at another origin gets nothing sent there', async () => {
    const other = await elsewhere();
    await using server = await startBad(({ method }, res) => {
      if (method === 'GET') res.writeHead(200, SSE).write(`event: endpoint\ndata: ${other.url.href}\n\n`);
      else res.writeHead(405).end();
    });
    await using heard = clientOf(server, { ...over, headers, timeout: { connect: 3000 } });

    await failureOf(heard.client.connect(), 3000);

    expect(server.requests('GET')).toHaveLength(1);
    expect(other.connections).toBe(0);
    server.bad = () => GOOD;
    await heard.client.connect();
    await expectUsable(server, heard.client);
  });

  it('a server of the old kind whose stream is elsewhere is not followed', async () => {
    const other = await elsewhere();
    await using server = await startBad(({ method }, res) => res.writeHead(method === 'GET' ? 302 : 405, { location: other.url.href }).end());
    await using heard = clientOf(server, { ...over, headers, timeout: { connect: 3000 } });

    await failureOf(heard.client.connect(), 3000);

    expect(server.requests('GET').length).toBeGreaterThan(0);
    expect(other.connections).toBe(0);
  });
});
