import { defaultServerConditions } from 'vite';
import { defineConfig } from 'vitest/config';

const conditions = ['mcp-reprise-source', ...defaultServerConditions];

/** For mutation testing: the unit tests alone, which start neither a server nor Redis nor a browser. */
export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: { include: ['test/unit/{verdict,session,ids,state,key}.test.ts'] },
});
