import { LazyTransport } from './lazy-transport.ts';
import type { Connector } from './link.ts';
import { nodeRequester } from './requester.node.ts';
import type { Requester } from './requester.ts';
import { SdkLink } from './sdk-link.ts';
import type { CommandTarget } from './target.ts';

/** How much of a process's stderr is kept for the error that tells of its end. */
const LAST_WORDS = 2000;

export function platformRequester(): Requester {
  return nodeRequester();
}

/** Node's channels end with the process, and here it is processes that share a session. */
export function openChannel(_name: string): BroadcastChannel | undefined {
  return undefined;
}

/** What to look at when a server cannot be reached, by what the error says. */
const HINTS: readonly (readonly [sign: RegExp, hint: string])[] = [
  [/^spawn .*ENOENT/, ' Is the command installed and on PATH, and is there such a cwd?'],
  [/EPROTO|WRONG_VERSION|PACKET_LENGTH/, ' If that port speaks plain HTTP, the URL must begin with http://.'],
  [/ECONNREFUSED|ENOTFOUND|ETIMEDOUT|EHOST|ENET|EAI_/, ' Is the server running, and are host and port right?'],
];

/** Ends a message with it, if there is anything to say. `fetch` says no more than that it failed, but its error has a cause. */
export function hintOf({ message, cause }: Error): string {
  const said = `${message} ${String((cause as { code?: unknown } | undefined)?.code)}`;
  return HINTS.find(([sign]) => sign.test(said))?.[1] ?? '';
}

/** Makes links to a server that is started as a child process and spoken to over its standard input and output. */
export function commandConnector({ command, args, env, cwd }: CommandTarget): Connector {
  return {
    address: undefined,
    connect: () => {
      let words = '';
      const load = async () => {
        const { StdioClientTransport } = await import('@modelcontextprotocol/sdk/client/stdio.js');
        const transport = new StdioClientTransport({
          command,
          stderr: 'pipe',
          ...(args ? { args: [...args] } : {}),
          ...(env ? { env: { ...env } } : {}),
          ...(cwd === undefined ? {} : { cwd }),
        });
        transport.stderr?.on('data', (chunk: Buffer) => {
          process.stderr.write(chunk);
          words = (words + chunk.toString('utf8')).slice(-LAST_WORDS);
        });
        return transport;
      };
      return new SdkLink(new LazyTransport(load), { lastWords: () => words.trim() || undefined });
    },
    close() {},
  };
}
