import type { JSONRPCMessage } from '@modelcontextprotocol/sdk/types.js';
import { createParser } from 'eventsource-parser';
import { redactedData, redactedError, secretsIn, secretsOf } from '../redact.ts';
import type { Signal } from '../signals.ts';
import { after } from '../timers.ts';
import { type HeadersSource, readHeaders, sameHeaders } from './headers.ts';
import { type HttpFailure, readHttpFailure } from './http-failure.ts';
import type { Ending, Exchange, Link, LinkSession } from './link.ts';
import { parseMessages } from './messages.ts';
import { type Authorizer, type Challenge, challengeOf } from './oauth.ts';
import { type HttpReply, isPermanent, NotSentError, type Requester, UnreadableError } from './requester.ts';

/** What all links of one server share. */
export interface HttpEndpoint {
  readonly url: URL;
  readonly requester: Requester;
  readonly headers?: HeadersSource | undefined;
  readonly authorizer?: Authorizer | undefined;
  /** The most characters that one answer or one event may have. */
  readonly responseLimit: number;
}

const MOST_REDIRECTS = 5;
/** What a user who gives no headers adds to a request. */
const NONE: Readonly<Record<string, string>> = {};
/** Of a body that is no answer we read only as much as explains it, and wait for it, in ms, only as long as it takes to come. */
const GLANCE = { characters: 64 * 1024, time: 2000 };

/** Streamable HTTP (2025-03-26 and later): each message is a POST, answered by JSON or by a stream of events. */
export class HttpLink implements Link {
  readonly kind = 'http';
  onNoise?: ((error: Error) => void) | undefined;
  readonly #endpoint: HttpEndpoint;
  /** Those of the URL. */
  readonly #secrets: readonly string[];
  #session: LinkSession | undefined;

  constructor(endpoint: HttpEndpoint) {
    this.#endpoint = endpoint;
    this.#secrets = secretsOf(endpoint.url);
  }

  adopt(session: LinkSession): void {
    this.#session = session;
  }

  async open(): Promise<void> {}

