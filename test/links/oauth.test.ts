import { inspect } from 'node:util';
import { auth, UnauthorizedError } from '@modelcontextprotocol/sdk/client/auth.js';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest';
import { memoryStore, RefusedError, ResilientClient, SessionTransport } from '../../src/index.ts';
import { type AuthServer, startAuthServer, TestProvider } from '../support/auth-server.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';

type Options = NonNullable<ConstructorParameters<typeof ResilientClient>[1]>;
type Fetch = typeof globalThis.fetch;

// One process of each for all tests: to start one takes longer than most tests.
const shared = { auth: await startAuthServer(), fixture: await startServer() };
afterAll(() => Promise.all([shared.auth.stop(), shared.fixture.stop()]));

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  vi.unstubAllGlobals();
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function authServer(options?: Parameters<AuthServer['reset']>[0]): Promise<AuthServer> {
  await shared.auth.reset(options);
  return shared.auth;
}

async function fixtureServer(): Promise<FixtureProcess> {
  await shared.fixture.behave({ post: null });
  await shared.fixture.clearRequests();
  return shared.fixture;
}

function resilient(url: URL, options: Options): ResilientClient {
  const client = new ResilientClient(url, options);
  cleanUps.push(() => client.close());
  return client;
}

/** A client that is connected on behalf of a user who has agreed. */
async function connected(server: AuthServer, options: Options = {}): Promise<{ client: ResilientClient; provider: TestProvider }> {
  const provider = new TestProvider();
  const client = resilient(server.url, { authProvider: provider, listen: false, ...options });
  await expect(client.connect()).rejects.toBeInstanceOf(UnauthorizedError);
  await client.finishAuth(await provider.consent());
  await client.connect();
  if (options.listen !== true) await server.clearRequests();
  return { client, provider };
}

const echo = (client: ResilientClient, text = 'hello') => client.callTool({ name: 'echo', arguments: { text } });
const work = (client: ResilientClient, nonce = 'n') => client.callTool({ name: 'work', arguments: { nonce } });
const said = (text: string) => ({ content: [{ type: 'text', text }] });
const failure = (promise: Promise<unknown>) => promise.then(() => undefined, (error: unknown) => error);

describe.each([
  ['node:http', undefined],
  ['fetch', globalThis.fetch],
] as const)('the first authorization, over %s', (_name, fetch) => {
  const over = fetch ? { fetch } : {};

  test('is asked of the user once, and connect() fails with the error of the SDK', async () => {
    const server = await authServer();
    const provider = new TestProvider();
    const client = resilient(server.url, { authProvider: provider, ...over });

    await expect(client.connect()).rejects.toBeInstanceOf(UnauthorizedError);

    expect(provider.redirects).toHaveLength(1);
    expect(provider.redirects[0]?.searchParams.get('scope')).toBe('mcp');
    expect(provider.redirects[0]?.searchParams.get('code_challenge_method')).toBe('S256');
    expect(await server.requests()).toHaveLength(1);
    expect(await server.counters()).toMatchObject({ registrations: 1, tokenRequests: 0 });
  });

  test('is finished with the code, after which the same client connects', async () => {
    const server = await authServer();
    const { client, provider } = await connected(server, over);

    expect(await echo(client)).toMatchObject(said('hello'));

    expect(provider.redirects).toHaveLength(1);
    expect(await server.counters()).toEqual({ registrations: 1, authorizations: 1, tokenRequests: 1, refreshes: 0 });
    const [{ authorization } = {}] = await server.requests();
    expect(authorization).toBe(`Bearer ${provider.tokens()?.access_token}`);
  });

  test('works the same for an SDK client over a SessionTransport', async () => {
    const server = await authServer();
    const provider = new TestProvider();
    const transport = new SessionTransport(server.url, { authProvider: provider, ...over });
    const client = new Client({ name: 'bare', version: '0' });
    cleanUps.push(() => client.close());

    await expect(client.connect(transport)).rejects.toBeInstanceOf(UnauthorizedError);
    await transport.finishAuth(await provider.consent());
    await client.connect(transport);

    expect(await client.callTool({ name: 'echo', arguments: { text: 'bare' } })).toMatchObject(said('bare'));
    expect(provider.redirects).toHaveLength(1);
  });

  test('of ten calls with an expired token takes one refresh, and all ten succeed', async () => {
    const server = await authServer();
    const { client, provider } = await connected(server, over);
    await server.revokeAccess();

    const texts = Array.from({ length: 10 }, (_, i) => `call ${i}`);
    const results = await Promise.all(texts.map((text) => echo(client, text)));

    expect(results).toMatchObject(texts.map(said));
    expect(await server.counters()).toMatchObject({ refreshes: 1, tokenRequests: 2 });
    expect(provider.redirects).toHaveLength(1);
  });
});

