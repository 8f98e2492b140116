import { connect, Sessions } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { say } from '../session/say.ts';
import { next, send } from '../support/client-script.ts';

/** `node sessions.process.ts <url> <directory>`: a client on the stored session that does as it is told. */
export type Told =
  /** Calls a tool, and counts in the session's state, so often, all at once. */
  | { type: 'work'; times: number; counter: string }
  /** Cleans up in the background, and leaves. */
  | { type: 'leave' };
export type Said = { type: 'ready'; resumed: boolean } | { type: 'worked' };

const [url = '', directory = ''] = process.argv.slice(2);
const tell = (said: Said): void => send(said);
const client = await connect(url, { store: fileStore(directory), listen: false });
tell({ type: 'ready', resumed: client.session.resumed });
const told = await next<Told>();
if (told.type === 'work') {
  const { times, counter } = told;
  await Promise.all(
    Array.from({ length: times }, async () => {
      await say(client, 'echo', { text: 'x' });
      await client.update(({ data, metadata }) => ({ data: { ...data, [counter]: Number(data[counter] ?? 0) + 1 }, metadata: { all: Number(metadata['all'] ?? 0) + 1 } }));
    }),
  );
  tell({ type: 'worked' });
} else {
  new Sessions(fileStore(directory)).startCleanup({ interval: 3_600_000 });
}
await client.close();
