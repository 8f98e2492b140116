export { type CallOptions, ResilientClient } from './client.ts';
export { connect } from './connect.ts';
export {
  BadServerError,
  ClosedError,
  ConflictError,
  DeadlineError,
  type FailedOutcome,
  OutcomeUnknownError,
  RefusedError,
  RepriseError,
  SessionLostError,
  StoreError,
  UnreachableError,
} from './errors.ts';
export type { HeadersSource } from './links/headers.ts';
export type { FetchLike } from './links/requester.fetch.ts';
export type { CommandTarget } from './links/target.ts';
export type { ConnectOptions, RetryOptions, SessionOptions, Target, TimeoutOptions } from './options.ts';
export type { SessionEmitter, SessionEvents } from './session/events.ts';
export type { StateName } from './session/state.ts';
export { type SessionInfo, SessionTransport } from './session/transport.ts';
export { memoryStore } from './storage/memory-store.ts';
export type { Store, StoredValue } from './storage/store.ts';
