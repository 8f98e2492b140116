import type { RedisClient } from '../../src/redis.ts';
import { waitFor } from '../support/wait.ts';
import type { TcpProxy } from '../support/proxy.ts';

type Send = (...all: never[]) => Promise<unknown>;

/** A client whose connection can be lost at any command: before it has reached the server, or before its answer is here. */
export class FaultyClient {
  readonly #proxy: TcpProxy;
  readonly #ping: () => Promise<unknown>;
  /** How many steps go well before one fails. */
  #soundSteps = Number.POSITIVE_INFINITY;

  constructor(client: RedisClient, proxy: TcpProxy) {
    this.#proxy = proxy;
    const methods = client as unknown as Record<'call' | 'sendCommand', Send>;
    const name = 'call' in client ? 'call' : 'sendCommand';
    const send = methods[name].bind(client);
    this.#ping = () => (name === 'call' ? (send as (command: string) => Promise<unknown>)('ping') : (send as (command: string[]) => Promise<unknown>)(['PING']));
    methods[name] = (first: never, second: never, ...more: never[]) => {
      const sent = send(first, second, ...more);
      // Two steps: the command gets there, the answer gets here.
      // The cut comes when the client has written it, and before the proxy reads it.
      if (this.#soundSteps-- === 0) setImmediate(() => this.#proxy.cut());
      if (this.#soundSteps-- === 0) this.#loseAnswer();
      return sent;
    };
  }

  /** The function that it returns waits until the client is connected again, and tells whether it came to that step. */
  failStep(n: number): () => Promise<boolean> {
    this.#soundSteps = n - 1;
    return async () => {
      const reached = this.#soundSteps < 0;
      this.#soundSteps = Number.POSITIVE_INFINITY;
      this.#proxy.onResponseChunk(undefined);
      await waitFor(() => this.#ping().catch(() => undefined), { what: 'a client that is connected again' });
      return reached;
    };
  }

  #loseAnswer(): void {
    this.#proxy.onResponseChunk(() => {
      this.#proxy.onResponseChunk(undefined);
      return 0;
    });
  }
}
