import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { expect, inject, onTestFinished, test } from 'vitest';
import type { OAuthClientProvider } from '@modelcontextprotocol/sdk/client/auth.js';
import { type ConnectOptions, DeadlineError, encryptedStore, memoryStore, ResilientClient, type Store, StoreError } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { inParallel } from '../../src/registry/in-parallel.ts';
import { redisStore } from '../../src/redis.ts';
import { ScriptedServer, type Seen } from '../links/scripted-server.ts';
import { altered, temporaryDirectory } from '../session/clients.ts';
import { listed, newPrefix, removeAll } from '../storage/redis-parts.ts';
import { lostDialects, refusal } from '../support/dialects.ts';
import { Ears } from './ears.ts';

/**
 * Every secret is a canary. Clients are driven into failures of all kinds, by servers that repeat all that they are asked with, and what a
 * program could log of that is searched for them (G7).
 */

// Each with characters that are written in other ways in JSON, in URLs and in HTML; searched for is the part that is not.
const canary = {
  session: 'canarysessionzq1',
  bearer: 'canarybearerzq2',
  header: 'canaryheaderzq3',
  password: 'canarypasswordzq4',
  query: 'canaryqueryzq5',
  passphrase: 'canarypassphrasezq6',
  argument: 'canaryargumentzq7',
  result: 'canaryresultzq8',
  metadata: 'canarymetadatazq9',
};
const session = `"s/e+${canary.session}\\<1>&=`;
const bearer = `b/e+${canary.bearer}==`;
const headers = {
  authorization: `Bearer ${bearer}`,
  'x-api-key': `"k/e y"\\<${canary.header}>&${canary.header}`,
  'x-basic': `Basic ${btoa(`user:${canary.password}`)}`,
};
const query = `?key=${encodeURIComponent(`q/e+${canary.query}&<>`)}&plain=q/${canary.query}`;
const args = { password: canary.argument, more: [{ deep: canary.argument }] };

const JSON_TYPE = { 'content-type': 'application/json' };
type Id = string | number;
interface Rpc {
  id: Id;
  method: string;
  params?: { name?: string };
}

/** All that a request came with, but for its body, in one of the ways in which servers write it down. */
const ways: Readonly<Record<string, (text: string) => string>> = {
  plain: (text) => text,
  json: (text) => JSON.stringify(text).slice(1, -1),
  'json of PHP': (text) => JSON.stringify(text).slice(1, -1).replaceAll('/', '\\/'),
  url: encodeURIComponent,
  html: (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;'),
};
const echoOf = ({ headers: received, path }: Seen, way = 'plain'): string[] => {
  const decoded = Buffer.from(String(received['x-basic']).slice(6), 'base64').toString();
  const of = ways[way] as (text: string) => string;
  return [session, bearer, received['x-api-key'], decoded, received['mcp-session-id'], path].filter((each) => each !== undefined).map((each) => of(String(each)));
};

type Answer = (seen: Seen, rpc: Rpc, res: Parameters<ConstructorParameters<typeof ScriptedServer>[0]>[1]) => unknown;

/** A server that works, until `fault` answers in its place. */
class Echo {
  fault: Answer | undefined;
  readonly server: ScriptedServer;

  constructor(server: ScriptedServer) {
    this.server = server;
  }

  static async start(): Promise<Echo> {
    const server = await ScriptedServer.start(() => {});
    const echo = new Echo(server);
    server.script = (seen, res) => echo.#handle(seen, res);
    onTestFinished(() => server.stop());
    return echo;
  }

  get url(): URL {
    return new URL(this.server.url.href + query);
  }

  #handle(seen: Seen, res: Parameters<Answer>[2]): unknown {
    const rpc = (seen.body === '' ? { method: seen.method } : JSON.parse(seen.body)) as Rpc;
    if (this.fault && (rpc.method === 'tools/call' || rpc.method === 'GET' || rpc.method === 'ping')) return this.fault(seen, rpc, res);
    if (seen.method === 'GET') return res.writeHead(405).end();
    if (seen.method === 'DELETE' || rpc.id === undefined) return res.writeHead(202).end();
    const initialized = { protocolVersion: '2025-11-25', capabilities: { tools: {} }, serverInfo: { name: 'echo', version: '1' } };
    const result = rpc.method === 'initialize' ? initialized : { content: [{ type: 'text', text: canary.result }] };
    res.writeHead(200, { ...JSON_TYPE, ...(rpc.method === 'initialize' ? { 'mcp-session-id': session } : {}) });
    return res.end(JSON.stringify({ jsonrpc: '2.0', id: rpc.id, result }));
  }
}

