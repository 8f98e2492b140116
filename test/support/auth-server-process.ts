import { createHash, randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { json, text } from 'node:stream/consumers';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import type { AuthControlRequest, AuthControls, AuthCounters, AuthEntry, AuthFault, AuthServerMessage, AuthServerOptions } from './auth-contract.ts';
import { listen } from './ports.ts';
import { createFixtureServer } from './tools.ts';
import { rpcEntries } from './wire-journal.ts';

const defaults: Required<AuthServerOptions> = { lifetime: 3600, scopeOf: {}, namesScope: true };
let options = defaults;
/** What everybody gets who asks for nothing else, and what every request needs. */
const BASE_SCOPE = 'mcp';

const tell = (message: AuthServerMessage) => process.send?.(message);

// ── The authorization server ────────────────────────────────────────────────────────────────────────────────────────

interface Grant {
  client: string;
  scope: string;
}

const clients = new Set<string>();
const codes = new Map<string, Grant & { challenge: string; redirectUri: string; resource: string | null }>();
const accessTokens = new Map<string, Grant & { expiresAt: number }>();
const refreshTokens = new Map<string, Grant>();
const noCounts: AuthCounters = { registrations: 0, authorizations: 0, tokenRequests: 0, refreshes: 0 };
let counters = { ...noCounts };

const origin = () => `http://127.0.0.1:${port}`;
const resource = () => `${origin()}/mcp`;

function authorize(query: URLSearchParams, res: ServerResponse): void {
  const client = query.get('client_id') ?? '';
  const redirectUri = query.get('redirect_uri') ?? '';
  const challenge = query.get('code_challenge') ?? '';
  if (!clients.has(client) || query.get('code_challenge_method') !== 'S256') return oauthError(res, 'invalid_request');
  counters.authorizations++;
  const code = `code-${randomUUID()}`;
  codes.set(code, { client, scope: query.get('scope') ?? BASE_SCOPE, challenge, redirectUri, resource: query.get('resource') });
  const back = new URL(redirectUri);
  back.searchParams.set('code', code);
  const state = query.get('state');
  if (state !== null) back.searchParams.set('state', state);
  res.writeHead(302, { location: back.href }).end();
}

function token(form: URLSearchParams, res: ServerResponse): void {
  counters.tokenRequests++;
  const client = form.get('client_id') ?? '';
  if (!clients.has(client)) return oauthError(res, 'invalid_client');
  if (form.get('grant_type') === 'refresh_token') {
    counters.refreshes++;
    const old = form.get('refresh_token') ?? '';
    const grant = refreshTokens.get(old);
    // Each works once: whoever refreshes twice with the same one is found out.
    refreshTokens.delete(old);
    return grant?.client === client ? issue(grant, res) : oauthError(res, 'invalid_grant');
  }
  const code = form.get('code') ?? '';
  const granted = codes.get(code);
  codes.delete(code);
  const proof = createHash('sha256')
    .update(form.get('code_verifier') ?? '')
    .digest('base64url');
  const valid = granted?.client === client && granted.challenge === proof && granted.redirectUri === form.get('redirect_uri');
  if (!granted || !valid || granted.resource !== form.get('resource')) return oauthError(res, 'invalid_grant');
  issue({ client, scope: granted.scope }, res);
}

function issue(grant: Grant, res: ServerResponse): void {
  const access = `access-${randomUUID()}`;
  const refresh = `refresh-${randomUUID()}`;
  accessTokens.set(access, { ...grant, expiresAt: Date.now() + options.lifetime * 1000 });
  refreshTokens.set(refresh, grant);
  answer(res, 200, { access_token: access, token_type: 'Bearer', expires_in: options.lifetime, refresh_token: refresh, ...(options.namesScope && { scope: grant.scope }) });
}

function oauthError(res: ServerResponse, error: string): void {
  answer(res, error === 'invalid_client' ? 401 : 400, { error, error_description: 'as scripted' });
}

function answer(res: ServerResponse, status: number, body: unknown): void {
  res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

// ── The protected resource ──────────────────────────────────────────────────────────────────────────────────────────

const sessions = new Map<string, StreamableHTTPServerTransport>();
let journal: AuthEntry[] = [];
let fault: AuthFault | null = null;

async function mcp(req: IncomingMessage, res: ServerResponse): Promise<void> {
  const body = req.method === 'POST' ? await json(req) : undefined;
  const rpc = rpcEntries(body);
  const sessionId = req.headers['mcp-session-id'] as string | undefined;
  const entry: AuthEntry = {
    http: req.method as AuthEntry['http'],
    ...(req.headers.authorization !== undefined && { authorization: req.headers.authorization }),
    ...(sessionId !== undefined && { sessionId }),
    headers: Object.fromEntries(Object.entries(req.headers).map(([name, value]) => [name, String(value)])),
    methods: rpc.map(({ method, toolName }) => toolName ?? method ?? ''),
  };
  journal.push(entry);
  res.once('finish', () => (entry.status = res.statusCode));

  const fits = fault?.only === undefined || fault.only === req.method || entry.methods.includes(fault.only);
  if (fault && fits) return challenge(res, fault.status, fault.status === 401 ? 'invalid_token' : 'insufficient_scope', fault.scope, entry);
  const grant = accessTokens.get(/^Bearer (.+)$/.exec(req.headers.authorization ?? '')?.[1] ?? '');
  if (!grant || grant.expiresAt <= Date.now()) return challenge(res, 401, req.headers.authorization === undefined ? undefined : 'invalid_token', undefined, entry);
  const wanted = entry.methods.map((method) => options.scopeOf[method]).find((scope) => scope !== undefined);
  if (wanted !== undefined && !grant.scope.split(' ').includes(wanted)) return challenge(res, 403, 'insufficient_scope', wanted, entry);

  const transport = sessionId === undefined ? await openSession() : sessions.get(sessionId);
  if (transport) await transport.handleRequest(req, res, body);
  else answer(res, 404, { jsonrpc: '2.0', error: { code: -32001, message: 'Session not found' }, id: null });
}

/** A refusal that repeats all it was sent: what a careless server or proxy does. */
function challenge(res: ServerResponse, status: number, error: string | undefined, scope: string | undefined, { authorization, sessionId }: AuthEntry): void {
  const params = { resource_metadata: `${origin()}/.well-known/oauth-protected-resource/mcp`, error, scope };
  const written = Object.entries(params).flatMap(([name, value]) => (value === undefined ? [] : [`${name}="${value}"`]));
  res.writeHead(status, { 'www-authenticate': `Bearer ${written.join(', ')}`, 'content-type': 'text/plain' });
  res.end(`refused with ${authorization ?? 'no token'} on ${sessionId ?? 'no id'}`);
}

async function openSession(): Promise<StreamableHTTPServerTransport> {
  const fixture = createFixtureServer({ journal() {} });
  const transport: StreamableHTTPServerTransport = new StreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    onsessioninitialized: (id) => void sessions.set(id, transport),
  });
  fixture.mcp.server.onclose = () => transport.sessionId && sessions.delete(transport.sessionId);
  await fixture.mcp.connect(transport as Transport);
  return transport;
}

