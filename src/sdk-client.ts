import type { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { CallToolResultSchema, InitializeResultSchema, ListToolsResultSchema } from '@modelcontextprotocol/sdk/types.js';
import { afterIdle, LONGEST_TIMER } from './timers.ts';

// Where the SDK's `Client` does otherwise than a client that survives must.

/** What each of the SDK's schemas that come first can read. */
const unprepared = new Map<unknown, () => unknown>([
  [InitializeResultSchema, () => InitializeResultSchema.safeParse({ protocolVersion: '', capabilities: {}, serverInfo: { name: '', version: '' } })],
  [CallToolResultSchema, () => CallToolResultSchema.safeParse({ content: [{ type: 'text', text: '' }] })],
  [ListToolsResultSchema, () => ListToolsResultSchema.safeParse({ tools: [{ name: '', inputSchema: { type: 'object' } }] })],
]);

/**
 * The SDK's schemas are compiled when they first read something, which takes 10 ms in a new process: let that be while the first request is
 * on its way, and not when its answer is there.
 */
export function prepare(schema: unknown): void {
  const parse = unprepared.get(schema);
  if (parse && unprepared.delete(schema)) afterIdle(1, parse);
}

/**
 * The SDK sets a timer for each request. Ours is always the first, one for all of them: what the SDK is told to wait for as long as it can
 * needs none. This is not part of its API; in a version that has no such method it sets its timers.
 */
export function spareTimers(client: Client): void {
  const sdk = client as unknown as { _setupTimeout?: (id: number, timeout: number, ...more: unknown[]) => void };
  const setUp = sdk._setupTimeout?.bind(client);
  if (setUp) sdk._setupTimeout = (id, timeout, ...more) => void (timeout < LONGEST_TIMER && setUp(id, timeout, ...more));
}

/** The SDK calls the user's `onerror` from promises that nobody awaits: what it throws there would end the process (G11). */
export function guardOnError(client: Client): void {
  let listener: ((error: Error) => void) | undefined;
  const guarded = (error: Error): void => {
    try {
      listener?.(error);
    } catch {
      // Whoever throws in an error handler has nowhere left to be told.
    }
  };
  Object.defineProperty(client, 'onerror', {
    configurable: true,
    enumerable: true,
    get: () => listener && guarded,
    set(next: typeof listener) {
      listener = next;
    },
  });
}
