import type { JSONRPCMessage } from '@modelcontextprotocol/sdk/types.js';
import { isEventId } from '../links/http-link.ts';
import type { StreamHost } from './server-stream.ts';

type Heard = Pick<StreamHost, 'hear' | 'onCursor' | 'onCursorLost'>;

/** What the one that has the notification stream of a session tells the others. One of them is there. */
interface Told {
  readonly session: number;
  readonly message?: JSONRPCMessage;
  readonly cursor?: string;
  readonly gap?: string;
}

/**
 * Passes what comes on the notification stream on to the other tabs and workers that share the session (BroadcastChannel). Questions of
 * the server are not passed on: whoever has the stream answers them.
 */
export class Relay {
  readonly #channel: BroadcastChannel;
  readonly #session: number;
  /** The newest event that another one has told of: what came before it was heard here, too. */
  cursor: string | undefined;

  /** @param session - when it was made, which tells it from the one that was in its place before */
  constructor(channel: BroadcastChannel, session: number, heard: Heard) {
    this.#channel = channel;
    this.#session = session;
    channel.onmessage = ({ data }: MessageEvent<unknown>) => {
      const told = (data ?? {}) as Partial<Told>;
      if (told.session !== session) return;
      const { message, cursor } = told;
      if (message?.jsonrpc === '2.0' && !('method' in message && 'id' in message)) heard.hear(message);
      if (typeof cursor === 'string' && isEventId(cursor)) this.cursor = cursor;
      if (typeof told.gap === 'string') heard.onCursorLost(told.gap);
    };
  }

  /** What a stream tells is told to the others, too. */
  spread(host: StreamHost): StreamHost {
    return {
      ...host,
      hear: (message) => {
        if (!('method' in message && 'id' in message)) this.#tell({ message });
        host.hear(message);
      },
      onCursor: (cursor) => {
        this.cursor = cursor;
        this.#tell({ cursor });
        host.onCursor(cursor);
      },
      onCursorLost: (gap) => {
        this.#tell({ gap });
        host.onCursorLost(gap);
      },
    };
  }

  close(): void {
    this.#channel.close();
  }

  #tell(what: Omit<Told, 'session'>): void {
    this.#channel.postMessage({ session: this.#session, ...what } satisfies Told);
  }
}
