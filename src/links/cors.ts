import { within } from '../timers.ts';

/** What a browser's rules (CORS) made of a request to another origin. */
export interface CorsFault {
  /** What the server must send, for its maker. */
  readonly text: string;
  /** The browser asked the server first, and sent nothing: the request surely did not run. */
  readonly notSent: boolean;
}

type Fetch = (url: string | URL, init?: RequestInit) => Promise<Response>;

/** All questions together take no longer, in ms. */
const LIMIT = 3000;
/** Headers that need nobody's leave (Fetch standard, CORS-safelisted request-header). */
const SIMPLE = new Set(['accept', 'content-type']);

/**
 * Finds out why a browser failed a request to another origin, which it tells no page. Asks the server again, by requests that do
 * nothing: GET, without a session, and never with what is secret. `undefined` where it cannot be reached, or allows everything.
 */
export async function corsFault(url: URL, headers: Readonly<Record<string, string>>, origin: string, send: Fetch): Promise<CorsFault | undefined> {
  const stop = new AbortController();
  const reaches = (init: RequestInit): Promise<boolean> =>
    send(url, { ...init, signal: stop.signal }).then(
      (response) => {
        void response.body?.cancel().catch(() => undefined);
        return true;
      },
      () => false,
    );
  const look = async (): Promise<CorsFault | undefined> => {
    if (!(await reaches({ mode: 'no-cors' }))) return undefined;
    if (!(await reaches({ headers: { accept: 'text/event-stream' } }))) {
      return { text: `the server is there, but does not let this page read its answers: it must send \`Access-Control-Allow-Origin: ${origin}\` with each of them, errors too`, notSent: false };
    }
    // The type of a POST's body needs leave as well, where it is JSON.
    const names = Object.keys(headers).filter((name) => !SIMPLE.has(name) || headers[name] === 'application/json');
    const allowed = await Promise.all(names.map((name) => reaches({ headers: { [name]: name === 'content-type' ? 'application/json' : 'x' } })));
    const refused = names.filter((_, i) => !allowed[i]);
    if (refused.length === 0) return undefined;
    return { text: `the server does not let this page send ${refused.join(', ')}: its answer to OPTIONS must have \`Access-Control-Allow-Headers: ${names.join(', ')}\``, notSent: true };
  };
  try {
    return await within(look(), LIMIT);
  } catch {
    return undefined;
  } finally {
    stop.abort();
  }
}
