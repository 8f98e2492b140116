import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SessionTransport } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { send } from '../support/client-script.ts';

/** A program that makes one long call and tells its tokens, until it is killed: `node tokens.process.ts <url> <directory> <nonce>`. */
export type Report = { type: 'token'; token: string };

const [url = '', directory = '', nonce = ''] = process.argv.slice(2);
const client = new Client({ name: 'program', version: '1.0.0' });
await client.connect(new SessionTransport(url, { store: fileStore(directory) }));
await client.callTool({ name: 'work', arguments: { nonce, ms: 3000, steps: 30 } }, undefined, {
  onresumptiontoken: (token) => send({ type: 'token', token } satisfies Report),
  onprogress: () => {},
});
