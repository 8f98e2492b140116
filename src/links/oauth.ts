import type { OAuthClientProvider } from '@modelcontextprotocol/sdk/client/auth.js';
import { redactedError } from '../redact.ts';
import { checkHeader } from './headers.ts';
import type { FetchLike } from './requester.fetch.ts';
import type { HttpReply } from './requester.ts';

/** The token that a request carries, and when it was read: after how many flows. */
export interface Grant {
  readonly token: string | undefined;
  readonly ended: number;
}

/** What a server asks for: a (new) token, by a 401, or a token of more scope, by a 403. */
export type Challenge = 'login' | 'scope';

interface Flow {
  readonly kind: Challenge | 'code';
  readonly promise: Promise<void>;
  running: boolean;
}

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
  /** The scope that the present token was asked for with, for authorization servers that do not repeat it. */
  #acquired: string | undefined;
  /** The flow that runs, or the last one. */
  #flow: Flow | undefined;
  #ended = 0;
  /** The user was sent to authorize and has not come back; `token` is what was there then. */
  #asked: { readonly token: string | undefined; readonly error: Error } | undefined;

  constructor(provider: OAuthClientProvider, serverUrl: URL, fetchFn?: FetchLike) {
    this.#provider = provider;
    this.#serverUrl = serverUrl;
    this.#fetchFn = fetchFn;
  }

  /** What to send a request with now. */
  async grant(): Promise<Grant> {
    const ended = this.#ended;
    const token = await this.#token();
    if (token !== undefined) checkHeader('authorization', token, 'the token of the authProvider');
    return { ended, token };
  }

  /**
   * Answers a challenge. Resolves when the request is worth sending again, `authorized` by a flow or with a token that somebody
   * else has `changed` meanwhile, and when it is `futile`. Rejects with the SDK's `UnauthorizedError` when the user has to
   * authorize first.
   *
   * @param grant - what the refused request was sent with
   * @param background - nobody waits for the request: while the user is being asked, it does not ask once more
   */
  async answer(kind: Challenge, reply: HttpReply, grant: Grant, background: boolean): Promise<'authorized' | 'changed' | 'futile'> {
    for (;;) {
      const token = await this.#token();
      const flow = this.#flow;
      // Requests that went out together are challenged together: one flow, and one question to the user, is for all of them.
      if (flow?.kind === kind && (flow.running || this.#ended > grant.ended)) {
        await flow.promise;
        return 'authorized';
      }
      if (token !== undefined && token !== grant.token) return 'changed';
      if (flow?.running) {
        await flow.promise.catch(() => {});
        continue;
      }
      if (background && this.#asked && this.#asked.token === token) throw this.#asked.error;
      const { extractWWWAuthenticateParams } = await import('@modelcontextprotocol/sdk/client/auth.js');
      const challenge = extractWWWAuthenticateParams(asResponse(reply));
      const granted = (await this.#provider.tokens())?.scope ?? this.#acquired;
      // Whoever is asked again and again for what he has already granted is in a loop, even if it takes a person to turn it.
      if (kind === 'scope' && granted !== undefined && challenge.scope && isWithin(challenge.scope, granted)) return 'futile';
      // While that was looked up, another request may have begun a flow.
      if (this.#flow !== flow) continue;
      if (kind === 'login') {
        // It says afresh what is wanted.
        this.#resourceMetadataUrl = challenge.resourceMetadataUrl;
        this.#scope = challenge.scope;
      } else {
        this.#resourceMetadataUrl = challenge.resourceMetadataUrl ?? this.#resourceMetadataUrl;
        // Whoever asks for the missing scope alone gets a token that lacks what the old one had.
        if (challenge.scope) this.#scope = [...new Set(`${granted ?? ''} ${challenge.scope}`.split(' ').filter(Boolean))].join(' ');
      }
      await this.#start(kind, () => this.#run(kind === 'login' ? this.#provider : withoutRefresh(this.#provider)));
      return 'authorized';
    }
  }

  /** Exchanges the code that the user came back with for tokens. */
  async finish(authorizationCode: string): Promise<void> {
    while (this.#flow?.running) await this.#flow.promise.catch(() => {});
    await this.#start('code', () => this.#run(this.#provider, authorizationCode));
  }

  async #token(): Promise<string | undefined> {
    return (await this.#provider.tokens())?.access_token;
  }

  /** What the provider has that no error may repeat. */
  async #secrets(): Promise<string[]> {
    const provider = this.#provider;
    const ask = async <T>(question: () => T | Promise<T>): Promise<T | undefined> => {
      try {
        return await question();
      } catch {
        return undefined;
      }
    };
    const tokens = await ask(() => provider.tokens());
    const client = await ask(() => provider.clientInformation());
    const verifier = await ask(() => provider.codeVerifier());
    return [verifier, tokens?.access_token, tokens?.refresh_token, tokens?.id_token, client?.client_secret].filter((secret) => secret !== undefined);
  }

  #start(kind: Flow['kind'], run: () => Promise<void>): Promise<void> {
    const flow: Flow = {
      kind,
      running: true,
      promise: run().finally(() => {
        flow.running = false;
        this.#ended++;
      }),
    };
    this.#flow = flow;
    return flow.promise;
  }

  async #run(provider: OAuthClientProvider, authorizationCode?: string): Promise<void> {
    const { auth, UnauthorizedError } = await import('@modelcontextprotocol/sdk/client/auth.js');
    // Looked at before, too: what the server does not accept, the SDK has the provider forget.
    const before = [authorizationCode ?? '', ...(await this.#secrets())];
    const result = await auth(provider, {
      serverUrl: this.#serverUrl,
      ...(authorizationCode === undefined ? {} : { authorizationCode }),
      ...(this.#resourceMetadataUrl ? { resourceMetadataUrl: this.#resourceMetadataUrl } : {}),
      ...(this.#scope === undefined ? {} : { scope: this.#scope }),
      ...(this.#fetchFn ? { fetchFn: this.#fetchFn } : {}),
    }).catch(async (error: unknown) => {
      // The SDK repeats what an authorization server says, all of it, and that may repeat what it was asked with.
      throw error instanceof Error ? redactedError(error, [...before, ...(await this.#secrets())]) : error;
    });
    if (result === 'AUTHORIZED') {
      this.#asked = undefined;
      this.#acquired = this.#scope;
      return;
    }
    const error = new UnauthorizedError(authorizationCode === undefined ? 'Unauthorized' : 'Failed to authorize');
    this.#asked = { token: await this.#token(), error };
    throw error;
  }
}

/** What a refusal asks for, if it is a challenge that a token can answer. */
export function challengeOf(reply: HttpReply): Challenge | undefined {
  if (reply.status === 401) return 'login';
  const asksForMore = reply.status === 403 && /\berror="?insufficient_scope\b/i.test(reply.header('www-authenticate') ?? '');
  return asksForMore ? 'scope' : undefined;
}

function isWithin(wanted: string, granted: string): boolean {
  const has = new Set(granted.split(' '));
  return wanted.split(' ').every((scope) => has.has(scope));
}

/**
 * The provider as `auth()` must see it for a step-up: a refresh never gives more scope than was granted (RFC 6749 §6), and
 * `auth()` does nothing else where it sees a refresh token.
 */
function withoutRefresh(provider: OAuthClientProvider): OAuthClientProvider {
  return new Proxy({} as OAuthClientProvider, {
    get(_, name) {
      if (name === 'tokens') {
        return async () => {
          const tokens = await provider.tokens();
          if (!tokens) return undefined;
          const { refresh_token: _refresh, ...rest } = tokens;
          return rest;
        };
      }
      const value: unknown = Reflect.get(provider, name);
      return typeof value === 'function' ? value.bind(provider) : value;
    },
  });
}

function asResponse(reply: HttpReply): Response {
  const challenge = reply.header('www-authenticate');
  return new Response(null, { status: reply.status, ...(challenge === undefined ? {} : { headers: { 'www-authenticate': challenge } }) });
}
