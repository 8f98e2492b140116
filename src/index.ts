export type { BatchOptions, BatchRequest, SettledResults } from './batch.ts';
export type { CallRecord } from './calls/history.ts';
export type { MetricsSnapshot } from './calls/metrics.ts';
export { type CallOptions, ResilientClient } from './client.ts';
export { connect } from './connect.ts';
export {
  BadServerError,
  CircuitOpenError,
  ClosedError,
  ConflictError,
  DeadlineError,
  type FailedOutcome,
  OutcomeUnknownError,
  RateLimitedError,
  RefusedError,
  RepriseError,
  SessionLostError,
  StoreError,
  UnreachableError,
} from './errors.ts';
export type { HeadersSource } from './links/headers.ts';
export type { FetchLike } from './links/requester.fetch.ts';
export type { CommandTarget } from './links/target.ts';
export { callTool, checkHealth, type Health, type OneOffOptions } from './one-off.ts';
export type {
  CallSettings,
  CircuitBreaker,
  ConnectOptions,
  HistoryOptions,
  RateLimit,
  RetryBudget,
  RetryOptions,
  SessionOptions,
  Target,
  TimeoutOptions,
} from './options.ts';
export { ConnectionPool, type Lease, type LeaseOptions, type PoolOptions, type PoolStats, type PoolTarget } from './registry/pool.ts';
export type { ImportResult, SessionsBackup } from './registry/backup.ts';
export type { CleanupOptions } from './registry/cleanup.ts';
export { Sessions, type SessionsOptions, type SessionStats } from './registry/sessions.ts';
export type { SessionFilter, StoredSession } from './registry/stored-session.ts';
export type { SessionEmitter, SessionEvents } from './session/events.ts';
export type { SessionAccess } from './session/farewell.ts';
export type { StateName } from './session/state.ts';
export { type SessionInfo, SessionTransport } from './session/transport.ts';
export type { UserChange, UserState } from './session/user-state.ts';
export { type Values, withLocks } from './storage/cas-lock.ts';
export type { EncryptionKey, Passphrase } from './storage/encrypted-keys.ts';
export { type EncryptedStoreOptions, encryptedStore } from './storage/encrypted-store.ts';
export { memoryStore } from './storage/memory-store.ts';
export type { Lock, LockOptions, Store, StoredValue } from './storage/store.ts';