/** What a machine that does much else may take for one call, in ms. */
const PATIENCE = 60_000;
/** So few faults at a time that none of their calls waits long for the others. */
const AT_A_TIME = 6;

function clientOf(echo: Echo, ears: Ears, options: ConnectOptions = {}): ResilientClient {
  const client = new ResilientClient(echo.url, { headers, metadata: { token: canary.metadata }, timeout: { connect: PATIENCE, call: PATIENCE }, retry: { retries: 1, minTimeout: 1, maxTimeout: 2 }, on: ears.on(), ...options });
  client.onerror = (error) => ears.hear('onerror', error);
  onTestFinished(() => client.close());
  return client;
}

const error = (code: number, message: string, id: Id | null = null, data?: unknown) => JSON.stringify({ jsonrpc: '2.0', id, error: { code, message, data } });

const NO_ANSWER = 'no answer in time';
/** Ways to fail a call that is on its way, each with all that it came with. */
const faults: Readonly<Record<string, Answer>> = {
  ...Object.fromEntries(
    lostDialects.filter((dialect) => dialect !== 'adopts').map((dialect): [string, Answer] => [
      `lost: ${dialect}`,
      (seen, { id }, res) => {
        const { status, body, contentType } = refusal(dialect, id);
        res.writeHead(status, contentType === null ? {} : { 'content-type': contentType }).end(`${body} ${echoOf(seen).join(' ')}`);
      },
    ]),
  ),
  ...Object.fromEntries(
    Object.keys(ways).flatMap((way) =>
      (way === 'plain' ? [400, 401, 403, 404, 408, 429, 500, 503] : [400, 503]).map((status): [string, Answer] => [
        `${status}, as ${way}`,
        (seen, _, res) => res.writeHead(status, { 'content-type': 'text/plain', 'retry-after': '0' }).end(`No: ${echoOf(seen, way).join(' ')}`),
      ]),
    ),
  ),
  'a JSON-RPC error under 400': (seen, { id }, res) => res.writeHead(400, JSON_TYPE).end(error(-32602, echoOf(seen).join(' '), id, { headers: echoOf(seen), nested: [{ [session]: bearer }] })),
  'a JSON-RPC error under 200': (seen, { id }, res) => res.writeHead(200, JSON_TYPE).end(error(-32000, echoOf(seen).join(' '), id, { headers: echoOf(seen) })),
  'a JSON-RPC error in a stream': (seen, { id }, res) => res.writeHead(200, { 'content-type': 'text/event-stream' }).end(`data: ${error(-32000, echoOf(seen).join(' '), id)}\n\n`),
  'versions that it speaks': (seen, { id }, res) => res.writeHead(400, JSON_TYPE).end(error(-32022, 'Unsupported', id, { supported: echoOf(seen) })),
  'a content type': (seen, _, res) => res.writeHead(200, { 'content-type': `${echoOf(seen, 'url').join('/')}` }).end('x'),
  'an encoding': (seen, _, res) => res.writeHead(200, { ...JSON_TYPE, 'content-encoding': echoOf(seen, 'url').join('/') }).end('x'),
  'a name of an event': (seen, _, res) => res.writeHead(200, { 'content-type': 'text/event-stream' }).end(`event: ${echoOf(seen).join(' ')}\ndata: ${echoOf(seen).join(' ')}\n\n`),
  'no JSON': (seen, _, res) => res.writeHead(200, JSON_TYPE).end(echoOf(seen).join(' ')),
  'strays in an array': (seen, _, res) => res.writeHead(200, JSON_TYPE).end(JSON.stringify([...echoOf(seen), { jsonrpc: '2.0', method: 'x' }])),
  'a redirect within the origin': (seen, _, res) => res.writeHead(302, { location: `/${echoOf(seen, 'url').join('/')}` }).end(echoOf(seen).join(' ')),
  'a redirect to elsewhere': (seen, _, res) => res.writeHead(307, { location: `http://localhost:1/${echoOf(seen, 'url').join('/')}?${session}` }).end(),
  'a reset': (_seen, _, res) => res.socket?.destroy(),
  'bytes that are no HTTP': (seen, _, res) => res.socket?.end(`HTTP/1.1 2oo ${echoOf(seen).join(' ')}\r\n${echoOf(seen, 'url').join('/')}\r\n\r\n`),
  'an answer cut short': (seen, _, res) => {
    res.writeHead(200, { ...JSON_TYPE, 'content-length': '100000' });
    res.write(echoOf(seen).join(' '), () => res.socket?.destroy());
  },
  [NO_ANSWER]: () => {},
};

