import { once } from 'node:events';
import { type IncomingMessage, type OutgoingHttpHeaders, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import type { Fault } from './plan.ts';

/** An answer that is written byte by byte, past node:http, so that anything can be wrong with it. It is the last on its connection. */
class RawAnswer {
  readonly #socket: Socket;
  readonly #response: ServerResponse;
  #head = '';

  constructor(response: ServerResponse) {
    this.#response = response;
    this.#socket = response.socket as Socket;
  }

  get gone(): boolean {
    return this.#socket.destroyed;
  }

  write(bytes: string): Promise<void> {
    return new Promise((resolve) => {
      if (this.gone) resolve();
      else this.#socket.write(bytes, 'latin1', () => resolve());
    });
  }

  head(upstream: IncomingMessage): string {
    const headers = Object.entries(headersOf(upstream)).map(([name, value]) => `${name}: ${String(value)}\r\n`);
    const status = upstream.statusCode ?? 200;
    this.#head = `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n${headers.join('')}transfer-encoding: chunked\r\nconnection: close\r\n\r\n`;
    return this.#head;
  }

  chunk(bytes: string): Promise<void> {
    return bytes === '' ? Promise.resolve() : this.write(`${bytes.length.toString(16)}\r\n${bytes}\r\n`);
  }

  async finish(more = ''): Promise<void> {
    await this.write(`0\r\n\r\n${more}`);
    this.#socket.destroySoon();
  }

  /** What its connection ends by; `half-open`: not before the client ends it. */
  async end(kind: 'reset' | 'cut' | 'half-open'): Promise<void> {
    if (kind === 'reset') reset(this.#socket);
    else if (kind === 'cut') this.#socket.destroySoon();
    else if (!this.gone) await once(this.#response, 'close');
  }
}

/** RST, or where an end was sent before, just the end: to reset a socket that is being shut down leaves a handle that Node waits for at its exit, for ever (seen in Node 20). */
export function reset(socket: Socket | null): void {
  if (socket?.writableEnded) socket.destroy();
  else socket?.resetAndDestroy();
}

/** Of the headers of an answer those that mean something to the client. */
export function headersOf({ headers }: IncomingMessage): OutgoingHttpHeaders {
  const named = ['content-type', 'mcp-session-id', 'retry-after'].map((name) => [name, headers[name]] as const);
  return Object.fromEntries(named.filter(([, value]) => value !== undefined));
}

const isEnd = (kind: Fault['kind']): kind is 'reset' | 'cut' | 'half-open' => kind === 'reset' || kind === 'cut' || kind === 'half-open';
const GARBAGE = '\u0000\u00ff\u00fe{]"\u0080\u0007';

/** Ends a request whose answer nobody will see. */
export async function breakOff(response: ServerResponse, { kind }: Fault): Promise<void> {
  await new RawAnswer(response).end(isEnd(kind) ? kind : 'reset');
}

/** Passes an answer on with a fault in it. Returns whether there was a place for that. */
export async function relayWith(fault: Fault, upstream: IncomingMessage, response: ServerResponse): Promise<boolean> {
  const raw = new RawAnswer(response);
  const head = raw.head(upstream);
  const { kind, phase, ms, part } = fault;
  if (phase === 'headers') {
    if (kind === 'delay') await sleep(ms);
    if (kind === 'garbage') {
      await raw.write(`${GARBAGE}${head}`);
      await raw.end('cut');
      return true;
    }
    if (isEnd(kind)) {
      // Half of the time a part of the head is there.
      await raw.write(part < 0.5 ? '' : head.slice(0, Math.floor(head.length * part)));
      await raw.end(kind);
      return true;
    }
    if (kind === 'truncate') {
      await raw.write(head);
      await raw.finish();
      return true;
    }
    if (kind === 'trickle') await trickle(head, (bytes) => raw.write(bytes));
    else await raw.write(head);
  } else await raw.write(head);

  const isStream = upstream.headers['content-type']?.startsWith('text/event-stream') ?? false;
  let hit = phase === 'headers';
  let held = '';
  let whole = '';
  for await (const event of isStream ? eventsOf(upstream) : bodyOf(upstream)) {
    if (raw.gone) return hit;
    if (kind === 'duplicate' && phase === 'after') whole += event;
    if (hit || phase !== 'event' || !(fault.first || !isStream || isAnswer(event))) {
      await raw.chunk(event + held);
      held = '';
      continue;
    }
    hit = true;
    const cut = Math.min(event.length - 1, 1 + Math.floor(part * event.length));
    if (isEnd(kind) || kind === 'truncate') {
      await raw.chunk(event.slice(0, cut));
      await (isEnd(kind) ? raw.end(kind) : raw.finish());
      return true;
    }
    if (kind === 'delay') await sleep(ms);
    if (kind === 'trickle') await trickle(event, (bytes) => raw.chunk(bytes));
    else if (isStream && kind === 'reorder') held = event;
    else {
      const changed = isStream ? inStream(event, fault, cut) : inBody(event, fault);
      hit = changed !== event || kind === 'delay';
      await raw.chunk(changed);
    }
  }
  await raw.chunk(held);
  if (phase !== 'after') {
    await raw.finish();
    return hit;
  }
  if (kind === 'delay') await sleep(ms);
  if (isEnd(kind)) await raw.end(kind);
  else if (kind === 'duplicate') await raw.finish(`${head}${whole.length.toString(16)}\r\n${whole}\r\n0\r\n\r\n`);
  else await raw.finish(kind === 'garbage' ? GARBAGE : '');
  return true;
}

function inStream(event: string, { kind, wait = 0, part }: Fault, cut: number): string {
  if (kind === 'duplicate') return event + event;
  if (kind === 'hint') return `retry: ${wait}\n\n${event}`;
  if (kind !== 'garbage') return event;
  // Between two events, or in the middle of one.
  return part < 0.5 ? `${GARBAGE}\ndata: {"jsonrpc\nnonsense: 1\n\n${event}` : event.slice(0, cut) + GARBAGE + event.slice(cut);
}

/** A JSON body. Its answers can come twice, or the other way round, where they come in an array. */
function inBody(body: string, { kind, part }: Fault): string {
  if (kind === 'garbage') return part < 0.5 ? GARBAGE + body : body.slice(0, -1) + GARBAGE;
  if (body === '' || (kind !== 'duplicate' && kind !== 'reorder')) return body;
  const answers = JSON.parse(Buffer.from(body, 'latin1').toString()) as unknown;
  const list = Array.isArray(answers) ? answers : [answers];
  if (kind === 'reorder' && list.length < 2) return body;
  return Buffer.from(JSON.stringify(kind === 'duplicate' ? [...list, ...list] : list.reverse())).toString('latin1');
}

const isAnswer = (event: string): boolean => /"(result|error)":/.test(event) && !event.includes('"method":');

async function* eventsOf(upstream: IncomingMessage): AsyncGenerator<string> {
  let rest = '';
  for await (const bytes of upstream) {
    const parts = (rest + (bytes as Buffer).toString('latin1')).split('\n\n');
    rest = parts.pop() ?? '';
    for (const part of parts) yield `${part}\n\n`;
  }
  if (rest !== '') yield rest;
}

async function* bodyOf(upstream: IncomingMessage): AsyncGenerator<string> {
  const parts: string[] = [];
  for await (const bytes of upstream) parts.push((bytes as Buffer).toString('latin1'));
  if (parts.length > 0) yield parts.join('');
}

/** A few bytes at a time, which cuts characters, lines and numbers in two. */
async function trickle(bytes: string, write: (bytes: string) => Promise<void>): Promise<void> {
  const size = Math.ceil(bytes.length / 40);
  for (let at = 0; at < bytes.length; at += size) {
    await write(bytes.slice(at, at + size));
    await turn();
  }
}
