import { DEEPEST, nestsTooDeep } from '../depth.ts';

/** What a user keeps with a session. It belongs to the session's name, not to the server's session: it outlives the loss of that. */
export interface UserState {
  /** What the session is about, as JSON. A new one begins with the option `metadata`. */
  readonly metadata: Readonly<Record<string, unknown>>;
  /** A small state object, as JSON: at most 64 KB. */
  readonly data: Readonly<Record<string, unknown>>;
}

/** What takes the place of what is there. What is left out stays. */
export interface UserChange {
  readonly metadata?: UserState['metadata'] | undefined;
  readonly data?: UserState['data'] | undefined;
}

/** How it is kept in a record. */
export type KeptState = { readonly [P in keyof UserState]?: UserState[P] };

/** The most that `data` may be, in bytes of JSON (UTF-8). */
const MOST_DATA = 64 * 1024;

export function userState({ metadata = {}, data = {} }: KeptState): UserState {
  return { metadata, data };
}

/** A record with what is kept in another one, or comes by a change. */
export function withState<R extends object>(record: R, { metadata, data }: KeptState): R & KeptState {
  return { ...record, ...(metadata === undefined ? {} : { metadata }), ...(data === undefined ? {} : { data }) };
}

/**
 * Asks for a change, and checks it.
 *
 * @param session - what the change is asked with, in a copy: it may do with that what it likes
 * @throws TypeError or RangeError for a change that makes no sense, and whatever `change` throws
 */
export function askChange<T extends UserState>(session: T, change: (session: T) => UserChange): KeptState {
  const asked: unknown = change(structuredClone(session));
  if (!isObject(asked) || asked instanceof Promise) throw new TypeError('an update must return an object such as { data: { … } }, and no promise');
  const stranger = Object.keys(asked).find((name) => name !== 'metadata' && name !== 'data');
  if (stranger !== undefined) throw new TypeError(`an update has no "${stranger}"; it knows metadata, data. To keep something, return { data: { … } }`);
  const { metadata, data } = asked as UserChange;
  return {
    ...(metadata === undefined ? {} : { metadata: asJson(metadata, 'metadata') }),
    ...(data === undefined ? {} : { data: checkedData(data) }),
  };
}

/** @throws TypeError or RangeError for what a session cannot keep */
export function checkedData(data: unknown): UserState['data'] {
  return asJson(data, 'data', MOST_DATA);
}

/** What becomes of a value in a store. */
function asJson(value: unknown, name: string, most = Number.POSITIVE_INFINITY): Record<string, unknown> {
  let text: string | undefined;
  try {
    text = JSON.stringify(value);
  } catch (error) {
    throw new TypeError(`${name} cannot be written as JSON`, { cause: error });
  }
  const copy: unknown = text === undefined ? undefined : JSON.parse(text);
  if (!isObject(value) || !isObject(copy)) throw new TypeError(`${name} must be a plain object`);
  // Nobody could read the record again.
  if (text !== undefined && nestsTooDeep(text)) throw new RangeError(`${name} must not nest more than ${DEEPEST} levels deep`);
  const size = new TextEncoder().encode(text).length;
  if (size > most) throw new RangeError(`${name} must be at most ${most} bytes of JSON, not ${size}`);
  return copy;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
