import type { OAuthClientProvider } from '@modelcontextprotocol/sdk/client/auth.js';
import { platformRequester } from '#platform';
import type { HeadersSource } from './headers.ts';
import { HttpLink } from './http-link.ts';
import type { Connector } from './link.ts';
import { Authorizer } from './oauth.ts';
import { type FetchLike, fetchRequester } from './requester.fetch.ts';
import { sseConnector } from './sse-connector.ts';

export interface HttpOptions {
  /** OAuth, as in the SDK. */
  readonly authProvider?: OAuthClientProvider | undefined;
  /** Headers for every request: an object, or a function (async if need be) that is asked before each request. */
  readonly headers?: HeadersSource | undefined;
  /** Makes the requests instead of node:http (on Node) or the global fetch (elsewhere). */
  readonly fetch?: FetchLike | undefined;
  /** Further settings of fetch (`credentials`, `mode`, …). Requests go through fetch when any is given. Headers belong into `headers`. */
  readonly requestInit?: Omit<RequestInit, 'headers' | 'method' | 'body' | 'signal' | 'redirect'> | undefined;
  /** The most characters that one answer or one event of the server may have. */
  readonly responseLimit: number;
}

/** Makes links to a Streamable HTTP endpoint. */
export function httpConnector(url: URL, options: HttpOptions): Connector {
  const { authProvider, headers, fetch, requestInit } = options;
  const requester = fetch || requestInit ? fetchRequester(fetch, requestInit) : platformRequester();
  const authorizer = authProvider && new Authorizer(authProvider, url, requestInit ? withInit(fetch, requestInit) : fetch);
  const endpoint = { url, requester, headers, authorizer, responseLimit: options.responseLimit };
  return {
    address: { url: url.origin + url.pathname, query: url.search },
    traffic: requester.traffic,
    connect: () => new HttpLink(endpoint),
    warm: (method) => requester.warm?.(method, url),
    // The spec's way to tell an old server (2025-11-25, Transports, Backwards Compatibility). Any other status, 401 above all, is the
    // server's true word and must not be hidden behind a second attempt.
    fallback: ({ status }) => (status === 400 || status === 404 || status === 405 ? sseConnector(url, options) : undefined),
    close: () => requester.close(),
    ...(authorizer ? { finishAuth: (code: string) => authorizer.finish(code) } : {}),
  };
}

/** OAuth's requests go by the same settings of fetch, but without our headers: those are for the MCP server only. */
function withInit(given: FetchLike | undefined, requestInit: NonNullable<HttpOptions['requestInit']>): FetchLike {
  return (target, init) => (given ?? fetch)(target, { ...requestInit, ...init });
}
