import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BadServerError, connect, type ConnectOptions, memoryStore, ResilientClient, SessionTransport, type Store, type Target } from '../../src/index.ts';
import { freePort } from '../support/ports.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';

/** Item 8 of what must hold: what makes no sense is said at once, and a stored record that makes no sense costs one warning. */

const url = 'http://127.0.0.1:1/mcp';

describe('a target that makes no sense is a TypeError at once', () => {
  it.each([
    ['no URL', 'not a url'],
    ['an empty text', ''],
    ['another protocol', 'ftp://host/mcp'],
    ['credentials in the URL', 'http://user:secret@host/mcp'],
    ['a number', 42],
    ['null', null],
    ['an object without a command', {}],
    ['an empty command', { command: '' }],
  ])('%s', async (_what, target) => {
    expect(() => new ResilientClient(target as Target)).toThrow(TypeError);
    expect(() => new SessionTransport(target as Target)).toThrow(TypeError);
    await expect(connect(target as Target)).rejects.toThrow(TypeError);
  });

  it('does not repeat what may be a secret', () => {
    expect(() => new SessionTransport('http://user:secret@host/mcp')).toThrow(expect.not.objectContaining({ message: expect.stringContaining('secret') }));
  });
});

describe('an option that makes no sense is a TypeError or RangeError at once, which names it', () => {
  it.each([
    [{ ttl: 0 }, RangeError, 'ttl'],
    [{ ttl: -1 }, RangeError, 'ttl'],
    [{ ttl: Number.NaN }, TypeError, 'ttl'],
    [{ ttl: '1h' }, TypeError, 'ttl'],
    [{ timeout: { call: 0 } }, RangeError, 'timeout.call'],
    [{ timeout: { call: Number.POSITIVE_INFINITY } }, RangeError, 'timeout.call'],
    [{ timeout: { call: 2 ** 31 } }, RangeError, 'timeout.call'],
    [{ timeout: { connect: Number.NaN } }, TypeError, 'timeout.connect'],
    [{ timeout: { cal: 5 } }, TypeError, 'cal'],
    [{ timeout: 5 }, TypeError, 'timeout'],
    [{ retry: { retries: -1 } }, RangeError, 'retry.retries'],
    [{ retry: { retries: 1.5 } }, RangeError, 'retry.retries'],
    [{ retry: { minTimeout: 500, maxTimeout: 100 } }, RangeError, 'retry.minTimeout'],
    [{ retry: { factor: 0 } }, RangeError, 'retry.factor'],
    [{ retry: true }, TypeError, 'retry'],
    [{ onSessionLost: 'retry' }, TypeError, 'onSessionLost'],
    [{ session: '' }, TypeError, 'session'],
    [{ principal: '\ud800' }, TypeError, 'principal'],
    [{ principal: '' }, TypeError, 'principal'],
    [{ store: {} }, TypeError, 'store'],
    [{ store: 'sessions' }, TypeError, 'store'],
    [{ authProvider: {} }, TypeError, 'authProvider'],
    [{ headers: { 'mcp-session-id': 'x' } }, TypeError, 'mcp-session-id'],
    [{ headers: { 'a b': 'x' } }, TypeError, 'headers'],
    [{ headers: { a: 'x\r\ny' } }, TypeError, 'headers'],
    [{ headers: 'a: b' }, TypeError, 'headers'],
    [{ fetch: true }, TypeError, 'fetch'],
    [{ metadata: { n: 1n } }, TypeError, 'metadata'],
    [{ limits: { responseBytes: 0 } }, RangeError, 'limits.responseBytes'],
    [{ signal: {} }, TypeError, 'signal'],
    [{ clientInfo: { name: 'x' } }, TypeError, 'clientInfo'],
    [{ sesion: 'x' }, TypeError, 'sesion'],
    [{ timeout: { call: 5000, total: 10 } }, RangeError, 'timeout.call'],
    [{ requestInit: { headers: { authorization: 'x' } } }, TypeError, 'requestInit'],
    [{ on: { warn: () => {} } }, TypeError, 'warn'],
    [{ on: { warning: 'console' } }, TypeError, 'on.warning'],
  ])('%o', (options, type, name) => {
    const make = () => new ResilientClient(url, options as never);
    expect(make).toThrow(type);
    expect(make).toThrow(name);
  });

  it('accepts what makes sense at the edges', () => {
    expect(() => new ResilientClient(url, { ttl: Number.POSITIVE_INFINITY, timeout: { call: 2 ** 31 - 1 }, retry: { retries: 0 } })).not.toThrow();
    expect(() => new ResilientClient(url, { retry: false })).not.toThrow();
  });

  it('says so of the options of one call', async () => {
    await using server = await startServer();
    await using client = await connect(server.url);
    await expect(client.ping({ timeout: 0 })).rejects.toThrow(RangeError);
    await expect(client.ping({ timeout: 2 ** 31 })).rejects.toThrow(RangeError);
    await expect(client.ping({ timeout: Number.NaN })).rejects.toThrow(TypeError);
  });
});