const requesters = {
  'node:http': {},
  fetch: { fetch: globalThis.fetch },
  // As node-fetch and axios do: the URL in the text, the request in the error.
  'a fetch that tells all in its errors': {
    fetch: async (url: string | URL, init?: RequestInit) => {
      const response = await fetch(url, init).catch((cause: unknown) => {
        throw Object.assign(new Error(`request to ${String(url)} failed`, { cause }), { config: { url, ...init } });
      });
      if (response.status >= 500) throw Object.assign(new Error(`${response.status} from ${String(url)}`), { request: { init, url: String(url) } });
      return response;
    },
  },
} satisfies Record<string, ConnectOptions>;

test.each(Object.entries(requesters))('Whatever a server repeats, nothing of it is in what comes out, over %s', { timeout: 180_000 }, async (_name, options) => {
  const echo = await Echo.start();
  const ears = new Ears();
  const failed: string[] = [];
  await inParallel(Object.entries(faults), AT_A_TIME, async ([name, fault]) => {
    const own = await Echo.start();
    const client = clientOf(own, ears, { ...options, store: memoryStore(), history: { payloads: false } });
    await client.connect();
    own.fault = fault;
    // A call that ran out of time would not have heard what the server says.
    const timeout = name === NO_ANSWER ? 50 : PATIENCE;
    const results = await Promise.all([
      ears.failure(`${name}, a call`, client.callTool({ name: 'do', arguments: args }, undefined, { timeout })),
      ears.failure(`${name}, a safe call`, client.callTool({ name: 'look', arguments: args }, undefined, { timeout, safe: true })),
      ears.failure(`${name}, a durable call`, client.callTool({ name: 'last', arguments: args }, undefined, { timeout, callId: 'one' })),
      ears.failure(`${name}, a ping`, client.ping({ timeout })),
    ]);
    if (results.every((each) => each && (name === NO_ANSWER || !(each instanceof DeadlineError)))) failed.push(name);
    ears.ask(client);
    await client.close();
  });
  expect(failed.sort()).toEqual(Object.keys(faults).sort());

  // The same in place of the handshake.
  await inParallel(Object.entries(faults), AT_A_TIME, async ([name, fault]) => {
    const own = await Echo.start();
    own.server.script = (seen, res) => {
      res.setHeader('mcp-session-id', session);
      return fault(seen, (seen.body === '' ? { method: seen.method } : JSON.parse(seen.body)) as Rpc, res);
    };
    const client = clientOf(own, ears, { ...options, timeout: { connect: name === NO_ANSWER ? 50 : PATIENCE }, retry: false });
    await ears.failure(`${name}, connecting`, client.connect());
    ears.ask(client);
  });
  // And a server that is gone.
  const client = clientOf(echo, ears, { ...options, retry: false });
  await client.connect();
  await echo.server.stop();
  await ears.failure('nobody there', client.callTool({ name: 'do', arguments: args }));
  ears.ask(client);
  expect(ears.heard).toBeGreaterThan(Object.keys(faults).length * 5);
  expect(ears.leaks(canary)).toEqual([]);
});

