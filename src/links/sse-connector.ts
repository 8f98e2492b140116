import type { SSEClientTransportOptions } from '@modelcontextprotocol/sdk/client/sse.js';
import { readHeaders } from './headers.ts';
import type { HttpOptions } from './http-connector.ts';
import { LazyTransport } from './lazy-transport.ts';
import type { Connector } from './link.ts';
import { SdkLink } from './sdk-link.ts';

/** Makes links to a server of 2024-11-05 by the SDK's own SSE transport, which is loaded only when such a server is met. */
export function sseConnector(url: URL, options: HttpOptions): Connector {
  const load = async () => {
    const { SSEClientTransport } = await import('@modelcontextprotocol/sdk/client/sse.js');
    return new SSEClientTransport(url, sdkOptions(options));
  };
  return {
    address: undefined,
    // Its EventSource reconnects by itself, to what the server takes for a new and uninitialized session: the first error ends it.
    connect: () => new SdkLink(new LazyTransport(load), { isFatal: (error) => error.message.startsWith('SSE error') }),
    close() {},
  };
}

function sdkOptions({ authProvider, headers, fetch: given, requestInit }: HttpOptions): SSEClientTransportOptions {
  return {
    ...(authProvider ? { authProvider } : {}),
    ...(requestInit ? { requestInit } : {}),
    fetch: async (url, init) => {
      const all = new Headers(init?.headers);
      for (const [name, value] of Object.entries(await readHeaders(headers))) all.set(name, value);
      // The SDK follows redirects within the origin by itself; nothing else may, with our headers.
      return (given ?? fetch)(url, { ...init, headers: all, redirect: 'manual' });
    },
  };
}