describe('connecting', () => {
  const failure = async (target: Target, options: ConnectOptions = {}) =>
    connect(target, { timeout: { connect: 60_000 }, ...options }).then(undefined, (error: unknown) => error as Error);

  it.each([
    ['such command', { command: 'no-such-command-here' }, /no-such-command-here.*No call was sent\. Is the command installed and on PATH/],
    ['such directory to start it in', { command: process.execPath, cwd: '/no/such/directory' }, /No call was sent\. .*is there such a cwd/],
  ])('fails at once where waiting cannot help, and says where to look: no %s', async (_what, target, message) => {
    expect(await failure(target)).toMatchObject({ code: 'UNREACHABLE', permanent: true, message: expect.stringMatching(message) });
  });

  it.each([
    ['node:http', {}],
    ['fetch', { fetch: globalThis.fetch }],
  ])('fails at once where waiting cannot help, and says where to look: no TLS on that port, over %s', async (_requester, over) => {
    await using server = await startServer();
    // `.` is no line break, and there must be none.
    const message = expect.stringMatching(/^.*No call was sent\. .*must begin with http:\/\/\.$/);
    expect(await failure(server.url.href.replace('http:', 'https:'), over)).toMatchObject({ code: 'UNREACHABLE', permanent: true, message });
  });

  it.each([
    ['node:http', {}],
    ['fetch', { fetch: globalThis.fetch }],
  ])('says what became of it and where to look where nobody listens, over %s', async (_requester, over) => {
    const error = await failure(`http://127.0.0.1:${await freePort()}/mcp`, { retry: false, ...over });
    expect(error).toMatchObject({ code: 'UNREACHABLE', permanent: false, message: expect.stringMatching(/could not be reached: .*ECONNREFUSED.*\. No call was sent\. Is the server running, and are host and port right\?$/) });
    // What is told of each attempt is short.
    expect(error).toMatchObject({ reason: expect.not.stringContaining('No call') });
  });

  it.each([
    ['a page of HTML', { reply: { onlyMethod: 'initialize', times: 1, contentType: 'text/html', body: '<html>' } }, { code: 'BAD_SERVER' }],
    ['no answer', { endEmpty: { onlyMethod: 'initialize', times: 1 } }, { code: 'BAD_SERVER' }],
    ['a 500', { post: { onlyMethod: 'initialize', times: 1, status: 500 } }, { code: 'REFUSED', status: 500 }],
    ['a 404', { post: { onlyMethod: 'initialize', times: 1, status: 404 } }, { code: 'REFUSED', status: 404, message: expect.stringContaining('Is the path right?') }],
    ['a 401', { post: { onlyMethod: 'initialize', times: 1, status: 401 } }, { code: 'REFUSED', status: 401, message: expect.stringContaining('authProvider') }],
  ])('fails at once, naming the server, where initialize gets %s', async (_what, fault, expected) => {
    await using server = await startServer();
    await server.behave(fault);
    const error = await failure(server.url);
    expect(error).toMatchObject(expected);
    expect((error as Error).message).toContain(server.url.href);
  });

  it('waits for a server that is about to come (503)', async () => {
    await using server = await startServer();
    await server.behave({ post: { onlyMethod: 'initialize', times: 2, status: 503 } });
    const reasons: string[] = [];
    await using client = await connect(server.url, { on: { retry: ({ reason }) => reasons.push(reason) } });
    expect(client.session.state).toBe('ready');
    expect(reasons).toEqual([expect.stringContaining('503'), expect.stringContaining('503')]);
  });

  it('tells what happens meanwhile to the listeners that are given with the options', async () => {
    await using server = await startServer();
    const warnings: string[] = [];
    const store: Store = Object.assign(memoryStore(), { set: () => Promise.reject(new Error('disk full')) });
    await using client = await connect(server.url, { store, on: { warning: ({ message }) => warnings.push(message) } });
    expect(client.session.state).toBe('ready');
    expect(warnings).toEqual([expect.stringContaining('disk full')]);
  });
});

describe('a call', () => {
  it('on a client that is not connected fails with ClosedError, not sent', async () => {
    const client = new ResilientClient(url);
    await expect(client.listTools()).rejects.toMatchObject({ code: 'CLOSED', outcome: 'not-sent' });
  });

  it('with its options in the place of the schema is a TypeError that says so', async () => {
    await using server = await startServer();
    await using client = await connect(server.url);
    await expect(client.callTool({ name: 'echo', arguments: {} }, { safe: true } as never)).rejects.toThrow(/third argument/);
  });
});