  send(message: JSONRPCMessage | readonly JSONRPCMessage[], exchange: Exchange): Promise<Ending> {
    return this.#exchange(
      {
        method: 'POST',
        headers: { 'content-type': 'application/json', accept: 'application/json, text/event-stream' },
        body: JSON.stringify(message),
      },
      exchange,
      Array.isArray(message) ? message.some(isRequest) : isRequest(message as JSONRPCMessage),
    );
  }

  listen(exchange: Exchange, lastEventId?: string): Promise<Ending> {
    const headers = { accept: 'text/event-stream', ...(lastEventId === undefined ? {} : { 'last-event-id': eventIdHeader(lastEventId) }) };
    return this.#exchange({ method: 'GET', headers }, exchange, true);
  }

  async end(signal: AbortSignal): Promise<void> {
    if (this.#session?.id === undefined) return;
    const carried = this.#carried();
    try {
      (await this.#request({ method: 'DELETE', headers: {} }, carried, signal)).reply.cancel();
    } catch (error) {
      this.onNoise?.(redactedError(asError(error), carried));
    }
  }

  /** Nothing is held: each exchange has its own connection, and idle ones belong to the requester. */
  async close(): Promise<void> {}

  async #exchange(head: RequestHead, exchange: Exchange, expectsBody: boolean): Promise<Ending> {
    if (exchange.signal.aborted) return { type: 'aborted' };
    const carried = this.#carried();
    try {
      return await this.#converse(head, carried, exchange, expectsBody);
    } catch (error) {
      if (error instanceof Denied) return { type: 'denied', error: error.reason };
      if (exchange.signal.aborted) return { type: 'aborted' };
      const clean = redactedError(asError(error), carried);
      if (error instanceof NotSentError) return { type: 'not-sent', error: clean, permanent: isPermanent(error) };
      return { type: error instanceof UnreadableError ? 'unreadable' : 'cut', error: clean };
    }
  }

  async #converse(head: RequestHead, carried: string[], exchange: Exchange, expectsBody: boolean): Promise<Ending> {
    const { reply, refusal } = await this.#request(head, carried, exchange.signal, () => exchange.onDispatched?.());
    if (refusal) return { type: 'refused', failure: refusal };
    exchange.onAccepted?.({ sessionId: reply.header('mcp-session-id') });
    const type = reply.header('content-type')?.split(';', 1)[0]?.trim().toLowerCase();
    // To a notification any 2xx means yes, whatever body some servers put under it.
    if (reply.status === 202 || reply.status === 204 || !expectsBody) {
      if (type === 'text/event-stream') reply.cancel();
      else await glance(reply);
      return { type: 'accepted' };
    }
    const ears: Ears = {
      // Errors end up in logs. What is in a result is for the caller alone.
      hear: (message) => {
        if (!exchange.signal.aborted) exchange.hear('error' in message ? { ...message, error: redactedData(message.error, carried) } : message);
      },
      noise: (error) => this.onNoise?.(redactedError(error, carried)),
    };
    if (type === 'text/event-stream') {
      await this.#readEvents(reply, exchange, ears);
      return { type: 'ended' };
    }
    if (type === 'application/json' && head.method === 'POST') {
      for (const message of parseMessages(await readText(reply, this.#endpoint.responseLimit), ears.noise)) ears.hear(message);
      return { type: 'ended' };
    }
    reply.cancel();
    const got = type ? `content type "${type}"` : 'no content type';
    throw new UnreadableError(`the server answered ${reply.status} with ${got}, which is neither JSON nor an event stream`);
  }

  async #readEvents(reply: HttpReply, exchange: Exchange, ears: Ears): Promise<void> {
    const limit = this.#endpoint.responseLimit;
    let sinceEvent = 0;
    let overhead = 0;
    const parser = createParser({
      onEvent: ({ id, event, data }) => {
        sinceEvent = 0;
        if (data) readEvent(event || 'message', data, ears);
        // After the message: a cursor must never be ahead of what was handed over.
        if (id && isEventId(id) && !exchange.signal.aborted) exchange.onEventId?.(id);
      },
      onRetry: (delay) => exchange.onRetryHint?.(delay),
      // A stream may live on comments for ever, but an event does not get longer by having them in it.
      onComment: (comment) => {
        sinceEvent = Math.max(0, sinceEvent - comment.length - overhead);
        overhead = 0;
      },
    });
    const { traffic } = this.#endpoint.requester;
    traffic.streams++;
    try {
      await reply.read((text) => {
        overhead = Math.max(0, HELD - text.length);
        sinceEvent += text.length + overhead + HELD * dataLines(text);
        parser.feed(text);
        if (sinceEvent > limit) throw new UnreadableError(`an event of the server is longer than the limit of ${limit} characters (limits.responseBytes)`);
      });
    } finally {
      traffic.streams--;
    }
  }

  /** What no error may repeat of an exchange, as far as it is known when it begins. */
  #carried(): string[] {
    return [...this.#secrets];
  }

  /** One request with headers, authorization and redirects seen to. A refusal has been read to its end. What is secret of it is added to `carried`. */
  async #request(head: RequestHead, carried: string[], signal: Signal, onDispatched?: () => void): Promise<{ reply: HttpReply; refusal?: HttpFailure }> {
    const { authorizer, headers: source } = this.#endpoint;
    const sessionId = this.#session?.id;
    const read = async (): Promise<Readonly<Record<string, string>>> => (source ? orDenied(() => readHeaders(source), signal) : NONE);
    let answered: Set<Challenge> | undefined;
    let changes = 0;
    let extra = source ? await read() : NONE;
    for (;;) {
      const grant = authorizer && (await orDenied(() => authorizer.grant(), signal));
      if (sessionId !== undefined) carried.push(sessionId);
      if (grant?.token !== undefined) carried.push(grant.token);
      if (extra !== NONE) carried.push(...secretsIn(extra));
      const { method, body } = head;
      const { reply, url } = await this.#follow({ method, headers: this.#compose(head.headers, extra, grant?.token), body }, signal, onDispatched);
      const given = reply.header('mcp-session-id');
      if (given !== undefined) carried.push(given);
      if (reply.status >= 200 && reply.status < 300) return { reply };

      const said = await glance(reply);
      const refusal = readHttpFailure({ status: reply.status, body: redirectText(reply, url) ?? said, header: (name) => reply.header(name), sessionId, secrets: carried, hidden: reply.hidesHeaders });
      // Leaving is not worth a question to the user.
      const challenge = head.method === 'DELETE' ? undefined : challengeOf(reply);
      const isAboutSession = refusal.verdict === 'session-lost' && reply.header('www-authenticate') === undefined;
      if (!challenge || isAboutSession || answered?.has(challenge)) return { reply, refusal };

      answered ??= new Set();
      if (authorizer && grant) {
        const how = await orDenied(() => authorizer.answer(challenge, reply, grant, head.method === 'GET'), signal);
        if (how === 'futile') return { reply, refusal };
        // Each challenge is answered by one flow. A token that somebody else has changed is worth one try beyond that.
        if (how === 'authorized' || changes++ > 0) answered.add(challenge);
        extra = await read();
      } else {
        answered.add(challenge);
        // Headers that are asked for may have been renewed in the meantime: one more look, one more try.
        const fresh = typeof source === 'function' && challenge === 'login' ? await read() : extra;
        if (sameHeaders(fresh, extra)) return { reply, refusal };
        extra = fresh;
      }
    }
  }

  #compose(own: Record<string, string>, extra: Readonly<Record<string, string>>, token: string | undefined): Record<string, string> {
    const headers: Record<string, string> = {};
    if (token !== undefined) headers['authorization'] = `Bearer ${token}`;
    if (extra !== NONE) for (const [name, value] of Object.entries(extra)) headers[name.toLowerCase()] = value;
    Object.assign(headers, own);
    if (this.#session?.id !== undefined) headers['mcp-session-id'] = this.#session.id;
    if (this.#session) headers['mcp-protocol-version'] = this.#session.protocolVersion;
    return headers;
  }

  /** Redirects that keep the method and stay within the origin are followed; our headers go nowhere else. */
  async #follow(head: RequestHead, signal: Signal, onDispatched: (() => void) | undefined): Promise<{ reply: HttpReply; url: URL }> {
    let { url } = this.#endpoint;
    for (let followed = 0; ; followed++) {
      const reply = await this.#endpoint.requester.request({ method: head.method, headers: head.headers, body: head.body, url, signal, onDispatched });
      if (reply.status < 300) return { reply, url };
      const target = redirectTarget(reply, url);
      const keepsMethod = reply.status === 307 || reply.status === 308 || head.method === 'GET';
      if (!target || !keepsMethod || followed === MOST_REDIRECTS || !staysWithin(url, target)) return { reply, url };
      await glance(reply);
      url = target;
    }
  }
}