describe('the user', () => {
  test('who did not answer is asked again by the next connect()', async () => {
    const server = await authServer();
    const provider = new TestProvider();
    const client = resilient(server.url, { authProvider: provider });

    await expect(client.connect()).rejects.toBeInstanceOf(UnauthorizedError);
    await expect(client.connect()).rejects.toBeInstanceOf(UnauthorizedError);

    expect(provider.redirects).toHaveLength(2);
    await client.finishAuth(await provider.consent());
    await client.connect();
    expect(await echo(client)).toMatchObject(said('hello'));
  });

  test('whose code is refused sees the error, and can be asked again', async () => {
    const server = await authServer();
    const provider = new TestProvider();
    const client = resilient(server.url, { authProvider: provider });
    await expect(client.connect()).rejects.toBeInstanceOf(UnauthorizedError);

    await expect(client.finishAuth('made up')).rejects.toMatchObject({ errorCode: 'invalid_grant' });

    await expect(client.connect()).rejects.toBeInstanceOf(UnauthorizedError);
    await client.finishAuth(await provider.consent());
    await client.connect();
    expect(await echo(client)).toMatchObject(said('hello'));
  });

  test('is asked again, once for ten calls, when the refresh token is refused; then the session goes on', async () => {
    const server = await authServer();
    const { client, provider } = await connected(server);
    const session = client.session.id;
    await server.revokeAccess();
    await server.revokeRefresh();

    const errors = await Promise.all(Array.from({ length: 10 }, () => failure(echo(client))));

    for (const error of errors) expect(error).toBeInstanceOf(UnauthorizedError);
    expect(provider.redirects).toHaveLength(2);
    await client.finishAuth(await provider.consent());
    expect(await echo(client)).toMatchObject(said('hello'));
    expect(client.session.id).toBe(session);
  });

  test('is not asked again for a call that was challenged with the others and hears of it late', async () => {
    const server = await authServer();
    let hold: Promise<void> | undefined;
    const fetch: Fetch = async (...args) => {
      const held = hold;
      hold = undefined;
      const response = await globalThis.fetch(...args);
      await held;
      return response;
    };
    const { client, provider } = await connected(server, { fetch });
    await server.revokeAccess();
    await server.revokeRefresh();
    let release = (): void => {};
    hold = new Promise((resolve) => (release = resolve));
    const late = failure(echo(client));
    await waitFor(() => hold === undefined);

    await expect(echo(client)).rejects.toBeInstanceOf(UnauthorizedError);
    release();

    expect(await late).toBeInstanceOf(UnauthorizedError);
    expect(provider.redirects).toHaveLength(2);
  });

  test('is not asked over and over by a stream that nobody waits for', async () => {
    const server = await authServer();
    const { client, provider } = await connected(server, { listen: true });
    await waitFor(async () => (await server.requests()).some(({ http, status }) => http === 'GET' && status === undefined));
    await server.revokeAccess();
    await server.revokeRefresh();

    await server.closeStreams();
    const refused = async () => (await server.requests()).filter(({ http, status }) => http === 'GET' && status === 401);
    await waitFor(async () => (await refused()).length >= 3);

    expect(provider.redirects).toHaveLength(2);
    // What was asked by the stream is still good.
    await client.finishAuth(await provider.consent());
    expect(await echo(client)).toMatchObject(said('hello'));
  });

  test('is not asked for leave to leave', async () => {
    const server = await authServer();
    const { client, provider } = await connected(server);
    await server.revokeAccess();
    await server.revokeRefresh();

    await client.close();

    expect((await server.requests()).map(({ http, status }) => [http, status])).toEqual([['DELETE', 401]]);
    expect(provider.redirects).toHaveLength(1);
    expect(await server.counters()).toMatchObject({ refreshes: 0 });
  });
});

