import type { InitializeResult } from '@modelcontextprotocol/sdk/types.js';
import type { Link } from '../links/link.ts';

/** A session as it is spoken to: what was negotiated, and the link that carries it. */
export interface ActiveSession {
  /** Counts up with each session of this client. What an older one still says about "the session" is history. */
  readonly generation: number;
  readonly link: Link;
  /** The `Mcp-Session-Id`, where the server gave one. */
  readonly id: string | undefined;
  readonly initialized: InitializeResult;
  /** Taken up from the store (or from another process), not negotiated by this client. */
  readonly resumed: boolean;
  /** Unix time in ms. */
  readonly createdAt: number;
}

/**
 * Where a session stands. This union is the only place that knows; everything else is derived from it.
 *
 * ```text
 * idle ─► loading ─┬─► resuming ────┬─► ready ◄─► degraded
 *                  └─► negotiating ─┘     │           │
 *                         ▲   │           ▼           ▼
 *                         │   └─► failed  └──► lost ◄─┘
 *                         └──── backoff ◄──────┘
 * any ─► closing ─► closed ─► idle
 * ```
 */
export type SessionState =
  | { readonly name: 'idle' }
  /** The store is asked for a session. */
  | { readonly name: 'loading' }
  /** A handshake is on the wire. `session` is there from its answer on. */
  | { readonly name: 'negotiating'; readonly session?: ActiveSession }
  /** A stored session is in use, unproven until the server's first 2xx. */
  | { readonly name: 'resuming'; readonly session: ActiveSession }
  | { readonly name: 'ready'; readonly session: ActiveSession }
  /** Calls work; the server-to-client stream is down. */
  | { readonly name: 'degraded'; readonly session: ActiveSession; readonly reason: string }
  /** The server has forgotten the session, or the pipe is gone; the next call negotiates. `session` is the one that was lost. */
  | { readonly name: 'lost'; readonly session: ActiveSession; readonly reason: string }
  /** A lost session could not be replaced yet; the next handshake waits, so that a crowd of calls is no burden to the server. */
  | { readonly name: 'backoff'; readonly session: ActiveSession; readonly reason: string }
  /** The user has to authorize: `finishAuth`, then connect again. */
  | { readonly name: 'authorizing'; readonly error: Error }
  /** The first handshake did not come about. Connecting again starts afresh. */
  | { readonly name: 'failed'; readonly error: Error }
  | { readonly name: 'closing' }
  | { readonly name: 'closed' };

export type StateName =
  | 'idle'
  | 'loading'
  | 'negotiating'
  | 'resuming'
  | 'ready'
  | 'degraded'
  | 'lost'
  | 'backoff'
  | 'authorizing'
  | 'failed'
  | 'closing'
  | 'closed';

/** What each state may become. Anything else is news from the past (an answer that comes after `close()`) and is ignored. */
const NEXT: Readonly<Record<SessionState['name'] & StateName, readonly StateName[]>> = {
  idle: ['loading', 'closing'],
  loading: ['resuming', 'negotiating', 'closing'],
  negotiating: ['negotiating', 'resuming', 'ready', 'lost', 'failed', 'authorizing', 'closing'],
  resuming: ['ready', 'lost', 'closing'],
  ready: ['degraded', 'lost', 'closing'],
  degraded: ['ready', 'degraded', 'lost', 'closing'],
  lost: ['negotiating', 'backoff', 'closing'],
  backoff: ['negotiating', 'closing'],
  authorizing: ['loading', 'closing'],
  failed: ['loading', 'closing'],
  closing: ['closed'],
  closed: ['idle'],
};

export class StateMachine {
  #state: SessionState = { name: 'idle' };
  readonly #onChange: (from: StateName, to: StateName) => void;

  constructor(onChange: (from: StateName, to: StateName) => void) {
    this.#onChange = onChange;
  }

  get current(): SessionState {
    return this.#state;
  }

  /** The session that calls go to now, if there is one. */
  get session(): ActiveSession | undefined {
    const state = this.#state;
    return state.name === 'ready' || state.name === 'degraded' || state.name === 'resuming' ? state.session : undefined;
  }

  /** Enters a state. Returns false, and does nothing, where the current one does not lead there. */
  enter(next: SessionState): boolean {
    const from = this.#state.name;
    if (!NEXT[from].includes(next.name)) return false;
    this.#state = next;
    if (from !== next.name) this.#onChange(from, next.name);
    return true;
  }
}
