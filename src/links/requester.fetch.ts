import { nativeOf } from '../signals.ts';
import { isOffline } from '../wake.ts';
import { corsFault } from './cors.ts';
import { type HttpReply, type HttpRequest, NotSentError, type Requester, type Traffic } from './requester.ts';

export type FetchLike = (url: string | URL, init?: RequestInit) => Promise<Response>;

/** A requester over fetch: the browser's, or one that the user gave. */
export function fetchRequester(fetchFn?: FetchLike, init: Omit<RequestInit, 'headers'> = {}): Requester {
  const traffic: Traffic = { sent: 0, received: 0, streams: 0 };
  /** Requests that the browser has let through: what fails later is not for its rules. */
  const letThrough = new Set<string>();
  const explain = async ({ method, url, headers, signal }: HttpRequest, send: FetchLike): Promise<string | undefined> => {
    const origin = (globalThis as { location?: { origin?: string } }).location?.origin;
    if (method === 'DELETE' || signal.aborted || origin === undefined || origin === url.origin || letThrough.has(kindOf(headers))) return undefined;
    return corsFault(url, headers, origin, send, signal);
  };
  return {
    traffic,
    async request(request: HttpRequest): Promise<HttpReply> {
      const { method, url, headers, body, signal, onDispatched } = request;
      // Looked up per request, so that a fetch that was patched after the import is the one that is used.
      const send = fetchFn ?? fetch;
      let response: Response;
      // A browser says of any failure that it failed; but what there is no network for cannot have been sent.
      if (!fetchFn && isOffline() && !LOOPBACK.test(new URL(url).hostname)) throw Object.assign(new NotSentError('this device is offline'), { code: 'ERR_OFFLINE' });
      if (!signal.aborted) onDispatched?.();
      traffic.sent += body?.length ?? 0;
      try {
        response = await send(url, { ...init, method, headers, signal: nativeOf(signal), redirect: 'manual', ...(body === undefined ? {} : { body }) });
      } catch (error) {
        if (provesNothingSent(error)) throw new NotSentError(describe(error), { cause: error });
        const fault = await explain(request, send);
        if (fault === undefined) throw error;
        throw Object.assign(new Error(fault, { cause: error }), { code: 'ERR_CORS' });
      }
      letThrough.add(kindOf(headers));
      let reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
      return {
        // A browser hides a redirect behind status 0.
        status: response.type === 'opaqueredirect' ? 302 : response.status,
        header: (name) => response.headers.get(name) ?? undefined,
        hidesHeaders: response.type === 'cors',
        read: async (onText) => {
          reader = response.body?.getReader();
          if (reader) await readBody(reader, traffic, onText);
        },
        // Only its reader can cancel a body that is being read.
        cancel: () => void (reader ?? response.body)?.cancel().catch(() => {}),
      };
    },
    close() {},
  };
}

/** What a browser's rules for other origins look at. */
function kindOf(headers: Readonly<Record<string, string>>): string {
  return Object.keys(headers).sort().join();
}

/** What needs no network, or one that the device may not count as such. */
const LOOPBACK = /^(localhost|.*\.(localhost|local)|127(\.\d+){3}|0\.0\.0\.0|\[::1\])$/;

async function readBody(reader: ReadableStreamDefaultReader<Uint8Array>, traffic: Traffic, onText: (text: string) => void): Promise<void> {
  const decoder = new TextDecoder();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      traffic.received += value.length;
      onText(decoder.decode(value, { stream: true }));
    }
    const rest = decoder.decode();
    if (rest) onText(rest);
  } catch (error) {
    void reader.cancel().catch(() => {});
    throw error;
  }
}

/** What comes before a connection stands, for Node's fetch and those that are built like it. A browser's `Failed to fetch` proves nothing. */
const BEFORE_CONNECTION = new Set(['connect', 'getaddrinfo']);
/** A certificate that we refused, or no connection in time. */
const NO_CONNECTION = /^(UND_ERR_CONNECT_TIMEOUT|ERR_TLS_CERT_ALTNAME_INVALID|CERT_.+|UNABLE_TO_(GET|VERIFY|DECRYPT)_.+|(DEPTH_ZERO_SELF_SIGNED|SELF_SIGNED)_.+)$/;

function provesNothingSent(error: unknown): boolean {
  const cause = (error instanceof Error ? error.cause : undefined) ?? error;
  if (typeof cause !== 'object' || cause === null) return false;
  // Happy eyeballs: one error for each address that was tried.
  const tried: unknown[] = 'errors' in cause && Array.isArray(cause.errors) && cause.errors.length > 0 ? cause.errors : [cause];
  return tried.every((each) => {
    const { code, syscall } = (each ?? {}) as { code?: unknown; syscall?: unknown };
    return BEFORE_CONNECTION.has(String(syscall)) || NO_CONNECTION.test(String(code));
  });
}

function describe(error: unknown): string {
  const { message, cause } = error as Error;
  const code = (cause as { code?: unknown } | undefined)?.code;
  return code === undefined ? message : `${message} (${String(code)})`;
}
