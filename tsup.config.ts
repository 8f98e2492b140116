import { defineConfig } from 'tsup';

export default defineConfig({
  entry: {
    index: 'src/index.ts',
    node: 'src/node.ts',
    browser: 'src/browser.ts',
    // Reached only through "#platform" (package.json, "imports"). Built together with the rest, so that they share its classes.
    'platform.node': 'src/links/platform.node.ts',
    'platform.web': 'src/links/platform.web.ts',
  },
  format: ['esm', 'cjs'],
  // Shared code goes into chunks: StoreError or NotSentError must be one class, whichever entry it is reached by.
  splitting: true,
  target: 'es2022',
  platform: 'neutral',
  // Node and the user's bundler choose the platform at run time; the SDK and our dependencies are external by themselves.
  external: [/^node:/, '#platform'],
  removeNodeProtocol: false,
  // ESM only, so a CommonJS build could not require it.
  noExternal: ['p-retry', 'is-network-error'],
  dts: {
    // The platform files have no public types.
    entry: { index: 'src/index.ts', node: 'src/node.ts', browser: 'src/browser.ts' },
    // tsup sets `baseUrl`, which TypeScript 6 calls deprecated.
    compilerOptions: { ignoreDeprecations: '6.0' },
  },
  clean: true,
});
