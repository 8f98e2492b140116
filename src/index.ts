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
export type { SessionEmitter, SessionEvents } from './session/events.ts';
export type { StateName } from './session/state.ts';
export { type SessionInfo, SessionTransport } from './session/transport.ts';
export { memoryStore } from './storage/memory-store.ts';
export type { Store, StoredValue } from './storage/store.ts';
