/** A program with one long call that must not run twice. It is killed in the middle of it, and started again. */
import { connect } from 'mcp-reprise';
import { fileStore } from 'mcp-reprise/node';

const [url = '', directory = ''] = process.argv.slice(2);

await using client = await connect(url, { store: fileStore(directory) });
const { content } = await client.callTool({ name: 'work', arguments: { nonce: 'import', ms: 2_000 } }, undefined, { callId: 'import-42' });
process.send?.({ type: 'answer', content });
