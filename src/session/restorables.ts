import type { JSONRPCRequest } from '@modelcontextprotocol/sdk/types.js';
import type { SessionRecord } from './record.ts';

/** What a client asked of a session that must hold on the next one too: subscriptions and the log level. */
export class Restorables {
  readonly #subscriptions = new Set<string>();
  #logLevel: string | undefined;

  /** Takes note of a request that the server has granted. Returns whether anything changed. */
  note({ method, params }: JSONRPCRequest): boolean {
    const uri = params?.['uri'];
    const level = params?.['level'];
    if (method === 'resources/subscribe' && typeof uri === 'string') this.#subscriptions.add(uri);
    else if (method === 'resources/unsubscribe' && typeof uri === 'string') this.#subscriptions.delete(uri);
    else if (method === 'logging/setLevel' && typeof level === 'string') this.#logLevel = level;
    else return false;
    return true;
  }

  load({ subscriptions, logLevel }: Pick<SessionRecord, 'subscriptions' | 'logLevel'>): void {
    for (const uri of subscriptions) this.#subscriptions.add(uri);
    this.#logLevel ??= logLevel;
  }

  snapshot(): Pick<SessionRecord, 'subscriptions' | 'logLevel'> {
    return { subscriptions: [...this.#subscriptions], ...(this.#logLevel === undefined ? {} : { logLevel: this.#logLevel }) };
  }

  /** The requests that bring a new session to where the old one was. */
  requests(): { method: string; params: Record<string, unknown> }[] {
    const subscribe = [...this.#subscriptions].map((uri) => ({ method: 'resources/subscribe', params: { uri } }));
    return this.#logLevel === undefined ? subscribe : [{ method: 'logging/setLevel', params: { level: this.#logLevel } }, ...subscribe];
  }
}
