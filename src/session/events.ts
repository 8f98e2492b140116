import { EventEmitter } from 'eventemitter3';
import type { CallRecord } from '../calls/history.ts';
import type { StateName } from './state.ts';

/** What a client tells about itself. No payload carries a session id, a header or an argument. */
export interface SessionEvents {
  /** The session's state changed. */
  state: (change: { readonly from: StateName; readonly to: StateName }) => void;
  /** A stored session proved to be alive: the server accepted the first request on it. */
  resumed: (info: { readonly age: number }) => void;
  /**
   * The session was lost and a new one is in its place. What the server kept for the old one is gone, except for subscriptions and
   * the log level, which were restored. `adopted`: another process had already made the new one.
   */
  reset: (info: { readonly reason: string; readonly adopted: boolean }) => void;
  /** The server-to-client stream is down: calls go on, notifications may not come. `retrying`: it will be opened again. */
  degraded: (info: { readonly reason: string; readonly retrying: boolean }) => void;
  /** Messages of the server may have been missed: the stream was opened again, and not from where it broke off. */
  cursorLost: (info: { readonly reason: string }) => void;
  /** Something that needs a person's eye and stops nothing. */
  warning: (error: Error) => void;
  /** A call is settled: what the history keeps of it. */
  call: (record: CallRecord) => void;
  /** The circuit breaker opened the circuit, because the server cannot be reached, or closed it again. */
  circuit: (info: { readonly open: boolean; readonly reason: string }) => void;
  /**
   * A call will be sent again, after `delay` ms; `Infinity`: when the server is heard of again. `call` counts the client's calls, so
   * that what belongs to one call can be told together.
   */
  retry: (info: { readonly call: number; readonly method: string; readonly attempt: number; readonly delay: number; readonly reason: string }) => void;
}

/** Their names. */
export const EVENT_NAMES: readonly (keyof SessionEvents)[] = ['state', 'resumed', 'reset', 'degraded', 'cursorLost', 'warning', 'retry', 'call', 'circuit'];

export type SessionEmitter = EventEmitter<SessionEvents>;
/** How often each was told. */
export type EventCounts = Record<keyof SessionEvents, number>;
/** Tells an event. Safe from what listeners do. */
export type Tell = <E extends keyof SessionEvents>(event: E, ...args: Parameters<SessionEvents[E]>) => void;

/** An emitter for the user, and the only way in which we emit on it: a listener that throws is reported, and breaks nothing. */
export function createEvents(
  first: Partial<SessionEvents>,
  onListenerError: (error: Error) => void,
): { events: SessionEmitter; tell: Tell; told: Readonly<EventCounts> } {
  const events: SessionEmitter = new EventEmitter<SessionEvents>();
  for (const [name, listener] of Object.entries(first)) (events as unknown as EventEmitter).on(name, listener);
  const told = Object.fromEntries(EVENT_NAMES.map((name) => [name, 0])) as EventCounts;
  const tell: Tell = (event, ...args) => {
    told[event]++;
    if (event === 'warning' && events.listenerCount('warning') === 0) warn(args[0] as Error);
    try {
      (events as unknown as EventEmitter).emit(event, ...args);
    } catch (error) {
      onListenerError(error instanceof Error ? error : new Error(String(error)));
    }
  };
  return { events, tell, told };
}

/** What needs a person's eye is not to pass unseen where nobody listens. Node says it on stderr, once for each text. */
function warn({ message }: Error): void {
  if (unheard.has(message) || unheard.size >= MOST_UNHEARD) return;
  unheard.add(message);
  const { process } = globalThis as { readonly process?: { emitWarning?(text: string, options: { type: string; code: string }): void } };
  process?.emitWarning?.(message, { type: 'McpRepriseWarning', code: 'MCP_REPRISE_WARNING' });
}

const unheard = new Set<string>();
const MOST_UNHEARD = 100;
