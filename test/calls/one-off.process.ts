import { setImmediate as turn } from 'node:timers/promises';
import { callTool, checkHealth } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';

/**
 * A script that makes one call, and asks how the server is: `node one-off.process.ts <url> [directory]`. It says what came of it, what
 * holds it still, and how long that did.
 */
const [url = '', directory] = process.argv.slice(2);
const options = directory === undefined ? {} : { store: fileStore(directory) };
const { content } = await callTool(url, 'echo', { text: 'once' }, options);
const { ok, session } = await checkHealth(url, options);
const start = performance.now();
process.once('exit', () => console.log(`stayed ${performance.now() - start}`));
// Handles say that they are closed in a later turn.
for (let turns = 0; turns < 5; turns++) await turn();
const resources = process.getActiveResourcesInfo().filter((kind) => !/^(Pipe|TTY|Immediate|FS)/.test(kind));
console.log(JSON.stringify({ content, ok, session, resources }));
