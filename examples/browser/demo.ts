/**
 * The example page and what it needs: `npm run demo:browser`.
 *
 * A real MCP server in its own process, a network in front of it that can be switched off, the page served by Vite, and under
 * `/control` what the page's buttons do to server and network, and what the server saw.
 */
import { once } from 'node:events';
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { createServer, defaultClientConditions } from 'vite';
import { startProxy } from '../../test/support/proxy.ts';
import { startServer } from '../../test/support/server.ts';
import type { ServerView } from './control.ts';

const CONTROL = '/control/';
const LOOK_EVERY = 400;
const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

const server = await startServer({ eventStore: true });
const proxy = await startProxy(server.url);
let running = true;
let network = true;
let notes = 0;

/** What the page's buttons do, by the last part of the path. */
const controls: Readonly<Record<string, () => unknown>> = {
  async kill() {
    running = false;
    await server.kill();
  },
  async restart() {
    await server.restart();
    running = true;
  },
  forget: () => server.forget(),
  notify: () => server.notify(`Note ${++notes}, sent at ${new Date().toLocaleTimeString('en-GB')}`),
  cut,
  async 'network-off'() {
    network = false;
    proxy.refuse();
    await cut();
  },
  async 'network-on'() {
    await proxy.accept();
    network = true;
  },
};

/** The server is told first: it knows at once that its connections are gone, as it would after some time. */
async function cut(): Promise<void> {
  if (running) await server.cut();
  proxy.cut();
}

async function look(): Promise<ServerView> {
  const executions = await server.executions();
  const view = { url: proxy.url.href, running, network, runs: executions.slice(-6).map(({ id, nonce, finished, aborted }) => ({ id, nonce, finished, aborted })) };
  const ran = { ran: executions.length, ranTwice: executions.length - new Set(executions.map(({ nonce }) => nonce)).size };
  if (!running) return { ...view, ...ran, sessions: 0, handshakes: 0, streams: 0 };
  const requests = await server.requests();
  return {
    ...view,
    ...ran,
    sessions: (await server.sessions()).length,
    handshakes: requests.filter(({ rpc }) => rpc.some(({ method }) => method === 'initialize')).length,
    streams: requests.filter(({ http, status, endedBy }) => http === 'GET' && status === 200 && endedBy === undefined).length,
  };
}

const watchers = new Set<ServerResponse>();
let last = '';

async function tellWatchers(): Promise<void> {
  // The server may be killed while it is asked.
  const view = await look().catch(() => undefined);
  const text = view ? JSON.stringify(view) : last;
  if (text === last) return;
  last = text;
  for (const watcher of watchers) watcher.write(`data: ${text}\n\n`);
}

async function control(req: IncomingMessage, res: ServerResponse): Promise<void> {
  const name = req.url?.slice(CONTROL.length) ?? '';
  if (req.method === 'GET' && name === 'events') {
    watchers.add(res);
    res.once('close', () => watchers.delete(res));
    res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
    if (last) res.write(`data: ${last}\n\n`);
    return;
  }
  const run = Object.hasOwn(controls, name) ? controls[name] : undefined;
  if (req.method !== 'POST' || !run) return void res.writeHead(404).end();
  try {
    await run();
    await tellWatchers();
    res.writeHead(204).end();
  } catch (error) {
    res.writeHead(409).end((error as Error).message.split('\n')[0]);
  }
}

const site = createHttpServer((req, res) => {
  if (req.url?.startsWith(CONTROL)) void control(req, res);
  else vite.middlewares(req, res);
});
const vite = await createServer({
  root: here('.'),
  configFile: false,
  cacheDir: here('../../node_modules/.cache/demo-browser'),
  logLevel: 'warn',
  // The library's source instead of its build.
  resolve: { conditions: ['mcp-reprise-source', ...defaultClientConditions] },
  server: { middlewareMode: true, hmr: { server: site }, fs: { allow: [here('../..')] } },
});
await tellWatchers();
site.listen(Number(process.env['PORT'] ?? 5173), '127.0.0.1');
await once(site, 'listening');
const looking = setInterval(() => void tellWatchers(), LOOK_EVERY);

// Whoever has another parent all of a sudden has lost the first one.
const parent = process.ppid;
setInterval(() => {
  if (process.ppid !== parent) void end();
}, 1000);
let ending: Promise<never> | undefined;
const end = (): Promise<never> => (ending ??= leave());
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => void end());
process.once('disconnect', () => void end());

/** Everything else, such as Vite's watcher and the pages' connections, ends with the process. */
async function leave(): Promise<never> {
  clearInterval(looking);
  proxy.stop();
  await server.stop();
  process.exit(0);
}

console.log(`The page is at http://127.0.0.1:${(site.address() as AddressInfo).port}/ (Ctrl-C ends it)`);
