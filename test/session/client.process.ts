import { setImmediate as turn } from 'node:timers/promises';
import { type ConnectOptions, ResilientClient, type RepriseError } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { next, send } from '../support/client-script.ts';
import { say } from './say.ts';

/**
 * Clients in a process of their own, for the tests of sessions: they do as they are told, and then end by themselves. On its way
 * out the process says on stdout how long it stayed after the last client was closed, in ms.
 */
export type Told =
  | { type: 'connect'; url: string; store?: string; count?: number; options?: ConnectOptions }
  | { type: 'echo'; times: number; argument?: string; prefix?: string }
  | { type: 'call'; name: string; arguments: Record<string, unknown> }
  | { type: 'close' };

export type Said =
  | { type: 'connected'; ids: string[]; resumed: number }
  | { type: 'echoed'; wrong: string[]; ids: string[] }
  | { type: 'warned'; message: string }
  | { type: 'degraded' }
  | { type: 'retrying' }
  | { type: 'answered'; text: string }
  | { type: 'failed'; name: string; message: string; outcome: string | undefined }
  | { type: 'closed'; took: number; resources: string[] };

let clients: ResilientClient[] = [];
const tell = (message: Said): void => send(message);

/** New clients in place of those that there are. */
async function connect({ url, store, count = 1, options }: Told & { type: 'connect' }): Promise<void> {
  await Promise.all(clients.map((client) => client.close()));
  clients = Array.from({ length: count }, () => new ResilientClient(url, { ...options, ...(store === undefined ? {} : { store: fileStore(store) }) }));
  for (const client of clients) {
    client.events.on('warning', ({ message }) => tell({ type: 'warned', message }));
    client.events.once('retry', () => tell({ type: 'retrying' }));
    client.events.on('state', ({ to }) => {
      if (to === 'degraded') tell({ type: 'degraded' });
    });
  }
  await Promise.all(clients.map((client) => client.connect()));
  tell({ type: 'connected', ids: idsNow(), resumed: clients.filter(({ session }) => session.resumed).length });
}

const idsNow = (): string[] => [...new Set(clients.map(({ session }) => session.id ?? 'none'))];

/** Every client says things of its own, all at once. */
async function echo({ times, argument = 'text', prefix = '' }: Told & { type: 'echo' }): Promise<void> {
  const wrong: string[] = [];
  await Promise.all(
    clients.flatMap((client, who) =>
      Array.from({ length: times }, async (_, i) => {
        const text = `process ${process.pid}, client ${who}, text ${i}`;
        const answer = await say(client, 'echo', { [argument]: text }).catch(String);
        if (answer !== prefix + text) wrong.push(`${text} was answered ${answer}`);
      }),
    ),
  );
  tell({ type: 'echoed', wrong, ids: idsNow() });
}

async function call({ name, arguments: args }: Told & { type: 'call' }): Promise<void> {
  try {
    tell({ type: 'answered', text: await say(clients[0] as ResilientClient, name, args) });
  } catch (error) {
    const { name, message, outcome } = error as RepriseError;
    tell({ type: 'failed', name, message, outcome });
  }
}

const running: Promise<unknown>[] = [];
for (let open = true; open; ) {
  const message = await next<Told>();
  if (message.type === 'connect') running.push(connect(message).catch((error: Error) => tell({ type: 'failed', name: error.name, message: error.message, outcome: undefined })));
  else if (message.type === 'echo') running.push(echo(message));
  else if (message.type === 'call') running.push(call(message));
  else {
    const start = performance.now();
    await Promise.all(clients.map((client) => client.close()));
    const closedAt = performance.now();
    process.once('exit', () => console.log(`stayed ${performance.now() - closedAt}`));
    await Promise.all(running);
    // Handles say that they are closed in a later turn.
    for (let turns = 0; turns < 5; turns++) await turn();
    tell({ type: 'closed', took: closedAt - start, resources: process.getActiveResourcesInfo().filter((kind) => !/^(Pipe|TTY|Immediate|FS)/.test(kind)) });
    open = false;
  }
}