describe('a token', () => {
  test('that expires by itself is renewed', async () => {
    const server = await authServer({ lifetime: 1 });
    const { client, provider } = await connected(server);

    await waitFor(async () => {
      expect(await echo(client)).toMatchObject(said('hello'));
      return (await server.counters()).refreshes === 1;
    });

    expect(provider.redirects).toHaveLength(1);
  });

  test('that somebody else has renewed meanwhile is just used', async () => {
    const server = await authServer();
    let beforeNext: (() => Promise<unknown>) | undefined;
    const fetch: Fetch = async (...args) => {
      const run = beforeNext;
      beforeNext = undefined;
      await run?.();
      return globalThis.fetch(...args);
    };
    const { client, provider } = await connected(server, { fetch });
    // After the request has its token, and before it leaves.
    beforeNext = async () => {
      await server.revokeAccess();
      await auth(provider, { serverUrl: server.url });
    };

    expect(await echo(client)).toMatchObject(said('hello'));

    expect((await server.requests()).map(({ status }) => status)).toEqual([401, 200]);
    expect(await server.counters()).toMatchObject({ refreshes: 1 });
  });

  test('that no request can carry fails the call, and no error repeats it', async () => {
    const server = await authServer();
    const { client, provider } = await connected(server);
    provider.saveTokens({ access_token: 'broken\nsecret', token_type: 'Bearer' });

    const error = await failure(echo(client));

    expect(error).toBeInstanceOf(TypeError);
    expect(inspect(error)).not.toContain('secret');
    expect(await server.requests()).toEqual([]);
  });
});

describe('a step-up', () => {
  test('asks for the scope of the challenge, and for what was granted before, once', async () => {
    const server = await authServer({ scopeOf: { work: 'admin' } });
    const { client, provider } = await connected(server);

    await expect(work(client)).rejects.toBeInstanceOf(UnauthorizedError);

    expect(provider.redirects).toHaveLength(2);
    expect(provider.redirects[1]?.searchParams.get('scope')).toBe('mcp admin');
    // A refresh cannot widen a scope, so it was not even tried.
    expect(await server.counters()).toMatchObject({ refreshes: 0 });
    expect(await server.requests()).toHaveLength(1);

    await client.finishAuth(await provider.consent());
    expect(await work(client, 'stepped up')).toMatchObject(said('done:stepped up'));
    expect(await echo(client)).toMatchObject(said('hello'));
    expect(provider.redirects).toHaveLength(2);
  });

  test('is asked of the user once for ten calls', async () => {
    const server = await authServer({ scopeOf: { work: 'admin' } });
    const { client, provider } = await connected(server);

    const errors = await Promise.all(Array.from({ length: 10 }, (_, i) => failure(work(client, `${i}`))));

    for (const error of errors) expect(error).toBeInstanceOf(UnauthorizedError);
    expect(provider.redirects).toHaveLength(2);
  });

  test('leaves calls alone that need none', async () => {
    const server = await authServer({ scopeOf: { work: 'admin' } });
    const { client } = await connected(server);

    const [refused, done] = await Promise.allSettled([work(client), echo(client)]);

    expect(refused).toMatchObject({ status: 'rejected' });
    expect(done).toMatchObject({ status: 'fulfilled', value: said('hello') });
  });

  test('without a provider is an ordinary refusal', async () => {
    const server = await fixtureServer();
    const client = resilient(server.url, { listen: false, headers: () => ({ 'x-count': 'always the same' }) });
    await client.connect();
    await server.behave({ post: { status: 403, times: 1, headers: { 'www-authenticate': 'Bearer error="insufficient_scope", scope="admin"' } } });

    await expect(echo(client)).rejects.toMatchObject({ code: 'REFUSED', status: 403 });
  });
});

