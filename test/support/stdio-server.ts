import { appendFileSync } from 'node:fs';
import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js';
import { createFixtureServer } from './tools.ts';

// NOISY=1: a line on stdout that is no JSON. JOURNAL=<file>: executions are appended to it, as lines of JSON.
const { NOISY: noisy, JOURNAL: journalFile } = process.env;

if (noisy === '1') console.log('Starting up, please wait');

const { mcp } = createFixtureServer({
  journal(execution) {
    if (journalFile) appendFileSync(journalFile, `${JSON.stringify(execution)}\n`);
  },
});
mcp.registerTool('crash', {}, () => {
  console.error('The fixture crashes as told');
  process.exit(3);
});
await mcp.connect(new StdioServerTransport());
