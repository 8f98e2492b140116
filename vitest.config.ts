import { availableParallelism } from 'node:os';
import { playwright } from '@vitest/browser-playwright';
import { defaultClientConditions, defaultServerConditions } from 'vite';
import { defineConfig } from 'vitest/config';
import { CHROMIUM_ARGS, findChromium } from './test/support/chromium.ts';

// Our own condition makes `#platform` mean the source instead of the build.
const SOURCE = 'mcp-reprise-source';
const conditions = [SOURCE, ...defaultServerConditions];
const chromium = await findChromium();

/** A machine that does much else besides is no failure of the code: these only end what hangs. */
const patience = { testTimeout: 60_000, hookTimeout: 60_000 };
// Most of the time of a test is waiting, for processes, timers and disks: on a machine with two cores three files fit side by side, of
// which one may be a fuzzer, which takes what the others leave.
const maxWorkers = Math.max(3, availableParallelism() - 1);
/** Many processes at a time, whose stores and locks have to be served in time: one file after another, when the others are done. */
const CROWDS = [
  'test/session/{sharing,fleet-redis}.test.ts',
  'test/storage/{file-stress,file-processes,file-contract,encrypted-contract.files,redis-processes}.test.ts',
  'test/storage/redis-contract.*.test.ts',
  'test/bad-servers/*flood*.test.ts',
];
/** What needs the whole machine: one after another, at the end. */
const PROOF = ['test/faults/{soak,planted}.test.ts', 'test/leaks/*.test.ts'];
/** What takes as long as one likes: with a command of its own (`npm run models`). */
const MODELS = ['test/model/model.test.ts'];

/** Tests on Node; those of a later `order` begin when the earlier ones are done. */
const onNode = (name: string, include: string[], order: { groupOrder: number; maxWorkers: number }, exclude: string[] = []) => ({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    name,
    include,
    exclude: ['test/**/*.browser.test.ts', ...exclude],
    ...patience,
    pool: 'forks' as const,
    maxWorkers: order.maxWorkers,
    sequence: { groupOrder: order.groupOrder },
    provide: { chromium: chromium ?? '' },
  },
});

/** What runs inside a page. */
const browser = {
  resolve: { conditions: [SOURCE, ...defaultClientConditions] },
  optimizeDeps: {
    include: ['@modelcontextprotocol/sdk/client/index.js', '@modelcontextprotocol/sdk/types.js', '@modelcontextprotocol/sdk/client/auth.js', '@modelcontextprotocol/sdk/validation/ajv', 'p-retry', 'eventemitter3', 'idb-keyval', 'eventsource-parser'],
  },
  test: {
    name: 'chromium',
    include: ['test/**/*.browser.test.ts'],
    ...patience,
    maxWorkers,
    sequence: { groupOrder: 0 },
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
    projects: [
      onNode('node', ['test/**/*.test.ts'], { groupOrder: 0, maxWorkers }, [...CROWDS, ...PROOF, ...MODELS]),
      onNode('crowds', CROWDS, { groupOrder: 1, maxWorkers: 1 }),
      ...(chromium === undefined ? [] : [browser]),
      onNode('proof', PROOF, { groupOrder: 2, maxWorkers: 1 }),
      // `npm test` leaves it out.
      onNode('models', MODELS, { groupOrder: 3, maxWorkers: 1 }),
    ],
  },
});