// ── Requests and controls ───────────────────────────────────────────────────────────────────────────────────────────

async function handle(req: IncomingMessage, res: ServerResponse): Promise<void> {
  const { pathname, searchParams } = new URL(req.url ?? '/', origin());
  switch (`${req.method} ${pathname}`) {
    case 'GET /.well-known/oauth-protected-resource/mcp':
      return answer(res, 200, { resource: resource(), authorization_servers: [origin()], scopes_supported: [BASE_SCOPE] });
    case 'GET /.well-known/oauth-authorization-server':
      return answer(res, 200, {
        issuer: origin(),
        authorization_endpoint: `${origin()}/authorize`,
        token_endpoint: `${origin()}/token`,
        registration_endpoint: `${origin()}/register`,
        response_types_supported: ['code'],
        grant_types_supported: ['authorization_code', 'refresh_token'],
        code_challenge_methods_supported: ['S256'],
        token_endpoint_auth_methods_supported: ['none'],
      });
    case 'POST /register': {
      counters.registrations++;
      const client = `client-${randomUUID()}`;
      clients.add(client);
      return answer(res, 201, { ...((await json(req)) as object), client_id: client });
    }
    case 'GET /authorize':
      return authorize(searchParams, res);
    case 'POST /token':
      return token(new URLSearchParams(await text(req)), res);
    default:
      return pathname === '/mcp' ? mcp(req, res) : void res.writeHead(404).end();
  }
}

const controls: AuthControls = {
  async reset(next) {
    options = { ...defaults, ...next };
    await Promise.all([...sessions.values()].map((transport) => transport.close()));
    for (const memory of [clients, codes, accessTokens, refreshTokens, sessions]) memory.clear();
    counters = { ...noCounts };
    journal = [];
    fault = null;
  },
  counters: () => counters,
  requests: () => journal,
  clearRequests() {
    journal = [];
  },
  revokeAccess: () => accessTokens.clear(),
  revokeRefresh: () => refreshTokens.clear(),
  fault(next) {
    fault = next;
  },
  async closeStreams() {
    for (const transport of sessions.values()) transport.closeStandaloneSSEStream();
  },
};

process.on('message', async ({ id, control, args }: AuthControlRequest) => {
  const run = controls[control] as (...args: unknown[]) => unknown;
  tell({ type: 'result', id, result: await run(...args) });
});
process.on('disconnect', () => process.exit());

const server = createServer((req, res) => {
  handle(req, res).catch((error: unknown) => {
    console.error(error);
    res.destroy();
  });
});
const port = await listen(server);
tell({ type: 'listening', port });
