import { createServer, type Server } from 'node:http';
import { text } from 'node:stream/consumers';
import { listen } from '../support/ports.ts';
import { PLACES, type Replies, type Reply } from './recorded.ts';
import type { Random } from './mutate.ts';

export interface Question {
  readonly method: string;
  readonly url: string;
  readonly session: string | undefined;
  readonly rpc: { readonly id?: number; readonly method?: string; readonly params?: { readonly arguments?: { readonly text?: string } } };
}

/** What goes out instead of an answer. */
export interface Changed extends Reply {
  /** The body breaks off after so many pieces of this length. */
  readonly pieces?: number | undefined;
  readonly breaksOff?: boolean | undefined;
  /** The whole answer as it goes over the wire, where somebody speaks HTTP. */
  readonly raw?: Uint8Array | undefined;
}

export type Change = (reply: Reply, question: Question) => Changed;

/** Gives recorded answers, with the ids of who asks, and changes the next one that it is told to. It knows which sessions are its own. */
export class RecordedServer {
  readonly sessions = new Set<string>();
  readonly asked: Question[] = [];
  /** Changes the answers to what it fits. */
  change: { fits(question: Question): boolean; change: Change } | undefined;
  readonly #replies: Replies;
  #http: Server | undefined;
  #turn = 0;

  constructor(replies: Replies) {
    this.#replies = replies;
  }

  answer(question: Question): Changed {
    this.asked.push(question);
    const reply = this.#good(question);
    return this.change?.fits(question) ? this.change.change(reply, question) : reply;
  }

  /** Instead of a network. */
  readonly fetch = async (url: string | URL, init: RequestInit = {}): Promise<Response> => {
    await Promise.resolve();
    init.signal?.throwIfAborted();
    const headers = init.headers as Record<string, string>;
    return responseOf(this.answer({ method: init.method ?? 'GET', url: String(url), session: headers['mcp-session-id'], rpc: JSON.parse(String(init.body ?? '{}')) as Question['rpc'] }));
  };

  /** Over a real network. Returns the address. */
  async listen(): Promise<string> {
    this.#http = createServer(async (req, res) => {
      const body = await text(req).catch(() => '');
      const session = req.headers['mcp-session-id'] as string | undefined;
      const { status, headers, body: answer, raw, breaksOff } = this.answer({ method: req.method ?? '', url: req.url ?? '', session, rpc: JSON.parse(body || '{}') as Question['rpc'] });
      if (raw) res.socket?.end(raw);
      else {
        res.writeHead(status, headers);
        if (breaksOff) res.write(answer.slice(0, answer.length / 2), () => res.destroy());
        else res.end(answer);
      }
    });
    return `http://127.0.0.1:${await listen(this.#http)}/mcp`;
  }

  async close(): Promise<void> {
    this.#http?.closeAllConnections();
    await new Promise((closed) => (this.#http ? this.#http.close(closed) : closed(undefined)));
  }

  #good({ method, session, rpc }: Question): Reply {
    const known = rpc.method === 'initialize' || session === undefined || this.sessions.has(session);
    if (!known) return { status: 404, headers: { 'content-type': 'application/json' }, body: '{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}' };
    if (method !== 'POST') return { status: method === 'GET' ? 405 : 204, headers: {}, body: '' };
    const all = this.#replies.get(rpc.method ?? '') ?? [];
    const reply = all[this.#turn++ % all.length];
    if (rpc.id === undefined || !reply) return { status: 202, headers: {}, body: '' };
    const own = `session-${this.sessions.size + 1}`;
    if (rpc.method === 'initialize') this.sessions.add(own);
    const fill = (template: string): string => template.replaceAll(PLACES.id, String(rpc.id)).replaceAll(PLACES.text, rpc.params?.arguments?.text ?? '').replaceAll(PLACES.session, session ?? own);
    return { status: reply.status, headers: Object.fromEntries(Object.entries(reply.headers).map(([name, value]) => [name, fill(value)])), body: fill(reply.body) };
  }
}

function responseOf({ status, headers, body, pieces, breaksOff }: Changed): Response {
  const sent = new Headers();
  for (const [name, value] of Object.entries(headers)) {
    try {
      sent.set(name, value);
    } catch {
      // No HTTP server could send it.
    }
  }
  const init = { status, headers: sent };
  if ([101, 103, 204, 205, 304].includes(status)) return new Response(null, init);
  if (pieces === undefined) return new Response(body, init);
  const bytes = new TextEncoder().encode(body);
  let at = 0;
  const stream = new ReadableStream<Uint8Array>({
    pull(controller) {
      if (at >= bytes.length) {
        if (breaksOff) controller.error(new TypeError('terminated'));
        else controller.close();
      } else controller.enqueue(bytes.subarray(at, (at += pieces)));
    },
  });
  return new Response(stream, init);
}

/** The whole answer as it goes over the wire. */
export function rawReply({ status, headers, body }: Reply, random: Random): Buffer {
  const length = Buffer.byteLength(body);
  const chunked = random.chance(0.5);
  const framing = chunked ? 'transfer-encoding: chunked' : `content-length: ${length}`;
  const head = [`HTTP/1.1 ${status} Whatever`, ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`), framing, 'connection: close'].join('\r\n');
  return Buffer.from(`${head}\r\n\r\n${chunked ? `${length.toString(16)}\r\n${body}\r\n0\r\n\r\n` : body}`);
}
