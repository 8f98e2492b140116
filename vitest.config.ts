import { availableParallelism } from 'node:os';
import { playwright } from '@vitest/browser-playwright';
import { defaultClientConditions, defaultServerConditions } from 'vite';
import { defineConfig } from 'vitest/config';
import { CHROMIUM_ARGS, findChromium } from './test/support/chromium.ts';

// Our own condition makes `#platform` mean the source instead of the build.
const SOURCE = 'mcp-reprise-source';
const conditions = [SOURCE, ...defaultServerConditions];
const chromium = await findChromium();

const node = {
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    name: 'node',
    include: ['test/**/*.test.ts'],
    exclude: ['test/**/*.browser.test.ts'],
    // A machine that does much else besides is no failure of the code: these only end what hangs.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: 'forks' as const,
    provide: { chromium: chromium ?? '' },
  },
};

/** What runs inside a page. */
const browser = {
  resolve: { conditions: [SOURCE, ...defaultClientConditions] },
  optimizeDeps: {
    include: ['@modelcontextprotocol/sdk/client/index.js', '@modelcontextprotocol/sdk/types.js', '@modelcontextprotocol/sdk/client/auth.js', 'p-retry', 'eventemitter3', 'idb-keyval', 'eventsource-parser'],
  },
  test: {
    name: 'chromium',
    include: ['test/**/*.browser.test.ts'],
    // A machine that does much else besides is no failure of the code: these only end what hangs.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    browser: {
      enabled: true,
      headless: true,
      screenshotFailures: false,
      provider: playwright({ launchOptions: { ...(chromium ? { executablePath: chromium } : {}), args: CHROMIUM_ARGS } }),
      instances: [{ browser: 'chromium' as const }],
    },
  },
};

export default defineConfig({
  test: {
    // A real Redis; the tests have its URL by inject('redisUrl'). And what they run in processes of their own, ready to run.
    globalSetup: ['test/support/redis.ts', 'test/support/bundles.ts'],
    // Most of the time of a test is waiting, for processes, timers and disks: on a machine with two cores two of them fit side by side.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    projects: chromium === undefined ? [node] : [node, browser],
  },
});
