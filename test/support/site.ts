import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { listen } from './ports.ts';

export interface SiteOptions {
  /** The Content-Security-Policy of its pages. Default: none. */
  readonly csp?: string;
}

export interface Site extends AsyncDisposable {
  readonly url: URL;
}

/** Bundled once for all sites of a test file, from the source, as an app would have it. */
let bundling: Promise<string> | undefined;

async function bundle(): Promise<string> {
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL('../browser/page.ts', import.meta.url))],
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'browser',
    target: 'es2022',
    conditions: ['mcp-reprise-source', 'browser'],
  });
  return outputFiles[0]?.text ?? '';
}

/** Serves a page, and a worker, that have the library at hand as globals. On localhost a page is a secure context. */
export async function startSite({ csp }: SiteOptions = {}): Promise<Site> {
  const script = await (bundling ??= bundle());
  const server = createServer((req, res) => {
    if (csp !== undefined) res.setHeader('content-security-policy', csp);
    if (req.url === '/app.js') return void res.setHeader('content-type', 'text/javascript').end(script);
    res.setHeader('content-type', 'text/html').end('<!doctype html><title>A page</title><script type="module" src="/app.js"></script>');
  });
  const port = await listen(server);
  return {
    url: new URL(`http://localhost:${port}/`),
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
    },
  };
}