/** Who hears what a server says in an answer, messages and what is none. */
interface Ears {
  hear(message: JSONRPCMessage): void;
  noise(error: Error): void;
}

function isRequest(message: JSONRPCMessage): boolean {
  return 'method' in message && 'id' in message;
}

interface RequestHead {
  readonly method: 'GET' | 'POST' | 'DELETE';
  readonly headers: Record<string, string>;
  readonly body?: string | undefined;
}

/** Carries what the user's own functions or the authorization threw, so that the caller sees it as it is. */
class Denied extends Error {
  readonly reason: Error;

  constructor(reason: Error) {
    super(reason.message);
    this.reason = reason;
  }
}

/** Asks the user's own code, and waits for it no longer than the exchange lasts: what hangs there must not hang us. */
async function orDenied<T>(ask: () => Promise<T>, signal: Signal): Promise<T> {
  let giveUp = (): void => {};
  const givenUp = new Promise<never>((_, reject) => {
    giveUp = () => reject(new NotSentError('given up before it was sent', { cause: signal.reason }));
  });
  signal.addEventListener('abort', giveUp, { once: true });
  try {
    if (signal.aborted) giveUp();
    const denied = (error: unknown): never => {
      throw new Denied(asError(error));
    };
    return await Promise.race([givenUp, ask().catch(denied)]);
  } finally {
    signal.removeEventListener('abort', giveUp);
  }
}