describe('a server that is never content', () => {
  test('says 401 to the handshake after authorization: an error after one refresh, no loop', async () => {
    const server = await authServer();
    const provider = new TestProvider();
    const client = resilient(server.url, { authProvider: provider });
    await expect(client.connect()).rejects.toBeInstanceOf(UnauthorizedError);
    await client.finishAuth(await provider.consent());
    await server.clearRequests();
    await server.fault({ status: 401 });

    await expect(client.connect()).rejects.toMatchObject({ code: 'REFUSED', status: 401 });

    expect(await server.requests()).toHaveLength(2);
    expect(await server.counters()).toMatchObject({ refreshes: 1 });
    expect(provider.redirects).toHaveLength(1);
  });

  test('says 401 to ten calls: ten errors, each after at most one more try per flow', async () => {
    const server = await authServer();
    const { client, provider } = await connected(server);
    await server.fault({ status: 401 });

    const errors = await Promise.all(Array.from({ length: 10 }, () => failure(echo(client))));

    for (const error of errors) expect(error).toBeInstanceOf(RefusedError);
    expect((await server.requests()).length).toBeLessThanOrEqual(30);
    expect((await server.counters()).refreshes).toBeLessThanOrEqual(2);
    expect(provider.redirects).toHaveLength(1);
  });

  test.each([true, false])('asks for the scope that was just granted (named: %s): an error at once, and the user is left in peace', async (namesScope) => {
    const server = await authServer({ scopeOf: { work: 'admin' }, namesScope });
    const { client, provider } = await connected(server);
    await expect(work(client)).rejects.toBeInstanceOf(UnauthorizedError);
    await client.finishAuth(await provider.consent());
    await server.clearRequests();
    await server.fault({ status: 403, scope: 'admin', only: 'work' });

    await expect(work(client)).rejects.toMatchObject({ code: 'REFUSED', status: 403 });

    expect(await server.requests()).toHaveLength(1);
    expect(provider.redirects).toHaveLength(2);
  });

  test('asks for ever more scope: one question for each call', async () => {
    const server = await authServer();
    const { client, provider } = await connected(server);
    await server.fault({ status: 403, scope: 'more', only: 'echo' });

    await expect(echo(client)).rejects.toBeInstanceOf(UnauthorizedError);

    expect(await server.requests()).toHaveLength(1);
    expect(provider.redirects).toHaveLength(2);
  });
});

describe('what the provider throws', () => {
  test.each(['tokens', 'redirectToAuthorization'] as const)('in %s() reaches the caller as it is', async (method) => {
    const server = await authServer();
    const provider = new TestProvider();
    const error = new Error('the keychain is locked');
    provider[method] = () => {
      throw error;
    };
    const client = resilient(server.url, { authProvider: provider });

    expect(await failure(client.connect())).toBe(error);
  });
});

describe('the fetch that was given', () => {
  test('makes the requests of OAuth too, with the given settings and without our headers', async () => {
    const server = await authServer();
    const provider = new TestProvider();
    const real = globalThis.fetch;
    const seen: { url: URL; init: RequestInit }[] = [];
    const fetch: Fetch = (url, init = {}) => {
      seen.push({ url: new URL(String(url)), init });
      return real(url, init);
    };
    const client = resilient(server.url, { authProvider: provider, fetch, requestInit: { credentials: 'include' }, headers: { 'x-api-key': 'ours' }, listen: false });
    const globally = vi.fn<Fetch>();
    vi.stubGlobal('fetch', globally);
    await expect(client.connect()).rejects.toBeInstanceOf(UnauthorizedError);
    vi.stubGlobal('fetch', real);
    const code = await provider.consent();
    vi.stubGlobal('fetch', globally);
    await client.finishAuth(code);
    await client.connect();

    expect(globally).not.toHaveBeenCalled();
    const paths = seen.map(({ url }) => url.pathname);
    expect(paths).toEqual(expect.arrayContaining(['/.well-known/oauth-protected-resource/mcp', '/.well-known/oauth-authorization-server', '/register', '/token']));
    for (const { url, init } of seen) {
      expect(init.credentials).toBe('include');
      expect(new Headers(init.headers).get('x-api-key')).toBe(url.pathname === '/mcp' ? 'ours' : null);
    }
  });
});

