import type { ConnectOptions } from '../../src/options.ts';

/** Who is measured: the SDK's own client, the least that node:http can be made to do, and ours. */
export const CONTENDERS = ['sdk', 'floor', 'ours'] as const;
export type ContenderName = (typeof CONTENDERS)[number];

/** A client that is connected. */
export interface Connection {
  /** Calls a tool; resolves with its result. The floor knows no `signal`. */
  call(tool: string, text: string, signal?: AbortSignal): Promise<unknown>;
  listTools(): Promise<unknown>;
  /** Ends the session (DELETE), or keeps it where it is stored. */
  close(): Promise<void>;
  /** Only ours: all at once, as JSON arrays. */
  batch?(texts: readonly string[]): Promise<unknown>;
  readonly sessionId: string | undefined;
}

export interface Contender {
  /** Loads what {@link connect} will need, as a program does with its imports. */
  prepare?(options?: ContenderOptions): Promise<unknown>;
  connect(url: string, options?: ContenderOptions): Promise<Connection>;
  /** One call and no more. Without it: connect, call and close. */
  once?(url: string, tool: string, text: string, options?: ContenderOptions): Promise<unknown>;
}

export interface ContenderOptions {
  /** A session that is taken up by hand: the SDK and the floor know no other way. */
  readonly sessionId?: string | undefined;
  /** For ours: the directory of a file store. */
  readonly storeAt?: string | undefined;
  /** For ours: a Redis, and the prefix of a store in it. */
  readonly redisAt?: { readonly url: string; readonly prefix: string } | undefined;
  /** For ours. */
  readonly ours?: ConnectOptions | undefined;
}

/** Only what is measured is loaded. */
export async function contender(name: ContenderName): Promise<Contender> {
  if (name === 'sdk') return (await import('./contender.sdk.ts')).sdk;
  if (name === 'floor') return (await import('./contender.floor.ts')).floor;
  return (await import('./contender.ours.ts')).ours;
}
