import { defaultServerConditions } from 'vite';
import { defineConfig } from 'vitest/config';

const conditions = ['mcp-reprise-source', ...defaultServerConditions];
const { TESTS = 'test/**/*.test.ts' } = process.env;

/** For what tests the tests: neither a Redis nor a browser is started, and `TESTS` says which files there are at all. */
export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: { include: TESTS.split(','), testTimeout: 30_000, hookTimeout: 60_000, pool: 'forks' },
});
