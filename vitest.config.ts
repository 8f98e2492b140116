import { defaultServerConditions } from 'vite';
import { defineConfig } from 'vitest/config';

// Our own condition makes `#platform` mean the source instead of the build.
const conditions = ['mcp-reprise-source', ...defaultServerConditions];

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    include: ['test/**/*.test.ts'],
    // A real Redis; the tests have its URL by inject('redisUrl').
    globalSetup: ['test/support/redis.ts'],
    testTimeout: 30_000,
    pool: 'forks',
  },
});
