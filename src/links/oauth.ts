import type { OAuthClientProvider } from '@modelcontextprotocol/sdk/client/auth.js';
import type { FetchLike } from './requester.fetch.ts';
import type { HttpReply } from './requester.ts';

/**
 * OAuth as the SDK does it, by the SDK's own `auth()`. What is added here: one flow at a time for all calls of a client, a look at
 * whether another call (or process) has already renewed the token, and no loops.
 *
 * The SDK's helper is loaded when the first challenge comes, so that a program without OAuth never pays for it.
 */
export class Authorizer {
  readonly #provider: OAuthClientProvider;
  readonly #serverUrl: URL;
  readonly #fetchFn: FetchLike | undefined;
  #resourceMetadataUrl: URL | undefined;
  #scope: string | undefined;
  #flow: Promise<void> | undefined;

  constructor(provider: OAuthClientProvider, serverUrl: URL, fetchFn?: FetchLike) {
    this.#provider = provider;
    this.#serverUrl = serverUrl;
    this.#fetchFn = fetchFn;
  }

  /** The access token to send now, if there is one. */
  async token(): Promise<string | undefined> {
    return (await this.#provider.tokens())?.access_token;
  }

  /**
   * Answers a 401, or a 403 that asks for more scope. Resolves when the request is worth sending again with the token of
   * {@link token}; rejects with the SDK's `UnauthorizedError` when the user has to authorize first.
   *
   * @param usedToken - the token that the refused request carried
   */
  async answer(reply: HttpReply, usedToken: string | undefined): Promise<void> {
    const stepUp = reply.status === 403;
    if (!stepUp) {
      if (this.#flow) return this.#flow;
      const current = await this.token();
      if (current !== undefined && current !== usedToken) return;
    }
    this.#flow ??= this.#authorize(reply).finally(() => (this.#flow = undefined));
    return this.#flow;
  }

  async #authorize(reply: HttpReply): Promise<void> {
    const { extractWWWAuthenticateParams } = await import('@modelcontextprotocol/sdk/client/auth.js');
    const challenge = extractWWWAuthenticateParams(asResponse(reply));
    // A 401 says afresh what is wanted; a step-up adds to what is known.
    if (reply.status === 401 || challenge.resourceMetadataUrl) this.#resourceMetadataUrl = challenge.resourceMetadataUrl;
    if (reply.status === 401 || challenge.scope) this.#scope = challenge.scope;
    await this.#run();
  }

  /** Exchanges the code that the user came back with for tokens. */
  async finish(authorizationCode: string): Promise<void> {
    await this.#run(authorizationCode);
  }

  async #run(authorizationCode?: string): Promise<void> {
    const { auth, UnauthorizedError } = await import('@modelcontextprotocol/sdk/client/auth.js');
    const result = await auth(this.#provider, {
      serverUrl: this.#serverUrl,
      ...(authorizationCode === undefined ? {} : { authorizationCode }),
      ...(this.#resourceMetadataUrl ? { resourceMetadataUrl: this.#resourceMetadataUrl } : {}),
      ...(this.#scope === undefined ? {} : { scope: this.#scope }),
      ...(this.#fetchFn ? { fetchFn: this.#fetchFn } : {}),
    });
    if (result !== 'AUTHORIZED') {
      throw new UnauthorizedError(authorizationCode === undefined ? 'Unauthorized' : 'Failed to authorize');
    }
  }
}

/** Whether a 403 asks for more scope rather than saying no. */
export function asksForMoreScope(reply: HttpReply): boolean {
  return reply.status === 403 && /\berror="?insufficient_scope\b/i.test(reply.header('www-authenticate') ?? '');
}

function asResponse(reply: HttpReply): Response {
  const challenge = reply.header('www-authenticate');
  return new Response(null, { status: reply.status, ...(challenge === undefined ? {} : { headers: { 'www-authenticate': challenge } }) });
}
