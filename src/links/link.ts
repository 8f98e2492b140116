import type { JSONRPCMessage } from '@modelcontextprotocol/sdk/types.js';
import type { Signal } from '../signals.ts';
import type { HttpFailure } from './http-failure.ts';
import type { Traffic } from './requester.ts';

/**
 * One connection of a session: it sends a message, hears the server's messages, and knows how each exchange ended.
 *
 * A link belongs to one session only. It knows nothing of request ids, retries or stores; a new session gets a new link.
 */
export interface Link {
  /** Whether the session outlives the connection and can be taken up by another process (Streamable HTTP with a session id). */
  readonly kind: 'http' | 'pipe';
  /** What every later request of this link carries. Set once, when the session is negotiated or taken up. */
  adopt(session: LinkSession): void;
  /** Makes the link ready to send: starts the process, opens the pipe. Nothing to do for HTTP. Rejects if that fails. */
  open(): Promise<void>;
  /**
   * Sends one message and stays with it until nothing more will come for it. Never rejects: the ending says what happened.
   * Messages that arrive meanwhile go to `exchange.hear`.
   */
  send(message: JSONRPCMessage | readonly JSONRPCMessage[], exchange: Exchange): Promise<Ending>;
  /**
   * Opens a server-to-client stream: with `lastEventId` the one that this event belongs to, otherwise the session's own.
   * Absent where the connection itself is the stream.
   */
  listen?(exchange: Exchange, lastEventId?: string): Promise<Ending>;
  /** Ends the session on the server (DELETE). Best effort, never rejects; whether the server agreed is not our concern. */
  end(signal: AbortSignal): Promise<void>;
  /** Lets go of the connection. Its owner ends the exchanges first, by their signals. */
  close(): Promise<void>;
  /** Called when the connection is gone for good by itself (a pipe that closed), with the reason. */
  onGone?: ((reason: Error) => void) | undefined;
  /** Called with a message that belongs to no exchange (everything that comes over a pipe). */
  onMessage?: ((message: JSONRPCMessage) => void) | undefined;
  /** Called with what went wrong without ending anything: noise, told for diagnosis. */
  onNoise?: ((error: Error) => void) | undefined;
}

export interface LinkSession {
  readonly id: string | undefined;
  readonly protocolVersion: string;
}

/** One request and the stream that answers it. */
export interface Exchange {
  /** Ends the exchange from our side: its request is aborted, its stream closed. */
  readonly signal: Signal;
  /** From now on the server may have it: the connection stands, or nobody can tell. Not called where it surely was not sent. */
  onDispatched?(): void;
  /** A message of the server. Never called again after the exchange ended. */
  hear(message: JSONRPCMessage): void;
  /** The server accepted the request (2xx); called once, before any message. */
  onAccepted?(head: { readonly sessionId: string | undefined }): void;
  /** The newest event id: from here the stream can be resumed. */
  onEventId?(id: string): void;
  /** The server asks to wait this long, in milliseconds, before the stream is opened again. */
  onRetryHint?(delay: number): void;
}

/** How an exchange ended. */
export type Ending =
  /** The stream or body ended as it should. Whether the answer was in it is for the caller to know. */
  | { readonly type: 'ended' }
  /** 202, or a message that went down a pipe and expects no answer. */
  | { readonly type: 'accepted' }
  /** Nothing reached the server: no connection, no name, no TLS, or given up before dispatch. */
  | { readonly type: 'not-sent'; readonly error: Error; readonly permanent?: boolean }
  /** The server answered with a status that is not 2xx. */
  | { readonly type: 'refused'; readonly failure: HttpFailure }
  /** Not sent, or sent and answered 401, because authorization could not be had. The error is the caller's to see, unchanged. */
  | { readonly type: 'denied'; readonly error: Error }
  /** It was sent, and the connection broke. */
  | { readonly type: 'cut'; readonly error: Error }
  /** It was sent, and what came back cannot be read: no JSON-RPC, or more than the limit. It would be no better the next time. */
  | { readonly type: 'unreadable'; readonly error: Error }
  /** We ended it ourselves, by the exchange's signal or by closing the link. */
  | { readonly type: 'aborted' };

/** Makes the links of one server. */
export interface Connector {
  /** What names the server in a store and in an error: origin and path, never a query or a credential. Absent: nothing is persisted. */
  readonly address: ServerAddress | undefined;
  /** What its links have sent and received; absent where that is not counted. */
  readonly traffic?: Traffic;
  connect(): Link;
  /** A request is about to come, or the server's stream (GET): what a connection takes can begin. Fails silently. */
  warm?(method: 'POST' | 'GET'): void;
  /** Another way to reach the same server, when this one refused the handshake in a way that says "wrong transport". */
  fallback?(failure: HttpFailure): Connector | undefined;
  /** Lets go of what its links share: idle sockets. */
  close(): void;
  /** OAuth: exchanges the code that the user came back with. */
  finishAuth?(code: string): Promise<void>;
}

interface ServerAddress {
  /** Origin and path. */
  readonly url: string;
  /** The query, if any. It may hold a secret, so it is only ever stored as a digest. */
  readonly query: string;
}
