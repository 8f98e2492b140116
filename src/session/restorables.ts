import type { JSONRPCRequest } from '@modelcontextprotocol/sdk/types.js';
import type { SessionRecord } from './record.ts';
import type { OwnRequest } from './wire.ts';

/** What a granted request changed. */
type Change = { readonly uri: string; readonly subscribed: boolean } | { readonly logLevel: string };

/** What was asked of a session, by this client or by another on the same one, that must hold on the next one too. */
export class Restorables {
  readonly #subscriptions = new Set<string>();
  #logLevel: string | undefined;

  /** Takes note of a request that the server has granted. Returns what it changed. */
  note({ method, params }: JSONRPCRequest): Change | undefined {
    const uri = params?.['uri'];
    const level = params?.['level'];
    if (method === 'resources/subscribe' && typeof uri === 'string') {
      this.#subscriptions.add(uri);
      return { uri, subscribed: true };
    }
    if (method === 'resources/unsubscribe' && typeof uri === 'string') {
      this.#subscriptions.delete(uri);
      return { uri, subscribed: false };
    }
    if (method !== 'logging/setLevel' || typeof level !== 'string') return undefined;
    this.#logLevel = level;
    return { logLevel: level };
  }

  load({ subscriptions, logLevel }: Pick<SessionRecord, 'subscriptions' | 'logLevel'>): void {
    for (const uri of subscriptions) this.#subscriptions.add(uri);
    this.#logLevel ??= logLevel;
  }

  clear(): void {
    this.#subscriptions.clear();
    this.#logLevel = undefined;
  }

  snapshot(): Pick<SessionRecord, 'subscriptions' | 'logLevel'> {
    return { subscriptions: [...this.#subscriptions], ...(this.#logLevel === undefined ? {} : { logLevel: this.#logLevel }) };
  }

  /** The requests that bring a session to where the last one was; `has`: what it has already. */
  requests(has: Partial<Pick<SessionRecord, 'subscriptions' | 'logLevel'>> = {}): OwnRequest[] {
    const missing = [...this.#subscriptions].filter((uri) => !has.subscriptions?.includes(uri));
    const subscribe = missing.map((uri) => ({ method: 'resources/subscribe', params: { uri } }));
    if (this.#logLevel === undefined || has.logLevel === this.#logLevel) return subscribe;
    return [{ method: 'logging/setLevel', params: { level: this.#logLevel } }, ...subscribe];
  }
}
