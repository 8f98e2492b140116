import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import type { JSONRPCMessage } from '@modelcontextprotocol/sdk/types.js';

/** A transport that is loaded and made when it is started, so that a program which never needs it never pays for it. */
export class LazyTransport implements Transport {
  onmessage?: <T extends JSONRPCMessage>(message: T) => void;
  onerror?: (error: Error) => void;
  onclose?: () => void;
  readonly #load: () => Promise<Transport>;
  #transport: Transport | undefined;
  #closed = false;

  constructor(load: () => Promise<Transport>) {
    this.#load = load;
  }

  async start(): Promise<void> {
    const transport = await this.#load();
    if (this.#closed) throw new Error('closed before it was started');
    transport.onmessage = (message) => this.onmessage?.(message);
    transport.onerror = (error) => this.onerror?.(error);
    transport.onclose = () => this.onclose?.();
    this.#transport = transport;
    await transport.start();
  }

  async send(message: JSONRPCMessage): Promise<void> {
    await this.#transport?.send(message);
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#transport?.close();
  }

  setProtocolVersion(version: string): void {
    this.#transport?.setProtocolVersion?.(version);
  }
}
