import { type ConnectOptions, ResilientClient, type SessionEvents } from '../../src/index.ts';
import type { User } from './store.ts';

export type Kind = 'safe' | 'unsafe' | 'durable';

/** Something that was asked for, and what became of it. */
export interface Asked {
  readonly what: string;
  readonly peer: Peer;
  readonly startedAt: number;
  /** When it must have settled, at the latest. */
  readonly dueAt: number;
  readonly call?: { readonly nonce: string; readonly kind: Kind };
  readonly abort: AbortController;
  readonly promise: Promise<unknown>;
  settledAt?: number;
  value?: unknown;
  error?: Error & { code?: unknown; outcome?: unknown; retryAfter?: number };
}

type Heard = { readonly [E in keyof SessionEvents]: Parameters<SessionEvents[E]>[0][] };

/** One of those who share a session: a client with all that it told, which can be cut off from the world as if its process had died. */
export class Peer implements User {
  readonly name: string;
  readonly client: ResilientClient;
  readonly heard: Heard = { state: [], resumed: [], reset: [], degraded: [], cursorLost: [], warning: [], retry: [], call: [], circuit: [] };
  /** The sessions that it had, by the order in which it had them; `undefined` for none. */
  readonly resetTo: (string | undefined)[] = [];
  readonly notified: string[] = [];
  readonly uris = new Set<string>();
  /** What its user wants: the last word of `connect`, `close` and `end`. */
  wanted = false;
  dead = false;

  /** @param rude - its listeners throw whatever they hear */
  constructor(name: string, options: (self: User) => ConnectOptions, rude: boolean) {
    this.name = name;
    const on: Record<string, (info: unknown) => void> = {};
    for (const [event, list] of Object.entries(this.heard)) {
      on[event] = (info) => {
        (list as unknown[]).push(info);
        if (event === 'reset') this.resetTo.push(this.client.session.id);
        if (rude) throw new Error(`a listener for ${event} threw`);
      };
    }
    this.client = new ResilientClient('http://model/mcp', {
      ...options(this),
      headers: { 'x-from': name },
      on: on as Partial<SessionEvents>,
      history: { size: 10_000, payloads: true },
      client: { jsonSchemaValidator: NO_SCHEMAS },
    });
    this.client.fallbackNotificationHandler = async ({ method, params }) => {
      if (method === 'notifications/message') this.notified.push(String(params?.['data']));
      if (rude) throw new Error('a handler of notifications threw');
    };
    if (!rude) return;
    this.client.onerror = () => {
      throw new Error('a handler of errors threw');
    };
  }
}

/** The model's tool has no schema; the SDK's own validator takes longer to make than all the rest of a client. */
const NO_SCHEMAS = { getValidator: () => (input: unknown) => ({ valid: true as const, data: input as never, errorMessage: undefined }) };
