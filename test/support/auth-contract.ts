/** How the authorization server is to be. */
export interface AuthServerOptions {
  /** How long access tokens live, in s. Default: 3600. */
  lifetime?: number;
  /** The scope that a tool (or another RPC method) needs beyond the usual one. */
  scopeOf?: Record<string, string>;
  /** Whether the answer to a token request names the scope, as it need not where that is the one asked for. Default: true. */
  namesScope?: boolean;
}

/** One request to the protected resource. */
export interface AuthEntry {
  http: 'POST' | 'GET' | 'DELETE';
  authorization?: string;
  sessionId?: string;
  headers: Record<string, string>;
  /** The RPC methods in the body; of a tool call the tool's name. */
  methods: string[];
  /** Absent until the response has ended. */
  status?: number;
}

export interface AuthCounters {
  registrations: number;
  authorizations: number;
  tokenRequests: number;
  refreshes: number;
}

/** Refuses with a challenge whatever token comes: all requests, or those with that HTTP method, RPC method or tool. */
export interface AuthFault {
  status: 401 | 403;
  scope?: string;
  only?: string;
}

export interface AuthControls {
  /** Makes it as new: no clients, tokens, sessions, counts and faults. */
  reset(options: AuthServerOptions): Promise<void>;
  counters(): AuthCounters;
  requests(): AuthEntry[];
  clearRequests(): void;
  /** No access token that was issued so far is good any more. */
  revokeAccess(): void;
  /** The same for refresh tokens. */
  revokeRefresh(): void;
  fault(fault: AuthFault | null): void;
  /** Ends every open GET stream. */
  closeStreams(): Promise<void>;
}

export type AuthControlRequest = { id: number; control: keyof AuthControls; args: unknown[] };
export type AuthServerMessage = { type: 'listening'; port: number } | { type: 'result'; id: number; result?: unknown };
