import { type CallOptions, connect, type RepriseError, type Store } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { send } from '../support/client-script.ts';

/** What a program is to call. */
export interface Task {
  readonly url: string;
  readonly directory: string;
  readonly name: string;
  readonly arguments: Record<string, unknown>;
  readonly options: Pick<CallOptions, 'callId' | 'safe' | 'timeout'>;
  /** Dies (SIGKILL) when the store is to be told this of the call, before it is written; or after the call was noted, before it is sent. */
  readonly dieAt?: 'noted' | 'token' | 'answer';
}

export type Report =
  | { type: 'progress'; progress: number }
  | { type: 'answered'; text: string }
  | { type: 'failed'; name: string; message: string; outcome: string | undefined };

/** A program that makes one durable call, tells what comes of it, and ends: `node durable.process.ts <task as JSON>`. */
const { url, directory, name, arguments: args, options, dieAt } = JSON.parse(process.argv[2] ?? '') as Task;
const tell = (report: Report): void => send(report);

await using client = await connect(url, { store: mortal(fileStore(directory)) });
try {
  const onprogress = ({ progress }: { progress: number }): void => tell({ type: 'progress', progress });
  const { content } = await client.callTool({ name, arguments: args }, undefined, { ...options, onprogress });
  tell({ type: 'answered', text: (content as { text: string }[])[0]?.text ?? '' });
} catch (error) {
  const { name: kind, message, outcome } = error as RepriseError;
  tell({ type: 'failed', name: kind, message, outcome });
}

function mortal(store: Store): Store {
  const set: Store['set'] = async (key, value, expected) => {
    const entry = key.startsWith('call/') ? (JSON.parse(value) as Record<string, unknown>) : {};
    if (dieAt !== undefined && dieAt in entry) process.kill(process.pid, 'SIGKILL');
    const revision = await store.set(key, value, expected);
    if (dieAt === 'noted' && 'digest' in entry) process.kill(process.pid, 'SIGKILL');
    return revision;
  };
  return new Proxy(store, { get: (target, name) => (name === 'set' ? set : (Reflect.get(target, name) as () => unknown).bind(target)) });
}