test('A server that answers well repeats nothing to anybody but the caller', async () => {
  const echo = await Echo.start();
  const ears = new Ears();
  const client = clientOf(echo, ears);
  await client.connect();
  expect(JSON.stringify(await client.callTool({ name: 'do', arguments: args }))).toContain(canary.result);
  const [settled] = await client.batch([{ method: 'tools/call', params: { name: 'do', arguments: args } }]);
  expect(JSON.stringify(settled)).toContain(canary.result);
  ears.ask(client);
  ears.hear('the client in a log', client);
  await client.close();
  expect(ears.leaks(canary)).toEqual([]);
  // Only where it belongs: the headers of requests to this server, and never in a URL but for the caller's own query.
  for (const { path, headers: received } of echo.server.seen) {
    expect(path).toBe(echo.url.pathname + echo.url.search);
    expect(path).not.toMatch(new RegExp(`${canary.session}|${canary.bearer}|${canary.header}|${canary.argument}`));
    expect(received['x-api-key']).toBe(headers['x-api-key']);
  }
});

test('What goes elsewhere carries none of it: redirects, and servers under other origins', async () => {
  const other = await Echo.start();
  const ears = new Ears();
  for (const status of [301, 302, 303, 307, 308]) {
    const echo = await Echo.start();
    const client = clientOf(echo, ears);
    await client.connect();
    echo.fault = (_seen, _rpc, res) => res.writeHead(status, { location: other.url.href }).end();
    await ears.failure(`${status}`, client.callTool({ name: 'do', arguments: args }));
    await ears.failure(`${status}, GET`, client.ping());
    await client.close();
  }
  expect(other.server.seen).toEqual([]);
  expect(ears.leaks(canary)).toEqual([]);
});

// ── Stores ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A store whose errors repeat what it was to keep, in every way that other people's code has for that. */
function talkative(inner: Store, broken: () => boolean): Store {
  const tell = (what: string, key: string, value: string): Error => {
    const error = Object.assign(new Error(`cannot ${what} ${key}: ${value}`, { cause: new Error(`command failed: SET ${key} ${JSON.stringify(value)}`) }), { command: { name: what, args: [key, value] } });
    return error;
  };
  const last = new Map<string, string>();
  return altered(inner, {
    get: async (key) => {
      if (broken()) throw tell('get', key, last.get(key) ?? '');
      return inner.get(key);
    },
    set: async (key, value, expected) => {
      last.set(key, value);
      if (broken()) throw tell('set', key, value);
      return inner.set(key, value, expected);
    },
  });
}

test.each(['with', 'without'])('A store whose errors repeat what they were about, %s a listener for warnings', async (listener) => {
  const echo = await Echo.start();
  const ears = new Ears();
  let broken = false;
  const client = clientOf(echo, ears, { store: talkative(memoryStore(), () => broken), on: ears.on({ quiet: listener === 'without' }) });
  await client.connect();
  echo.fault = (_seen, { id, method }, res) => {
    if (method !== 'tools/call') return res.writeHead(405).end();
    // From here on the durable call's answer cannot be kept.
    broken = true;
    return res.writeHead(200, JSON_TYPE).end(JSON.stringify({ jsonrpc: '2.0', id, result: { content: [{ type: 'text', text: canary.result }] } }));
  };
  await client.callTool({ name: 'do', arguments: args }, undefined, { callId: 'one' });
  await ears.failure('update()', client.update(() => ({ data: { token: canary.metadata } })));
  await ears.failure('a durable call', client.callTool({ name: 'do', arguments: args }, undefined, { callId: 'two' }));
  ears.ask(client);
  await client.close();
  expect(ears.heard).toBeGreaterThan(5);
  // Events of the process come a turn later.
  await new Promise((resolve) => setImmediate(resolve));
  expect(ears.leaks(canary)).toEqual([]);
});

