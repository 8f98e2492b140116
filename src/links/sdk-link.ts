import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import type { JSONRPCMessage } from '@modelcontextprotocol/sdk/types.js';
import type { Connector, Ending, Exchange, Link, LinkSession } from './link.ts';

export interface SdkLinkOptions {
  /** Tells an error after which the connection is dead from one that is only noise. By default none is fatal: a dead one closes. */
  readonly isFatal?: (error: Error) => boolean;
  /** What to add to the reason when the connection is gone: the last words of a process. */
  readonly lastWords?: () => string | undefined;
  /** Runs when the connection is gone or closed: what the transport's own `close()` leaves behind. */
  readonly cleanUp?: () => void;
}

/**
 * A link over any SDK transport: stdio, the old SSE transport, WebSocket, another's. Such a connection is the session: when it
 * is gone, so is the session, and the next one is made by a new transport.
 */
export class SdkLink implements Link {
  readonly kind = 'pipe';
  onGone?: ((reason: Error) => void) | undefined;
  onMessage?: ((message: JSONRPCMessage) => void) | undefined;
  onNoise?: ((error: Error) => void) | undefined;
  readonly #transport: Transport;
  readonly #options: SdkLinkOptions;
  /** The exchanges that wait for an answer, by what ends them. */
  readonly #open = new Set<(ending: Ending) => void>();
  #state: 'new' | 'open' | 'gone' = 'new';

  constructor(transport: Transport, options: SdkLinkOptions = {}) {
    this.#transport = transport;
    this.#options = options;
  }

  adopt(session: LinkSession): void {
    this.#transport.setProtocolVersion?.(session.protocolVersion);
  }

  async open(): Promise<void> {
    this.#transport.onmessage = (message) => this.onMessage?.(message);
    this.#transport.onerror = (error) => {
      if (this.#state === 'open' && this.#options.isFatal?.(error)) this.#gone(error);
      else this.onNoise?.(error);
    };
    this.#transport.onclose = () => this.#gone(new Error('the connection closed'));
    await this.#transport.start();
    if (this.#state === 'new') this.#state = 'open';
  }

  send(message: JSONRPCMessage | readonly JSONRPCMessage[], exchange: Exchange): Promise<Ending> {
    if (this.#state !== 'open') return Promise.resolve({ type: 'not-sent', error: new Error('the connection is not open') });
    if (exchange.signal.aborted) return Promise.resolve({ type: 'aborted' });
    return new Promise((resolve) => {
      const finish = (ending: Ending): void => {
        this.#open.delete(finish);
        exchange.signal.removeEventListener('abort', abort);
        resolve(ending);
      };
      const abort = (): void => finish({ type: 'aborted' });
      this.#open.add(finish);
      exchange.signal.addEventListener('abort', abort, { once: true });
      exchange.onDispatched?.();
      const expectsAnswer = asArray(message).some((each) => 'method' in each && 'id' in each);
      Promise.all(asArray(message).map((each) => this.#transport.send(each))).then(
        () => {
          exchange.onAccepted?.({ sessionId: undefined });
          if (!expectsAnswer) finish({ type: 'accepted' });
        },
        // A write that fails may have written a part.
        (error: unknown) => finish({ type: 'cut', error: error instanceof Error ? error : new Error(String(error)) }),
      );
    });
  }

  async end(): Promise<void> {}

  async close(): Promise<void> {
    this.#state = 'gone';
    this.onGone = undefined;
    try {
      await this.#transport.close();
    } finally {
      this.#options.cleanUp?.();
    }
  }

  #gone(cause: Error): void {
    if (this.#state === 'gone') return;
    this.#state = 'gone';
    const words = this.#options.lastWords?.();
    const reason = words ? new Error(`${cause.message}; its last words were: ${words}`, { cause }) : cause;
    for (const finish of [...this.#open]) finish({ type: 'cut', error: reason });
    this.onGone?.(reason);
    void this.#transport.close().catch(() => {});
    this.#options.cleanUp?.();
  }
}

/** Makes a link from what makes a transport; each new session asks for a new transport. */
export function sdkLink(create: () => Transport, options?: SdkLinkOptions): Connector {
  return { address: undefined, connect: () => new SdkLink(checked(create()), options), close() {} };
}

/** What is wrong with what the user's function returns does not get better by trying again. */
function checked(transport: Transport): Transport {
  const methods = ['start', 'send', 'close'] as const;
  if (typeof transport !== 'object' || transport === null || methods.some((method) => typeof transport[method] !== 'function')) {
    throw new TypeError('the target function must return an SDK transport, and not a promise of one');
  }
  return transport;
}

function asArray(message: JSONRPCMessage | readonly JSONRPCMessage[]): readonly JSONRPCMessage[] {
  return Array.isArray(message) ? (message as readonly JSONRPCMessage[]) : [message as JSONRPCMessage];
}
