import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { Child } from './child.ts';
import { freePort } from './ports.ts';

const require = createRequire(import.meta.url);
const root = dirname(require.resolve('@modelcontextprotocol/server-everything/package.json'));
const main = join(root, 'dist/index.js');

// The public server does not watch its parent; this makes it end with the test run even if that is killed.
const endWithParent = 'data:text/javascript,process.on("disconnect",()=>process.exit())';

/** The public reference server over Streamable HTTP. */
export const startEverything = () => start('streamableHttp', '/mcp', 'listening on port');
/** The same over the old HTTP+SSE transport. */
export const startEverythingSse = () => start('sse', '/sse', 'running on port');
/** The same over stdio. */
export const everythingStdio = { command: process.execPath, args: [main, 'stdio'] };

async function start(transport: string, path: string, greeting: string): Promise<EverythingProcess> {
  const server = new EverythingProcess(transport, new URL(`http://127.0.0.1:${await freePort()}${path}`), greeting);
  await server.restart();
  return server;
}

/** A process of the public server; it may come and go, its port stays. */
export class EverythingProcess {
  readonly url: URL;
  readonly #transport: string;
  readonly #greeting: string;
  #child: Child | undefined;

  constructor(transport: string, url: URL, greeting: string) {
    this.#transport = transport;
    this.url = url;
    this.#greeting = greeting;
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    await this.#child?.kill(signal);
  }

  async restart(): Promise<void> {
    await this.kill();
    this.#child = new Child(main, { args: [this.#transport], flags: ['--import', endWithParent], env: { PORT: this.url.port } });
    await this.#child.printed(this.#greeting);
  }

  async stop(): Promise<void> {
    await this.kill();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}