interface Kept {
  readonly store: Store;
  /** The names under which it keeps things. */
  names(): Promise<string[]>;
  /** All that it keeps. */
  contents(): Promise<string[]>;
  damage?(): Promise<void>;
}

const stores: Readonly<Record<string, () => Promise<Kept>>> = {
  memory: async () => kept(memoryStore()),
  files: async () => {
    const directory = await temporaryDirectory();
    const files = async (): Promise<string[]> => (await readdir(directory, { recursive: true, withFileTypes: true })).filter((each) => each.isFile()).map(({ parentPath, name }) => join(parentPath, name));
    return {
      store: fileStore(directory),
      names: files,
      contents: async () => Promise.all((await files()).map((file) => readFile(file, 'utf8'))),
    };
  },
  ...(inject('redisUrl') === ''
    ? {}
    : {
        Redis: async () => {
          const prefix = newPrefix();
          const client = new Redis(inject('redisUrl'));
          onTestFinished(async () => {
            await removeAll(prefix);
            client.disconnect();
          });
          const names = (): Promise<string[]> => client.keys(`*${prefix}*`);
          return {
            store: redisStore(client, { prefix }),
            names,
            contents: async () => Promise.all((await names()).map(async (name) => JSON.stringify(await client.get(name).catch(() => client.hgetall(name))))),
          };
        },
      }),
};

function kept(store: Store): Kept {
  const names = async (): Promise<string[]> => listed(store);
  return { store, names, contents: async () => Promise.all((await names()).map(async (key) => (await store.get(key))?.value ?? '')) };
}

const encrypted = Object.entries(stores).map(([name, create]): [string, () => Promise<Kept>] => [
  `encrypted ${name}`,
  async () => {
    const inner = await create();
    return { ...inner, store: encryptedStore(inner.store, { passphrase: canary.passphrase, iterations: 100_000 }) };
  },
]);

test.each([...Object.entries(stores), ...encrypted])('What is kept in %s has no secret in its name, and is told by no error', async (name, create) => {
  const echo = await Echo.start();
  const ears = new Ears();
  const { store, names, contents } = await create();
  onTestFinished(() => store.close());
  const client = clientOf(echo, ears, { store });
  await client.connect();
  await client.callTool({ name: 'do', arguments: args }, undefined, { callId: 'one' });
  await client.close();
  ears.hear('the store in a log', store);
  ears.hear('names', await names());
  const all = (await contents()).join('\n');
  if (name.startsWith('encrypted')) ears.hear('what an encrypted store keeps', all);
  // That it is there at all: what a client needs to go on.
  else expect(all).toContain(canary.session);
  for (const each of [canary.bearer, canary.header, canary.password, canary.query, canary.passphrase, canary.argument]) expect(all).not.toContain(each);
  expect(ears.leaks(canary)).toEqual([]);

  // Somebody writes into it: other text around the same secrets.
  for await (const key of store.keys('')) await store.set(key, `{"id":${JSON.stringify(session)},"broken`);
  const next = clientOf(echo, ears, { store });
  await next.connect();
  await ears.failure('a durable call', next.callTool({ name: 'do', arguments: args }, undefined, { callId: 'one' }));
  ears.ask(next);
  await next.close();
  expect(ears.leaks(canary)).toEqual([]);
});