describe('headers', () => {
  async function fixture(options: Options): Promise<{ client: ResilientClient; server: FixtureProcess }> {
    const server = await fixtureServer();
    return { server, client: resilient(server.url, options) };
  }
  /** Refuses the next tool call. */
  const unauthorized = { post: { status: 401, times: 1, onlyMethod: 'tools/call', body: 'who are you?' } };

  test('are asked for before every request', async () => {
    let asked = 0;
    const { client, server } = await fixture({ headers: async () => ({ 'x-count': `${++asked}` }) });
    await client.connect();
    await echo(client);
    await waitFor(async () => (await server.requests()).some(({ http }) => http === 'GET'));
    await client.close();

    const requests = await server.requests();
    expect(new Set(requests.map(({ http }) => http))).toEqual(new Set(['POST', 'GET', 'DELETE']));
    expect(requests.map(({ headers }) => Number(headers['x-count'])).sort((a, b) => a - b)).toEqual(requests.map((_, i) => i + 1));
    expect(asked).toBe(requests.length);
  });

  test('are asked for once more after a 401, and the request is sent once more with what is new', async () => {
    let asked = 0;
    const { client, server } = await fixture({ listen: false, headers: () => ({ authorization: `Bearer token-${++asked}` }) });
    await client.connect();
    await server.clearRequests();
    await server.behave(unauthorized);
    const before = asked;

    expect(await echo(client)).toMatchObject(said('hello'));

    const sent = (await server.requests()).map(({ headers, status }) => [headers['authorization'], status]);
    expect(sent).toEqual([
      [`Bearer token-${before + 1}`, 401],
      [`Bearer token-${before + 2}`, 200],
    ]);
    expect(asked).toBe(before + 2);
  });

  test('that always change end in an error when the server always says 401', async () => {
    let asked = 0;
    const { client, server } = await fixture({ listen: false, headers: () => ({ authorization: `Bearer token-${++asked}` }) });
    await client.connect();
    await server.clearRequests();
    await server.behave({ post: { ...unauthorized.post, times: 1000 } });

    await expect(echo(client)).rejects.toMatchObject({ code: 'REFUSED', status: 401 });

    expect(await server.requests()).toHaveLength(2);
  });

  test('that are the same after a 401 are not tried again', async () => {
    let asked = 0;
    const headers = () => {
      asked++;
      return { authorization: 'Bearer same' };
    };
    const { client, server } = await fixture({ listen: false, headers });
    await client.connect();
    await server.clearRequests();
    await server.behave(unauthorized);
    const before = asked;

    await expect(echo(client)).rejects.toMatchObject({ status: 401 });

    expect(await server.requests()).toHaveLength(1);
    expect(asked).toBe(before + 2);
  });

  test('in an object are not tried again after a 401', async () => {
    const { client, server } = await fixture({ listen: false, headers: { authorization: 'Bearer fixed' } });
    await client.connect();
    await server.clearRequests();
    await server.behave(unauthorized);

    await expect(echo(client)).rejects.toMatchObject({ status: 401 });

    expect(await server.requests()).toHaveLength(1);
  });

  test('in an object are taken as they are when the request is made', async () => {
    const headers: Record<string, string> = { 'x-custom': 'first' };
    const { client, server } = await fixture({ listen: false, headers });
    await client.connect();
    headers['x-custom'] = 'second';
    await echo(client);

    expect((await server.requests()).map((entry) => entry.headers['x-custom'])).toEqual(['first', 'first', 'second']);
  });

  const reserved = ['mcp-session-id', 'Mcp-Session-Id', 'MCP-Protocol-Version', 'Last-Event-ID', 'Content-Type', 'Content-Length', 'Accept', 'Host'];

  test.each(reserved)('cannot set %s', async (name) => {
    expect(() => new ResilientClient('http://127.0.0.1:1/mcp', { headers: { [name]: 'x' } })).toThrow(TypeError);
    expect(() => new SessionTransport('http://127.0.0.1:1/mcp', { headers: { [name]: 'x' } })).toThrow(TypeError);
  });

  test.each([
    ['a header that is ours', { 'mcp-session-id': 'stolen-secret' }],
    ['a value that no header can carry', { 'x-key': 'broken\r\nsecret: 1' }],
    ['no string', { 'x-key': undefined as unknown as string }],
    ['an impossible name', { 'x key': 'secret' }],
  ])('from a function with %s fail the call with a TypeError, and nothing is sent', async (_what, headers) => {
    const { client, server } = await fixture({ headers: () => headers });

    const error = await failure(client.connect());

    expect(error).toBeInstanceOf(TypeError);
    expect(inspect(error)).not.toMatch(/secret/);
    expect(await server.requests()).toEqual([]);
  });

  test('whose function fails fail the call with its error', async () => {
    const error = new Error('no vault');
    const { client } = await fixture({ headers: () => Promise.reject(error) });

    expect(await failure(client.connect())).toBe(error);
  });

  test('that never come do not keep the client from closing', async () => {
    let hang = false;
    const { client, server } = await fixture({ listen: false, headers: () => (hang ? new Promise(() => {}) : {}) });
    await client.connect();
    hang = true;
    const call = failure(echo(client));

    await client.close();

    expect(await call).toMatchObject({ code: 'CLOSED' });
    expect((await server.requests()).every(({ http }) => http === 'POST')).toBe(true);
  });
});

