/** A program as a user would write it. It is killed in the middle of its work, and started again. */
import { connect } from 'mcp-reprise';
import { fileStore } from 'mcp-reprise/node';

const [url = '', directory = ''] = process.argv.slice(2);

await using client = await connect(url, { store: fileStore(directory) });
process.send?.({
  type: 'connected',
  resumed: client.session.resumed,
  capabilities: client.getServerCapabilities() !== undefined,
});
const { content } = await client.callTool({ name: 'work', arguments: { nonce: `program ${process.pid}`, ms: 300 } });
process.send?.({ type: 'answer', content });
await client.callTool({ name: 'work', arguments: { nonce: 'long work', ms: 60_000 } });
