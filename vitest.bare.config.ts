import { defaultServerConditions } from 'vite';
import { defineConfig } from 'vitest/config';

const conditions = ['mcp-reprise-source', ...defaultServerConditions];

/** For the tests that test the tests: neither a Redis nor a browser is started for them. */
export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: { include: ['test/**/*.test.ts'], testTimeout: 30_000, hookTimeout: 60_000, pool: 'forks' },
});
