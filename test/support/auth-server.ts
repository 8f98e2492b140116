import type { OAuthClientProvider } from '@modelcontextprotocol/sdk/client/auth.js';
import type { OAuthClientInformationMixed, OAuthClientMetadata, OAuthTokens } from '@modelcontextprotocol/sdk/shared/auth.js';
import type { AuthControls, AuthCounters, AuthEntry, AuthFault, AuthServerMessage, AuthServerOptions } from './auth-contract.ts';
import { Child } from './child.ts';

/** Starts an OAuth authorization server, and an MCP server that it protects, in a process of their own. */
export async function startAuthServer(): Promise<AuthServer> {
  const server = new AuthServer();
  await server.start();
  return server;
}

export class AuthServer {
  readonly #pending = new Map<number, (result: unknown) => void>();
  #calls = 0;
  #port = 0;
  #child: Child | undefined;

  get url(): URL {
    return new URL(`http://127.0.0.1:${this.#port}/mcp`);
  }

  /** Makes it as new, for the next test. */
  reset = (options: AuthServerOptions = {}) => this.#call('reset', options) as Promise<void>;
  counters = () => this.#call('counters') as Promise<AuthCounters>;
  /** The requests to the MCP server. */
  requests = () => this.#call('requests') as Promise<AuthEntry[]>;
  clearRequests = () => this.#call('clearRequests') as Promise<void>;
  revokeAccess = () => this.#call('revokeAccess') as Promise<void>;
  revokeRefresh = () => this.#call('revokeRefresh') as Promise<void>;
  fault = (fault: AuthFault | null) => this.#call('fault', fault) as Promise<void>;
  closeStreams = () => this.#call('closeStreams') as Promise<void>;

  async start(): Promise<void> {
    this.#port = await new Promise<number>((resolve, reject) => {
      const onMessage = (message: AuthServerMessage) => {
        if (message.type === 'listening') resolve(message.port);
        else this.#pending.get(message.id)?.(message.result);
      };
      const child = new Child(new URL('./auth-server-process.ts', import.meta.url), { onMessage });
      this.#child = child;
      void child.obituary().then(reject);
    });
  }

  async stop(): Promise<void> {
    await this.#child?.kill();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  async #call(control: keyof AuthControls, ...args: unknown[]): Promise<unknown> {
    const child = this.#child;
    if (!child?.alive) throw new Error(`The authorization server is not running: ${control}()`);
    const id = ++this.#calls;
    const result = new Promise((resolve) => this.#pending.set(id, resolve));
    child.send({ id, control, args });
    return Promise.race([result, child.obituary().then((error) => Promise.reject(error))]);
  }
}

/** An OAuth client that keeps all in memory, and whose user does as the test says. */
export class TestProvider implements OAuthClientProvider {
  readonly redirectUrl = 'http://localhost:1/callback';
  readonly clientMetadata: OAuthClientMetadata = {
    client_name: 'test',
    redirect_uris: [this.redirectUrl],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
  };
  /** Where the user was sent, each time. */
  readonly redirects: URL[] = [];
  /** All that no log may ever show. */
  readonly secrets: string[] = [];
  #client: OAuthClientInformationMixed | undefined;
  #tokens: OAuthTokens | undefined;
  #verifier = '';

  clientInformation(): OAuthClientInformationMixed | undefined {
    return this.#client;
  }

  saveClientInformation(client: OAuthClientInformationMixed): void {
    this.#client = client;
  }

  tokens(): OAuthTokens | undefined {
    return this.#tokens;
  }

  saveTokens(tokens: OAuthTokens): void {
    this.#tokens = tokens;
    this.secrets.push(tokens.access_token, tokens.refresh_token ?? tokens.access_token);
  }

  redirectToAuthorization(url: URL): void {
    this.redirects.push(url);
  }

  saveCodeVerifier(verifier: string): void {
    this.#verifier = verifier;
    this.secrets.push(verifier);
  }

  codeVerifier(): string {
    return this.#verifier;
  }

  invalidateCredentials(what: 'all' | 'client' | 'tokens' | 'verifier' | 'discovery'): void {
    if (what === 'all' || what === 'client') this.#client = undefined;
    if (what === 'all' || what === 'tokens') this.#tokens = undefined;
  }

  /** The user follows the last redirect and says yes; returns the code that the browser comes back with. */
  async consent(): Promise<string> {
    const url = this.redirects.at(-1);
    if (!url) throw new Error('The user was not asked');
    const response = await fetch(url, { redirect: 'manual' });
    const code = new URL(response.headers.get('location') ?? '').searchParams.get('code');
    if (!code) throw new Error(`No code: ${response.status} ${await response.text()}`);
    this.secrets.push(code);
    return code;
  }
}
