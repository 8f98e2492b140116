import { type HttpReply, type HttpRequest, NotSentError, type Requester } from './requester.ts';

export type FetchLike = (url: string | URL, init?: RequestInit) => Promise<Response>;

/** A requester over fetch: the browser's, or one that the user gave. */
export function fetchRequester(fetchFn?: FetchLike, init: Omit<RequestInit, 'headers'> = {}): Requester {
  return {
    async request({ method, url, headers, body, signal }: HttpRequest): Promise<HttpReply> {
      // Looked up per request, so that a fetch that was patched after the import is the one that is used.
      const send = fetchFn ?? fetch;
      let response: Response;
      try {
        response = await send(url, { ...init, method, headers, signal, redirect: 'manual', ...(body === undefined ? {} : { body }) });
      } catch (error) {
        throw provesNothingSent(error) ? new NotSentError(describe(error), { cause: error }) : error;
      }
      return {
        // A browser hides a redirect behind status 0.
        status: response.type === 'opaqueredirect' ? 302 : response.status,
        header: (name) => response.headers.get(name) ?? undefined,
        read: (onText) => readBody(response, onText),
        cancel: () => void response.body?.cancel().catch(() => {}),
      };
    },
    close() {},
  };
}

async function readBody(response: Response, onText: (text: string) => void): Promise<void> {
  if (!response.body) return;
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      onText(decoder.decode(value, { stream: true }));
    }
    const rest = decoder.decode();
    if (rest) onText(rest);
  } catch (error) {
    void reader.cancel().catch(() => {});
    throw error;
  }
}

/** The failures of undici that come before a connection exists. A browser's `Failed to fetch` proves nothing. */
const BEFORE_CONNECTION = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'UND_ERR_CONNECT_TIMEOUT']);

function provesNothingSent(error: unknown): boolean {
  const cause = error instanceof Error ? error.cause : undefined;
  if (typeof cause !== 'object' || cause === null) return false;
  // Happy eyeballs: one error for each address that was tried.
  const tried = 'errors' in cause && Array.isArray(cause.errors) && cause.errors.length > 0 ? cause.errors : [cause];
  return tried.every((each: unknown) => BEFORE_CONNECTION.has(String((each as { code?: unknown } | null)?.code)));
}

function describe(error: unknown): string {
  const { message, cause } = error as Error;
  const code = (cause as { code?: unknown } | undefined)?.code;
  return code === undefined ? message : `${message} (${String(code)})`;
}