describe('a stored record that makes no sense', () => {
  let server: FixtureProcess;
  beforeAll(async () => void (server = await startServer()));
  afterAll(() => server.stop());

  async function storeWith(change: (record: Record<string, unknown>) => unknown): Promise<{ store: Store; id: string | undefined }> {
    const store = memoryStore();
    await using client = await connect(server.url, { store, listen: false });
    const { key = '', id } = client.session;
    await client.close();
    const record = JSON.parse((await store.get(key))?.value ?? '') as Record<string, unknown>;
    const changed = change(record);
    await store.set(key, typeof changed === 'string' ? changed : JSON.stringify(changed));
    return { store, id };
  }

  it.each<[string, (record: Record<string, unknown>) => unknown]>([
    ['not JSON', () => '{"v":1'],
    ['empty', () => ''],
    ['no object', () => '[]'],
    ['of a newer version', (record) => ({ ...record, v: 2 })],
    ['without an id', ({ id: _, ...record }) => record],
    ['with an id of spaces', (record) => ({ ...record, id: 'a b' })],
    ['with an id that would split a header', (record) => ({ ...record, id: 'a\r\nx: y' })],
    ['with an id of 1,025 characters', (record) => ({ ...record, id: 'x'.repeat(1025) })],
    ['of a newer version of the protocol than the client speaks', (record) => ({ ...record, initialized: { ...(record['initialized'] as object), protocolVersion: '2099-01-01' } })],
    ['with capabilities that are none', (record) => ({ ...record, initialized: { ...(record['initialized'] as object), capabilities: { tools: 5 } } })],
    ['with a protocol version that is none', (record) => ({ ...record, initialized: { ...(record['initialized'] as object), protocolVersion: 'x\r\ny' } })],
    ['with a cursor that would split a header', (record) => ({ ...record, cursor: '1\r\nx: y' })],
    ['with times that are none', (record) => ({ ...record, expiresAt: 'soon' })],
    ['of another server', (record) => ({ ...record, url: 'http://elsewhere.example/mcp' })],
    ['of another principal', (record) => ({ ...record, principal: 'mallory' })],
  ])('%s: a fresh start, and one warning', async (_what, change) => {
    const { store, id } = await storeWith(change);
    const warnings: Error[] = [];
    await using client = new ResilientClient(server.url, { store, listen: false });
    client.events.on('warning', (warning) => warnings.push(warning));
    await client.connect();
    await client.callTool({ name: 'echo', arguments: { text: 'x' } });
    expect(client.session.resumed).toBe(false);
    expect(client.session.id).not.toBe(id);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toMatchObject({ code: 'STORE' });
    expect(warnings[0]?.message).not.toContain(String(id));
  });

  it('is replaced by the new session', async () => {
    const { store } = await storeWith(() => 'garbage');
    await using first = await connect(server.url, { store, listen: false });
    const { id } = first.session;
    await first.close();
    await using second = await connect(server.url, { store, listen: false });
    expect(second.session).toMatchObject({ id, resumed: true });
  });

  it('expired: a fresh start, without a warning', async () => {
    const { store, id } = await storeWith((record) => ({ ...record, expiresAt: Date.now() - 1 }));
    const warnings: Error[] = [];
    await using client = new ResilientClient(server.url, { store, listen: false });
    client.events.on('warning', (warning) => warnings.push(warning));
    await client.connect();
    expect(client.session.resumed).toBe(false);
    expect(client.session.id).not.toBe(id);
    expect(warnings).toEqual([]);
  });
});

describe('G8 a store that fails never fails a call', () => {
  let server: FixtureProcess;
  beforeAll(async () => void (server = await startServer()));
  afterAll(() => server.stop());

  it.each(['get', 'set'] as const)('%s rejects: one warning, and the client works', async (broken) => {
    const store: Store = Object.assign(memoryStore(), { [broken]: () => Promise.reject(new Error('disk on fire')) });
    const warnings: string[] = [];
    await using client = new ResilientClient(server.url, { store });
    client.events.on('warning', ({ message }) => warnings.push(message));
    await client.connect();
    for (let i = 0; i < 3; i++) await client.callTool({ name: 'echo', arguments: { text: 'x' } });
    await client.setLoggingLevel('info');
    await client.close();
    expect(warnings).toEqual([expect.stringContaining('disk on fire')]);
  });

  it('a store that never answers costs its time limit once', async () => {
    const store: Store = Object.assign(memoryStore(), { get: () => new Promise<never>(() => {}) });
    const warnings: string[] = [];
    await using client = new ResilientClient(server.url, { store });
    client.events.on('warning', ({ message }) => warnings.push(message));
    await client.connect();
    await client.callTool({ name: 'echo', arguments: { text: 'x' } });
    expect(warnings).toEqual([expect.stringContaining('3000 ms')]);
  });
});

describe('a session id of the server that the protocol does not allow', () => {
  // Node's own parser refuses control characters and line ends before we see them.
  it.each([
    ['with spaces', 'a b'],
    ['not ASCII', 'sess\u00efon'],
    ['too long', 'x'.repeat(1025)],
  ])('%s is a BadServerError', async (_what, id) => {
    await using server = await startServer();
    await server.behave({ sessionIdHeader: id });
    await expect(connect(server.url)).rejects.toThrow(BadServerError);
  });
});