/** What each line of an event, and each piece that a body comes in, takes in memory until it is put together, in characters. */
const HELD = 64;

/** How many lines of data begin in a text. */
function dataLines(text: string): number {
  let lines = text.startsWith('d') ? 1 : 0;
  for (const start of ['\nd', '\rd']) for (let at = text.indexOf(start); at >= 0; at = text.indexOf(start, at + 2)) lines++;
  return lines;
}

/** So many pieces are put together at a time: a million of two characters each would take more memory than the text. */
const MOST_PIECES = 1000;

/** One message, or the array of a 2025-03-26 batch. What is neither is noise. */
function readEvent(event: string, data: string, { hear, noise }: Ears): void {
  let messages: JSONRPCMessage[] = [];
  try {
    if (event === 'message') messages = parseMessages(data, noise);
  } catch {
    // Told below, and skipped: the answer may still come.
  }
  if (messages.length === 0) noise(new Error(`an event of the server is not a JSON-RPC message (event "${event}")`));
  for (const message of messages) hear(message);
}

async function readText(reply: HttpReply, limit: number): Promise<string> {
  const parts: string[] = [];
  let whole = 0;
  let length = 0;
  await reply.read((text) => {
    length += text.length;
    if (length > limit) throw new UnreadableError(`the server's answer is longer than the limit of ${limit} characters (limits.responseBytes)`);
    parts.push(text);
    if (parts.length - whole > MOST_PIECES) parts.push(parts.splice(whole++).join(''));
  });
  return parts.join('');
}

/**
 * What there is of a body that is no answer. It is let come to its end, so that the connection can be used again, but a body that
 * is endless or never comes is let go: the status says the most, and a refusal whose text cannot be read is still a refusal.
 */
async function glance(reply: HttpReply): Promise<string> {
  let text = '';
  const stop = after(GLANCE.time, () => reply.cancel());
  const read = reply.read((part) => {
    text += part;
    if (text.length > GLANCE.characters) reply.cancel();
  });
  await read.catch(() => {});
  stop();
  return text.slice(0, GLANCE.characters);
}

/** Whether an event id can go back to the server in a header. Nothing is resumed from one that cannot. */
export function isEventId(id: string): boolean {
  return id.length <= 1024 && /^[\x20-\x7e\x80-\uffff]+$/.test(id);
}

/** As the standard of event streams has it, an id is sent in UTF-8; both requesters take a string of bytes. */
function eventIdHeader(id: string): string {
  return String.fromCharCode(...new TextEncoder().encode(id));
}

function redirectTarget(reply: HttpReply, from: URL): URL | undefined {
  const location = [301, 302, 303, 307, 308].includes(reply.status) ? reply.header('location') : undefined;
  return location !== undefined && URL.canParse(location, from) ? new URL(location, from) : undefined;
}

/** The same origin, or its https form on the default ports, and no credentials slipped in. */
function staysWithin(from: URL, to: URL): boolean {
  if (to.username !== from.username || to.password !== from.password || from.hostname !== to.hostname) return false;
  return from.origin === to.origin || (from.protocol === 'http:' && from.port === '' && to.protocol === 'https:' && to.port === '');
}

function redirectText(reply: HttpReply, from: URL): string | undefined {
  if (reply.status < 300 || reply.status > 399) return undefined;
  const target = redirectTarget(reply, from);
  if (!target) return 'redirect not followed: this runtime does not show where it leads';
  const why = staysWithin(from, target) ? `it changes the method, or is one of more than ${MOST_REDIRECTS}` : "it leaves the server's origin";
  return `redirect to ${target.origin}${target.pathname} not followed: ${why}`;
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