describe('a session under OAuth', () => {
  const stored = async (store: ReturnType<typeof memoryStore>) => {
    const keys: string[] = [];
    for await (const key of store.keys('')) keys.push(key);
    return keys;
  };

  test('is not stored where no principal says whose it is, and that is told once', async () => {
    const server = await authServer();
    const store = memoryStore();
    const { provider } = await connected(server);
    const client = resilient(server.url, { authProvider: provider, store, listen: false });
    const warnings: Error[] = [];
    client.events.on('warning', (error) => warnings.push(error));
    await client.connect();
    await echo(client);
    await client.close();

    expect(await stored(store)).toEqual([]);
    expect(warnings.map(({ message }) => message)).toEqual([expect.stringContaining('principal')]);
  });

  test('is stored for its principal, and taken up by the next client without a handshake', async () => {
    const server = await authServer();
    const store = memoryStore();
    const { client, provider } = await connected(server, { store, principal: 'ada' });
    const { id } = client.session;
    await client.close();
    expect(await stored(store)).toHaveLength(1);
    await server.clearRequests();

    const next = resilient(server.url, { authProvider: provider, store, principal: 'ada', listen: false });
    await next.connect();
    expect(await echo(next)).toMatchObject(said('hello'));

    expect(next.session).toMatchObject({ id, resumed: true });
    expect((await server.requests()).map(({ methods }) => methods)).toEqual([['echo']]);
  });

  test('is another for another principal', async () => {
    const server = await authServer();
    const store = memoryStore();
    const { client } = await connected(server, { store, principal: 'ada' });
    const { client: other } = await connected(server, { store, principal: 'grace' });

    expect(other.session.id).not.toBe(client.session.id);
    expect(await stored(store)).toHaveLength(2);
  });
});

describe.each([
  ['node:http', undefined],
  ['fetch', globalThis.fetch],
] as const)('secrets, over %s,', (_name, fetch) => {
  test('are in no error, no event and no key of a store', async () => {
    const server = await authServer({ scopeOf: { work: 'admin' } });
    const provider = new TestProvider();
    const store = memoryStore();
    const apiKey = 'sk-canary-0123456789';
    const target = new URL('?key=sk-query-0123456789', server.url);
    const options: Options = { authProvider: provider, principal: 'ada', store, headers: { 'x-api-key': apiKey }, ...(fetch ? { fetch } : {}) };
    const client = resilient(target, options);
    const told: unknown[] = [];
    client.onerror = (error) => told.push(error);
    for (const event of ['state', 'resumed', 'reset', 'degraded', 'cursorLost', 'warning', 'retry'] as const) {
      client.events.on(event, (...args: unknown[]) => void told.push([event, ...args]));
    }
    const note = async (promise: Promise<unknown>) => void told.push(await failure(promise));

    await note(client.connect());
    await client.finishAuth(await provider.consent());
    await client.connect();
    const ids = [client.session.id ?? ''];
    // The server repeats all that it was sent in whatever it refuses.
    await note(work(client));
    await server.fault({ status: 403 });
    await note(echo(client));
    await server.fault({ status: 401 });
    await note(echo(client));
    await note(client.listTools());
    await server.closeStreams();
    await waitFor(() => told.some((each) => inspect(each).includes('degraded')));
    await server.fault(null);
    await server.revokeAccess();
    await server.revokeRefresh();
    await note(echo(client));
    await note(client.finishAuth('made up'));
    await note(client.end());
    const keys: string[] = [];
    for await (const key of store.keys('')) keys.push(key);
    told.push(keys, client.session.key);

    const text = told.map((each) => inspect(each, { depth: 10, showHidden: true })).join('\n');
    expect(text).toContain('refused with');
    const secrets = [...provider.secrets, ...ids, apiKey, 'sk-query-0123456789'];
    expect(secrets.length).toBeGreaterThan(6);
    for (const secret of secrets) expect(text).not.toContain(secret);
  });
});
