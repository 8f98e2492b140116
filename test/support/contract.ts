import type { LostDialect } from './dialects.ts';

/** What a fixture server is started with. */
export interface ServerOptions {
  /** 0 (the default): a free port. */
  port?: number;
  /** How POSTed requests are answered. Default: 'sse'. */
  mode?: 'sse' | 'json';
  /** Keeps events so that streams can be resumed. Default: false. */
  eventStore?: boolean;
  /** The `retry:` that goes with each priming event, in ms. */
  retryInterval?: number;
  /** false: stateless, no session ids. Default: true. */
  sessions?: boolean;
  /** The newest protocol version the server agrees to, e.g. '2025-03-26'. */
  protocolVersion?: string;
}

/** One HTTP request as it went over the wire. */
export interface WireEntry {
  n: number;
  at: number;
  http: 'POST' | 'GET' | 'DELETE';
  sessionId?: string;
  protocolVersion?: string;
  lastEventId?: string;
  rpc: RpcEntry[];
  /** The messages came in a JSON array. */
  array?: true;
  headers: Record<string, string>;
  /** Absent until the response head is written. */
  status?: number;
  /** The serial number of the connection that carried it. */
  socket: number;
  /** Who ended the exchange. Absent while it is open. */
  endedBy?: 'server' | 'client';
  /** The `n` of the newest request when it had ended: whatever has a higher one came later. Absent while it is open. */
  until?: number;
}

export interface RpcEntry {
  method?: string;
  id?: string | number | null;
  toolName?: string;
}

/** One run of a tool that does something. */
export interface Execution {
  id: string;
  tool: string;
  nonce: string;
  startedAt: number;
  sessionId?: string;
  finished?: boolean;
  aborted?: boolean;
}

/** Picks the requests that a scripted fault is for: an RPC method, or 'GET' and 'DELETE'. */
interface Fault {
  onlyMethod: string;
  times: number;
}

/** Scripted faults. The first that fits a request answers it: hang, post, reply, endEmpty, get, and then the session's own check. */
export interface Behaviour {
  /** 'close': the stream is accepted and ended at once. */
  get: 'ok' | 404 | 405 | 406 | 409 | 'close';
  /** The `retry:` at the start of each GET stream, in ms. */
  getRetry: number | null;
  /** How a request with an unknown session id is refused. */
  lost: LostDialect;
  /** An answer to POSTs instead of the real one. Without `onlyMethod`: to all of them. */
  post: (Partial<Fault> & { status: number; times: number; headers?: Record<string, string>; body?: string; contentType?: string }) | null;
  /** Accepts the request and never answers. */
  hang: Fault | null;
  /** A raw answer. `{{id}}` stands for the request's id. */
  reply: (Fault & { body: string; contentType: string; status?: number }) | null;
  /** An event stream that ends without an answer. */
  endEmpty: Fault | null;
  /** The id that `initialize` answers instead of the real one. */
  sessionIdHeader: string | null;
  /** Headers that no page of another origin may see or send, in lower case; '*': it may do nothing at all. */
  corsRefuses: string[];
}

/** No fault at all. */
export const wellBehaved: Readonly<Behaviour> = {
  get: 'ok',
  getRetry: null,
  lost: '404-json',
  post: null,
  hang: null,
  reply: null,
  endEmpty: null,
  sessionIdHeader: null,
  corsRefuses: [],
};

export interface SessionState {
  sessionId: string;
  uris: string[];
  level?: string;
}

/** What a test can ask of a running server. */
export interface Controls {
  requests(): WireEntry[];
  clearRequests(): void;
  /** Drops all sessions as a restart would: their streams end, their calls are aborted, their events are gone. */
  forget(): Promise<void>;
  /** Destroys every open socket. */
  cut(): void;
  /** Ends every open GET stream gracefully. */
  closeStreams(): void;
  /** Sends a logging notification (level info) over the GET stream of every session. */
  notify(text: string): Promise<void>;
  subscriptions(): SessionState[];
  sessions(): string[];
  behave(patch: Partial<Behaviour>): void;
  /** Answers nothing; after it, every execution that was reported before has arrived. */
  sync(): void;
}

export type ControlRequest = { id: number; control: keyof Controls; args: unknown[] };
export type ServerMessage =
  | { type: 'listening'; port: number }
  | { type: 'execution'; execution: Execution }
  | { type: 'result'; id: number; result?: unknown; error?: string };
