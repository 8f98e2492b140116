import { defineConfig } from 'tsup';

/** The entry points of package.json. */
const entries = { index: 'src/index.ts', node: 'src/node.ts', browser: 'src/browser.ts', redis: 'src/redis.ts', testing: 'src/testing.ts' };

export default defineConfig({
  entry: {
    ...entries,
    // Reached only through "#platform" (package.json, "imports"). Built together with the rest, so that they share its classes.
    'platform.node': 'src/links/platform.node.ts',
    'platform.web': 'src/links/platform.web.ts',
    // Files of their own, so that index.js only re-exports: bundlers drop a whole file that is not used ("sideEffects": false), but
    // not a class that extends another package's. Without this, who imports only the store gets the SDK with it.
    connect: 'src/connect.ts',
    'one-off': 'src/one-off.ts',
    pool: 'src/registry/pool.ts',
    sessions: 'src/registry/sessions.ts',
    'memory-store': 'src/storage/memory-store.ts',
    'encrypted-store': 'src/storage/encrypted-store.ts',
    'cas-lock': 'src/storage/cas-lock.ts',
  },
  format: ['esm', 'cjs'],
  // Code that entries share goes into chunks, in both formats: StoreError must be one class, whichever entry it comes from.
  // For CommonJS, tsup then writes `import()` as a `require` that is just as late, and so the SDK's classes are one copy too.
  splitting: true,
  target: 'es2022',
  platform: 'neutral',
  // Node or the user's bundler chooses the platform. Dependencies and peers are external by themselves.
  external: [/^node:/, '#platform'],
  removeNodeProtocol: false,
  // They are ESM only, so CommonJS could not require them.
  noExternal: ['p-retry', 'is-network-error'],
  dts: {
    entry: entries,
    compilerOptions: {
      // tsup sets `baseUrl`, which TypeScript 6 calls deprecated.
      ignoreDeprecations: '6.0',
      stripInternal: true,
    },
  },
  clean: true,
});
