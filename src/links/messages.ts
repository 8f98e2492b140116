import type { JSONRPCMessage } from '@modelcontextprotocol/sdk/types.js';
import { DEEPEST, nestsTooDeep } from '../depth.ts';
import { UnreadableError } from './requester.ts';

/** The JSON-RPC message in a text, or `undefined` where there is none. */
export function parseMessage(text: string): JSONRPCMessage | undefined {
  if (nestsTooDeep(text)) return undefined;
  try {
    return asMessage(JSON.parse(text));
  } catch {
    return undefined;
  }
}

/**
 * The JSON-RPC messages in a body: one, or the array of a 2025-03-26 batch. What is no message does not lose its neighbours: it is
 * told to `onStray`. Throws an {@link UnreadableError} that says what is wrong where there is no message at all.
 */
export function parseMessages(text: string, onStray?: (error: Error) => void): JSONRPCMessage[] {
  if (nestsTooDeep(text)) throw new UnreadableError(`the JSON nests more than ${DEEPEST} levels deep`);
  const value = parseJson(text);
  const items: readonly unknown[] = Array.isArray(value) ? value : [value];
  const messages = items.map(asMessage).filter((message) => message !== undefined);
  if (messages.length === 0) throw new UnreadableError('the body is not a JSON-RPC message');
  const strays = items.length - messages.length;
  if (strays > 0) onStray?.(new Error(`${strays} of the ${items.length} items that the server sent in one array ${strays === 1 ? 'is no JSON-RPC message' : 'are no JSON-RPC messages'}`));
  return messages;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The engine's own message repeats a piece of the text.
    throw new UnreadableError('the body is not JSON');
  }
}

/**
 * The shape that routing needs, and all that the SDK looks at before it knows whom a message is for: it has no use for one with other
 * members, or with a `_meta` that makes no sense, and whoever waits for that answer would wait until the deadline. What else is in a
 * result is for the SDK's schemas to judge, so that nothing is checked twice.
 */
function asMessage(value: unknown): JSONRPCMessage | undefined {
  if (!isObject(value) || value['jsonrpc'] !== '2.0') return undefined;
  const { id, method, params, result, error } = value;
  if (method !== undefined) {
    const valid = typeof method === 'string' && (id === undefined || isId(id)) && (params === undefined || (isObject(params) && isMeta(params['_meta'])));
    return valid ? messageOf({ id, method, params }) : undefined;
  }
  if (isObject(result) && error === undefined) return isId(id) && isMeta(result['_meta']) ? messageOf({ id, result }) : undefined;
  // An error may lack an id, or have null, where the server could not tell which request it was.
  if (isObject(error) && result === undefined && Number.isSafeInteger(error['code']) && typeof error['message'] === 'string') return messageOf({ id, error });
  return undefined;
}

/** Members that JSON-RPC does not know are left out. */
function messageOf(members: Record<string, unknown>): JSONRPCMessage {
  const message: Record<string, unknown> = { jsonrpc: '2.0' };
  for (const name in members) if (members[name] !== undefined) message[name] = members[name];
  return message as unknown as JSONRPCMessage;
}

/** Whether a `_meta` is one that the SDK takes, or there is none. */
export function isMeta(value: unknown): boolean {
  if (value === undefined) return true;
  if (!isObject(value)) return false;
  const { progressToken: token, 'io.modelcontextprotocol/related-task': task } = value;
  return (token === undefined || typeof token === 'string' || Number.isSafeInteger(token)) && (task === undefined || (isObject(task) && typeof task['taskId'] === 'string'));
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isId(value: unknown): value is string | number {
  return typeof value === 'string' || typeof value === 'number';
}
