import { LoggingMessageNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { type ConnectOptions, ResilientClient, type Store } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { next, send } from '../support/client-script.ts';
import { say } from './say.ts';

/**
 * One of several processes on one stored session: `<name> <server> <directory> [<options>]`. It tells when it asks for one of the
 * store's locks and when it gets, gives back or loses it, so that a test need not guess who waits. Every request says its name.
 */
export type Told = { type: 'connect' } | { type: 'echo' } | { type: 'close' };

export type Said =
  | { type: 'ready' }
  | { type: 'asks'; lock: string }
  | { type: 'has'; lock: string }
  | { type: 'lost'; lock: string }
  | { type: 'connected'; id: string | undefined; resumed: boolean }
  | { type: 'echoed'; id: string | undefined }
  | { type: 'heard'; text: string }
  | { type: 'told'; event: string; text: string }
  | { type: 'failed'; name: string }
  | { type: 'closed' };

const [name = '', url = '', directory = '', options = '{}'] = process.argv.slice(2);
const tell = (said: Said): void => send(said);
const files = fileStore(directory);
const store: Store = {
  get: (key) => files.get(key),
  set: (key, value, expected) => files.set(key, value, expected),
  delete: (key, expected) => files.delete(key, expected),
  keys: (prefix) => files.keys(prefix),
  async lock(key, how) {
    tell({ type: 'asks', lock: key });
    const lock = await files.lock(key, how);
    tell({ type: 'has', lock: key });
    lock.lost.addEventListener('abort', () => tell({ type: 'lost', lock: key }));
    return lock;
  },
  close: () => files.close(),
};
const client = new ResilientClient(url, { ...(JSON.parse(options) as ConnectOptions), store, headers: { 'x-member': name } });
client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => tell({ type: 'heard', text: String(params.data) }));
client.events.on('reset', ({ adopted }) => tell({ type: 'told', event: 'reset', text: adopted ? 'adopted' : 'made' }));
client.events.on('cursorLost', ({ reason }) => tell({ type: 'told', event: 'cursorLost', text: reason }));
client.events.on('warning', ({ message }) => tell({ type: 'told', event: 'warning', text: message }));

async function connect(): Promise<void> {
  await client.connect();
  tell({ type: 'connected', id: client.session.id, resumed: client.session.resumed });
}

async function echo(): Promise<void> {
  await say(client, 'echo', { text: name });
  tell({ type: 'echoed', id: client.session.id });
}

const failed = (error: Error): void => tell({ type: 'failed', name: error.name });

tell({ type: 'ready' });
for (let open = true; open; ) {
  const { type } = await next<Told>();
  if (type === 'connect') void connect().catch(failed);
  else if (type === 'echo') void echo().catch(failed);
  else open = false;
}
await client.close();
tell({ type: 'closed' });
