import { named } from '../errors.ts';
import type { Signal } from '../signals.ts';

/**
 * One HTTP request, whoever makes it. Two implementations: node:http and fetch. Neither follows redirects, retries or has a
 * time limit of its own: those belong to the link and its caller.
 */
export interface Requester {
  readonly traffic: Traffic;
  request(request: HttpRequest): Promise<HttpReply>;
  /** Opens a connection for a request that is about to come, where that can be done. Fails silently. */
  warm?(method: HttpRequest['method'], url: URL): void;
  /** Closes idle connections and everything in flight. */
  close(): void;
}

/** What has gone over the wire so far. */
export interface Traffic {
  /** Bytes of bodies. Where the platform does the reading and writing of text, characters stand for bytes sent. */
  sent: number;
  received: number;
  /** Event streams that are open. */
  streams: number;
}

export interface HttpRequest {
  readonly method: 'GET' | 'POST' | 'DELETE';
  readonly url: URL;
  readonly headers: Record<string, string>;
  readonly body?: string | undefined;
  readonly signal: Signal;
  /** Called when the connection stands, or at once by a requester that cannot tell. */
  readonly onDispatched?: (() => void) | undefined;
}

export interface HttpReply {
  readonly status: number;
  header(name: string): string | undefined;
  /** Feeds the body, decoded, to `onText` as it comes. Resolves at its proper end, rejects when it breaks off. */
  read(onText: (text: string) => void): Promise<void>;
  /** A browser shows of an answer from another origin only the headers that the server lets it see. */
  readonly hidesHeaders?: boolean;
  /** Lets the rest of the body go. */
  cancel(): void;
}

/** Thrown by a requester when it is certain that no byte of the request reached the server. */
export class NotSentError extends Error {}

/** What a server sent cannot be read, and will be no better the next time. */
export class UnreadableError extends Error {}

named({ NotSentError, UnreadableError });

/** What no further attempt will change: a server that does not let a browser's page speak to it, no such command, no TLS on that port, a certificate that cannot be trusted. */
const PERMANENT = /^(ERR_CORS|ENOENT|EACCES|EPROTO|ERR_SSL_.+|ERR_TLS_.+|CERT_.+|UNABLE_TO_(GET|VERIFY|DECRYPT)_.+|(DEPTH_ZERO_SELF_SIGNED|SELF_SIGNED)_.+)$/;

/** Whether an error that came before anything was sent will come again. */
export function isPermanent(error: unknown): boolean {
  for (let each = error; each instanceof Error; each = each.cause) {
    if (PERMANENT.test(String((each as { code?: unknown }).code))) return true;
  }
  return false;
}
