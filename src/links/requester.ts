/**
 * One HTTP request, whoever makes it. Two implementations: node:http and fetch. Neither follows redirects, retries or has a
 * time limit of its own: those belong to the link and its caller.
 */
export interface Requester {
  request(request: HttpRequest): Promise<HttpReply>;
  /** Closes idle connections and everything in flight. */
  close(): void;
}

export interface HttpRequest {
  readonly method: 'GET' | 'POST' | 'DELETE';
  readonly url: URL;
  readonly headers: Record<string, string>;
  readonly body?: string;
  readonly signal: AbortSignal;
}

export interface HttpReply {
  readonly status: number;
  header(name: string): string | undefined;
  /** Feeds the body, decoded, to `onText` as it comes. Resolves at its proper end, rejects when it breaks off. */
  read(onText: (text: string) => void): Promise<void>;
  /** Lets the rest of the body go. */
  cancel(): void;
}

/** Thrown by a requester when it is certain that no byte of the request reached the server. */
export class NotSentError extends Error {
  override readonly name = 'NotSentError';
}
