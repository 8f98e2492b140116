import { Inbox, type AnyMessage, type Message } from './inbox.ts';

const inbox = new Inbox<AnyMessage>();
process.on('message', (message: AnyMessage) => inbox.push(message));
process.on('disconnect', () => process.exit());
// The channel must not keep the script alive: whether a client lets its process end is what some tests ask.
process.channel?.unref();

/** Tells the test something. */
export function send(message: AnyMessage): void {
  process.send?.(message);
}

/** Awaits the test's next message, of that type if one is given. */
export async function next<M extends Message = AnyMessage>(type?: M['type']): Promise<M> {
  process.channel?.ref();
  try {
    return (await inbox.next(type)) as Message as M;
  } finally {
    process.channel?.unref();
  }
}
