import { exec, execFile } from 'node:child_process';
import { access, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { VERSION } from '../../src/version.ts';

/** The public names that exist at run time. A new one is a promise: add it here on purpose. */
const EXPORTS = {
  '.': [
    'BadServerError',
    'CircuitOpenError',
    'ClosedError',
    'ConflictError',
    'ConnectionPool',
    'DeadlineError',
    'OutcomeUnknownError',
    'RateLimitedError',
    'RefusedError',
    'RepriseError',
    'ResilientClient',
    'SessionLostError',
    'SessionTransport',
    'Sessions',
    'StoreError',
    'UnreachableError',
    'callTool',
    'checkHealth',
    'connect',
    'encryptedStore',
    'memoryStore',
    'withLocks',
  ],
  './node': ['fileStore', 'presets'],
  './browser': ['indexedDbStore'],
  './redis': ['redisStore'],
  './testing': ['storeContract'],
};

const root = fileURLToPath(new URL('../..', import.meta.url));
const manifest = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as {
  version: string;
  exports: Record<string, unknown>;
  dependencies: Record<string, string>;
};
const run = promisify(execFile);

/** Someone's project that has the package installed as npm would, from the tarball. */
let project: string;
/** What is in the tarball. */
let files: string[];

beforeAll(async () => {
  await access(join(root, 'dist/index.d.cts')).catch(() => {
    throw new Error('there is no build: run `npm run build`, or the tests by `npm test`');
  });
  project = await mkdtemp(join(tmpdir(), 'mcp-reprise-package-'));
  const { stdout } = await promisify(exec)(`npm pack --json --ignore-scripts --pack-destination "${project}"`, { cwd: root });
  const packed = Object.values(JSON.parse(stdout) as Record<string, { filename: string; files: { path: string }[] }>)[0];
  if (!packed) throw new Error(`npm pack said: ${stdout}`);
  files = packed.files.map(({ path }) => path);
  const modules = join(project, 'node_modules');
  await mkdir(join(modules, 'mcp-reprise'), { recursive: true });
  await run('tar', ['-xzf', join(project, packed.filename), '-C', join(modules, 'mcp-reprise'), '--strip-components=1']);
  for (const name of [...Object.keys(manifest.dependencies), '@modelcontextprotocol/sdk', '@types/node']) {
    await mkdir(dirname(join(modules, name)), { recursive: true });
    await symlink(join(root, 'node_modules', name), join(modules, name), 'junction');
  }
});

afterAll(async () => {
  if (project) await rm(project, { recursive: true, force: true });
});

describe('the tarball', () => {
  test('holds the build and the papers, and nothing else', () => {
    expect([...new Set(files.map((file) => file.split('/')[0]))].sort()).toEqual([
      'CHANGELOG.md',
      'LICENSE',
      'README.md',
      'SECURITY.md',
      'dist',
      'package.json',
    ]);
    expect(files.filter((file) => file.startsWith('dist/') && !/\.(?:js|cjs|d\.ts|d\.cts)$/.test(file))).toEqual([]);
  });

  test('has the version that the code says', () => {
    expect(VERSION).toBe(manifest.version);
  });

  // The transform to CommonJS takes a field of a class for the export of the same name, and then each instance replaces that.
  test('sets no export of its CommonJS from within', async () => {
    const scripts = files.filter((file) => file.endsWith('.cjs'));
    expect(scripts.length).toBeGreaterThan(5);
    const lines = await Promise.all(scripts.map(async (file) => (await readFile(join(project, 'node_modules/mcp-reprise', file), 'utf8')).split('\n')));
    expect(lines.flat().filter((line) => /^\s+(?:static )?#?\w+ = exports\./.test(line))).toEqual([]);
  });

  test('has no other entries', () => {
    expect(Object.keys(manifest.exports)).toEqual([...Object.keys(EXPORTS), './package.json']);
  });
});

describe('on Node', () => {
  const preludes = {
    'esm.mjs': `
      import { UnauthorizedError } from '@modelcontextprotocol/sdk/client/auth.js';
      import * as main from 'mcp-reprise';
      import * as node from 'mcp-reprise/node';
      import * as browser from 'mcp-reprise/browser';
      import * as redis from 'mcp-reprise/redis';
      import * as testing from 'mcp-reprise/testing';
      const early = [];`,
    // The helpers that are imported only when needed must not be there before.
    'cjs.cjs': `
      const main = require('mcp-reprise');
      const node = require('mcp-reprise/node');
      const browser = require('mcp-reprise/browser');
      const redis = require('mcp-reprise/redis');
      const testing = require('mcp-reprise/testing');
      const early = Object.keys(require.cache).filter((file) => /sdk.*client.(?:auth|sse|stdio)\\.js$/.test(file));
      const { UnauthorizedError } = require('@modelcontextprotocol/sdk/client/auth.js');`,
  };

  const script = `
    async function run() {
      const store = node.fileStore('sessions');
      await store.close();
      const closed = await store.get('key').catch((error) => error);
      const viaStdio = await main.connect({ command: process.execPath, args: ['server.mjs'] });
      const { content } = await viaStdio.callTool({ name: 'greet' });
      await viaStdio.close();
      const authProvider = {
        redirectUrl: 'http://localhost/back',
        clientMetadata: { redirect_uris: ['http://localhost/back'] },
        clientInformation: () => ({ client_id: 'client' }),
        tokens: () => undefined,
        saveTokens() {},
        saveCodeVerifier() {},
        codeVerifier: () => 'verifier',
        redirectToAuthorization() {},
      };
      const denied = await main.connect(process.argv[2], { authProvider }).catch((error) => error);
      console.log(JSON.stringify({
        exports: { '.': Object.keys(main).sort(), './node': Object.keys(node).sort(), './browser': Object.keys(browser).sort(), './redis': Object.keys(redis).sort(), './testing': Object.keys(testing).sort() },
        early,
        // The errors are of one class, whichever entry they come from; the SDK's, of the copy that the program itself has.
        storeError: closed instanceof main.StoreError || String(closed),
        content,
        unauthorized: denied instanceof UnauthorizedError || String(denied),
      }));
    }
    void run();`;

  const server = `
    import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
    import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js';
    const server = new McpServer({ name: 'packaged', version: '1.0.0' });
    server.registerTool('greet', {}, () => ({ content: [{ type: 'text', text: 'hello' }] }));
    await server.connect(new StdioServerTransport());`;

  test.each(Object.entries(preludes))('every entry works: %s', async (name, prelude) => {
    await writeFile(join(project, 'server.mjs'), server);
    await writeFile(join(project, name), prelude + script);
    const closedDoor = createServer((request, response) => response.writeHead(request.url === '/mcp' ? 401 : 404).end());
    await new Promise<void>((resolve) => closedDoor.listen(0, '127.0.0.1', resolve));
    try {
      const url = `http://127.0.0.1:${(closedDoor.address() as AddressInfo).port}/mcp`;
      // It ends by itself, so nothing of ours keeps a process alive.
      const { stdout } = await run(process.execPath, [name, url], { cwd: project, timeout: 20_000 });
      expect(JSON.parse(stdout)).toEqual({
        exports: EXPORTS,
        early: [],
        storeError: true,
        content: [{ type: 'text', text: 'hello' }],
        unauthorized: true,
      });
    } finally {
      closedDoor.close();
    }
  });
});

// A build for CommonJS and a minifier take the names of classes away.
describe('errors say their names', () => {
  const errors = EXPORTS['.'].filter((name) => name.endsWith('Error'));
  const script = `
    const say = (error) => ({ name: error.name, text: String(error), stack: error.stack.split('\\n', 1)[0] });
    class Ours extends main.StoreError { name = 'Ours'; }
    class Mine extends main.StoreError { constructor(...all) { super(...all); this.name = 'Mine'; } }
    const made = Object.fromEntries(Object.entries(main).filter(([name]) => name.endsWith('Error')).map(([name, Class]) => [name, say(new Class('so it is', { outcome: 'unknown' }))]));
    console.log(JSON.stringify({ made, theirs: [new Ours('x').name, String(new Mine('x'))] }));
    throw new main.OutcomeUnknownError('nobody caught it');`;

  test.each([
    ['in CommonJS', 'errors.cjs', async () => `const main = require('mcp-reprise');${script}`],
    ['minified', 'errors.mjs', async () => (await bundle(`import * as main from 'mcp-reprise';${script}`, ['@modelcontextprotocol/sdk'])).code],
  ])('%s, also where nobody catches them', async (_, file, code) => {
    await writeFile(join(project, file), await code());
    const { stdout, stderr } = await run(process.execPath, [file], { cwd: project, timeout: 20_000 }).catch((error: { stdout: string; stderr: string }) => error);
    const { made, theirs } = JSON.parse(stdout) as { made: unknown; theirs: unknown };
    expect(made).toEqual(Object.fromEntries(errors.map((name) => [name, { name, text: `${name}: so it is`, stack: `${name}: so it is` }])));
    expect(theirs).toEqual(['Ours', 'Mine: x']);
    expect(stderr.split('\n')).toContain('OutcomeUnknownError: nobody caught it');
  });
});

describe('for TypeScript', () => {
  const consumer = `
    import { connect, type ConnectOptions, memoryStore, RepriseError, ResilientClient, SessionTransport, type Store } from 'mcp-reprise';
    import { indexedDbStore } from 'mcp-reprise/browser';
    import { fileStore } from 'mcp-reprise/node';
    import { type RedisClient, redisStore } from 'mcp-reprise/redis';
    import { Client } from '@modelcontextprotocol/sdk/client/index.js';

    export const stores: Store[] = [memoryStore(), fileStore('sessions'), indexedDbStore()];
    export const inRedis = (client: RedisClient): Store => redisStore(client, { ttl: 1000 });

    export async function use(options: ConnectOptions): Promise<string | undefined> {
      await using client = await connect('https://example.com/mcp', options);
      client.events.on('state', ({ from, to }) => console.log(from satisfies string, to satisfies string));
      await client.callTool({ name: 'search' }, undefined, { safe: true, timeout: 1000 });
      await new Client({ name: 'plain', version: '1.0.0' }).connect(new SessionTransport(new URL('https://example.com/mcp')));
      // @ts-expect-error misspelt
      new ResilientClient('https://example.com/mcp', { stroe: memoryStore() });
      // @ts-expect-error internal
      new SessionTransport('https://example.com/mcp').tell('resumed', { age: 1 });
      const { tools } = await client.listTools();
      return tools[0]?.name ?? client.session.id;
    }

    export const outcome = (error: unknown) => (error instanceof RepriseError ? error.outcome : undefined);`;

  test.each([
    ['node16, ESM', 'consumer.mts', { module: 'node16' }],
    ['node16, CommonJS', 'consumer.cts', { module: 'node16' }],
    ['bundler', 'consumer.ts', { module: 'esnext', moduleResolution: 'bundler' }],
  ])('compiles: %s', { timeout: 60_000 }, async (_, file, options) => {
    const directory = await mkdtemp(join(project, 'types-'));
    await writeFile(join(directory, file), consumer);
    const compilerOptions = {
      target: 'es2022',
      lib: ['es2022', 'esnext.disposable', 'dom', 'dom.iterable', 'dom.asynciterable'],
      types: ['node'],
      strict: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: false,
      noEmit: true,
      ...options,
    };
    await writeFile(join(directory, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: [file] }));
    const tsc = join(root, 'node_modules/typescript/bin/tsc');
    const output = await run(process.execPath, [tsc, '-p', directory, '--pretty', 'false']).then(
      ({ stdout }) => stdout,
      (error: { stdout: string }) => error.stdout,
    );
    // The SDK's own CommonJS declarations have an error (TS1541, in 1.32.2), which is not ours to answer for.
    const errors = output.split('\n').filter((line) => line !== '' && !line.includes('node_modules/@modelcontextprotocol/sdk/'));
    expect(errors).toEqual([]);
  });
});

/** What esbuild makes of it in the project, for a browser. */
async function bundle(contents: string, external: string[] = []) {
  const { metafile, outputFiles } = await build({
    stdin: { contents, resolveDir: project },
    absWorkingDir: project,
    bundle: true,
    minify: true,
    format: 'esm',
    platform: 'browser',
    conditions: ['browser'],
    // Left as they are, so that they can be seen.
    external: ['node:*', ...external],
    metafile: true,
    write: false,
    logLevel: 'silent',
  });
  const [output] = Object.values(metafile.outputs);
  return { imports: output?.imports ?? [], inputs: Object.keys(metafile.inputs), code: outputFiles[0]?.text ?? '', gzip: gzipSync(outputFiles[0]?.contents ?? '').length };
}

describe('in a bundle', () => {
  const everything = `export * from 'mcp-reprise'; export * from 'mcp-reprise/browser'; export * from 'mcp-reprise/testing';`;

  test('for a browser there is nothing of Node', async () => {
    // With the SDK in it: had anything asked for a module of Node, it would be among the imports, or not resolve at all.
    const { imports, inputs } = await bundle(everything);
    expect(imports).toEqual([]);
    expect(inputs.filter((file) => /platform\.\w+\.js$/.test(file))).toEqual(['node_modules/mcp-reprise/dist/platform.web.js']);
  });

  test('only the SDK\'s client is loaded at once; the rest of it when it is needed', async () => {
    const { imports } = await bundle(everything, ['@modelcontextprotocol/sdk']);
    const kinds = (kind: string) => [...new Set(imports.filter((each) => each.kind === kind).map(({ path }) => path))].sort();
    // The client loads its validator itself.
    expect(kinds('import-statement')).toEqual(['@modelcontextprotocol/sdk/client/index.js', '@modelcontextprotocol/sdk/types.js', '@modelcontextprotocol/sdk/validation/ajv']);
    expect(kinds('dynamic-import')).toEqual(['@modelcontextprotocol/sdk/client/auth.js', '@modelcontextprotocol/sdk/client/sse.js']);
  });

  test('who connects gets no pool, no registry of sessions and no encryption', async () => {
    // Words of their texts, which no minifier changes.
    const words = { pool: 'The pool is closed', registry: 'this is no backup of sessions', encryption: 'AES-GCM', indexedDb: 'IndexedDB failed' };
    const found = async (contents: string) => {
      const { code } = await bundle(contents, ['@modelcontextprotocol/sdk']);
      return Object.entries(words).flatMap(([name, text]) => (code.includes(text) ? [name] : []));
    };
    expect(await found(`import { connect } from 'mcp-reprise'; import { indexedDbStore } from 'mcp-reprise/browser'; console.log(connect, indexedDbStore);`)).toEqual(['indexedDb']);
    expect(await found(everything)).toEqual(Object.keys(words));
  });

  test('an import of one store brings neither the client nor the SDK', async () => {
    const { gzip } = await bundle(`import { memoryStore } from 'mcp-reprise'; console.log(memoryStore());`);
    expect(gzip).toBeLessThan(3 * 1024);
  });
});

test('the session, the calls and the links load nothing of the SDK at once', async () => {
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints: ['src/session/*.ts', 'src/calls/*.ts', 'src/links/*.ts'],
    bundle: true,
    packages: 'external',
    platform: 'node',
    format: 'esm',
    outdir: 'nowhere',
    metafile: true,
    write: false,
  });
  const rooms = Object.entries(metafile.inputs).filter(([file]) => /^src\/(?:session|calls|links)\//.test(file));
  expect(rooms.length).toBeGreaterThan(20);
  // esbuild has left out what is imported as a type, and kept what TypeScript keeps: see `verbatimModuleSyntax`.
  const loaded = rooms.flatMap(([file, { imports }]) =>
    imports.filter(({ path, kind }) => kind !== 'dynamic-import' && path.startsWith('@modelcontextprotocol/')).map(({ path }) => `${file}: ${path}`),
  );
  expect(loaded).toEqual([]);
});