test('An encrypted value that was tampered with, moved, or written with another key', async () => {
  const echo = await Echo.start();
  const ears = new Ears();
  const inner = memoryStore();
  const open = (passphrase: string): Store => encryptedStore(inner, { passphrase, iterations: 100_000 });
  const first = clientOf(echo, ears, { store: open(canary.passphrase) });
  await first.connect();
  await first.close();
  const [key = ''] = await listed(inner, 'session/');
  const value = (await inner.get(key))?.value ?? '';
  const other = `${canary.passphrase} of another`;
  for (const [store, stored] of [
    [open(other), value],
    [open(canary.passphrase), `${value.slice(0, -4)}AAA=`],
    [open(canary.passphrase), JSON.stringify({ id: session })],
    [inner, value],
  ] as const) {
    await inner.set(key, stored);
    if (store !== inner) expect(await ears.failure('get', store.get(key))).toBeInstanceOf(StoreError);
    const client = clientOf(echo, ears, { store });
    await client.connect();
    ears.ask(client);
    await client.close();
  }
  expect(ears.leaks({ ...canary, other })).toEqual([]);
});

// ── OAuth ───────────────────────────────────────────────────────────────────────────────────────────────────────────

const granted = { access: 'canaryaccesszq10', refresh: 'canaryrefreshzq11', client: 'canaryclientzq12', code: 'canarycodezq13', verifier: 'canaryverifierzq14' };

test.each([
  ['as OAuth has it', (body: string) => JSON.stringify({ error: 'invalid_grant', error_description: `no: ${body}` })],
  ['as text', (body: string) => `no: ${body}`],
])('An authorization server that repeats what it was asked with, %s', async (_name, say) => {
  const ears = new Ears();
  const echo = await Echo.start();
  echo.server.script = ({ path, body, headers: received }, res) => {
    const origin = echo.server.url.origin;
    if (path.includes('oauth-protected-resource')) return res.writeHead(200, JSON_TYPE).end(JSON.stringify({ resource: echo.server.url.href, authorization_servers: [origin] }));
    if (path.includes('oauth-authorization-server')) {
      const metadata = { issuer: origin, authorization_endpoint: `${origin}/authorize`, token_endpoint: `${origin}/token`, response_types_supported: ['code'], code_challenge_methods_supported: ['S256'], token_endpoint_auth_methods_supported: ['client_secret_post'] };
      return res.writeHead(200, JSON_TYPE).end(JSON.stringify(metadata));
    }
    if (path.startsWith('/token')) return res.writeHead(400, JSON_TYPE).end(say(`${decodeURIComponent(body)} ${body}`));
    return res.writeHead(401, { 'www-authenticate': `Bearer error="invalid_token", error_description="${String(received['authorization'])}"` }).end(String(received['authorization']));
  };
  const asked: URL[] = [];
  const provider: OAuthClientProvider = {
    redirectUrl: 'http://localhost:1/callback',
    clientMetadata: { redirect_uris: ['http://localhost:1/callback'], token_endpoint_auth_method: 'client_secret_post' },
    clientInformation: () => ({ client_id: 'me', client_secret: granted.client }),
    tokens: () => ({ access_token: granted.access, refresh_token: granted.refresh, token_type: 'Bearer' }),
    saveTokens: () => {},
    redirectToAuthorization: (url) => void asked.push(url),
    saveCodeVerifier: () => {},
    codeVerifier: () => granted.verifier,
  };
  const client = new ResilientClient(echo.server.url, { authProvider: provider, principal: 'me', retry: false, on: ears.on() });
  client.onerror = (error) => ears.hear('onerror', error);
  expect(await ears.failure('connect()', client.connect())).toBeDefined();
  expect(await ears.failure('finishAuth()', client.finishAuth(granted.code))).toBeDefined();
  ears.ask(client);
  await client.close();
  expect(echo.server.seen.map(({ body }) => body).join()).toContain(granted.refresh);
  for (const url of asked) expect(url.href).not.toMatch(/canary/);
  for (const { path } of echo.server.seen) expect(path).not.toMatch(/canary/);
  expect(ears.leaks({ ...canary, ...granted })).toEqual([]);
});
