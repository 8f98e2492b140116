import { onAbort, type Signal } from '../signals.ts';
import { within } from '../timers.ts';

type Fetch = (url: string | URL, init?: RequestInit) => Promise<Response>;

/** All questions together take no longer, in ms. */
const LIMIT = 3000;
/** Headers that need nobody's leave (Fetch standard, CORS-safelisted request-header). */
const SIMPLE = new Set(['accept', 'content-type']);

/**
 * Finds out why a browser failed a request to another origin, which it tells no page, and says what the server must send. Asks it again,
 * by requests that do nothing: GET, without a session, and never with what is secret. `undefined` where it cannot be reached, or allows
 * everything. It proves nothing of the request itself: that may have gone out before something changed.
 */
export async function corsFault(url: URL, headers: Readonly<Record<string, string>>, origin: string, send: Fetch, signal: Signal): Promise<string | undefined> {
  const stop = new AbortController();
  const release = onAbort(signal, () => stop.abort());
  const reaches = (init: RequestInit): Promise<boolean> =>
    send(url, { ...init, signal: stop.signal }).then(
      (response) => {
        void response.body?.cancel().catch(() => undefined);
        return true;
      },
      () => false,
    );
  const look = async (): Promise<string | undefined> => {
    if (!(await reaches({ mode: 'no-cors' }))) return undefined;
    if (!(await reaches({ headers: { accept: 'text/event-stream' } }))) {
      return `the server is there, but does not let this page read its answers: it must send \`Access-Control-Allow-Origin: ${origin}\` with each of them, errors too`;
    }
    // The type of a POST's body needs leave as well, where it is JSON.
    const names = Object.keys(headers).filter((name) => !SIMPLE.has(name) || headers[name] === 'application/json');
    const allowed = await Promise.all(names.map((name) => reaches({ headers: { [name]: name === 'content-type' ? 'application/json' : 'x' } })));
    const refused = names.filter((_, i) => !allowed[i]);
    if (refused.length === 0) return undefined;
    return `the server does not let this page send ${refused.join(', ')}: its answer to OPTIONS must have \`Access-Control-Allow-Headers: ${names.join(', ')}\``;
  };
  try {
    const fault = await within(Promise.race([look(), aborted(stop.signal)]), LIMIT);
    return signal.aborted ? undefined : fault;
  } catch {
    return undefined;
  } finally {
    release();
    stop.abort();
  }
}

function aborted(signal: Signal): Promise<undefined> {
  return new Promise((resolve) => void onAbort(signal, () => resolve(undefined)));
}
