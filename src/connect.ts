import { ResilientClient } from './client.ts';
import type { ConnectOptions, Target } from './options.ts';

/**
 * Connects to an MCP server, or takes up the session that a store holds, without a handshake.
 *
 * ```ts
 * await using client = await connect('https://example.com/mcp', { store: fileStore('.sessions') });
 * const result = await client.callTool({ name: 'search', arguments: { query: 'reprise' } });
 * ```
 *
 * @param target - the server's URL, a command that starts it (Node only), or a function that makes an SDK transport
 * @throws TypeError or RangeError for a target or an option that makes no sense
 * @throws DeadlineError when the server cannot be reached, or does not answer, within `timeout.connect` (15 s); its cause says why
 * @throws UnauthorizedError (of the SDK) when the user has to authorize first: make a {@link ResilientClient} yourself, call its
 *   `finishAuth` with the code, and `connect()` it again
 */
export async function connect(target: Target, options: ConnectOptions = {}): Promise<ResilientClient> {
  const client = new ResilientClient(target, options);
  await client.connect();
  return client;
}
