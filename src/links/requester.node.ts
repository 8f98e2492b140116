import * as http from 'node:http';
import * as https from 'node:https';
import { StringDecoder } from 'node:string_decoder';
import { urlToHttpOptions } from 'node:url';
import { isOpen, markSent, Pool } from './pool.node.ts';
import { type HttpReply, type HttpRequest, NotSentError, type Requester, type Traffic, UnreadableError } from './requester.ts';

/**
 * A requester over node:http and node:https, with connections kept alive and no time limit of its own. What a server says of its own accord
 * comes over connections of its own: it would keep the one that the handshake has opened from the call that follows.
 */
export function nodeRequester(): Requester {
  const pools = new Map<string, Pool>();
  const traffic: Traffic = { sent: 0, received: 0, streams: 0 };
  const poolFor = ({ protocol }: URL, method: HttpRequest['method']): Pool => {
    const name = method === 'GET' ? `${protocol} streams` : protocol;
    let pool = pools.get(name);
    if (!pool) pools.set(name, (pool = new Pool(protocol === 'https:')));
    return pool;
  };
  const onBroken = (): void => {
    for (const pool of pools.values()) pool.dropIdle();
  };
  return {
    traffic,
    warm(method, url) {
      // A server that does not keep connections may be one that has one at a time: a silent one would hold up the next request.
      if (method === 'POST' || poolFor(url, 'POST').hasIdle) poolFor(url, method).warm(url);
    },
    request: (request) => send(request, poolFor(request.url, request.method), traffic, onBroken),
    close() {
      for (const pool of pools.values()) pool.close();
      pools.clear();
    },
  };
}

function send({ method, url, headers, body, signal, onDispatched }: HttpRequest, pool: Pool, traffic: Traffic, onBroken: () => void): Promise<HttpReply> {
  return new Promise((resolve, reject) => {
    // The listener is ours and goes when the exchange is over: Node's own `signal` option would stay on a long-lived signal.
    if (signal.aborted) {
      reject(new NotSentError('aborted before it was sent', { cause: signal.reason }));
      return;
    }
    const secure = url.protocol === 'https:';
    pool.weed();
    const { protocol, hostname, port, path, auth } = placeOf(url);
    const outgoing: http.RequestOptions = { protocol, hostname, port, path, auth, method, headers, agent: pool.agent };
    let request: http.ClientRequest;
    try {
      request = secure ? https.request(outgoing) : http.request(outgoing);
    } catch (error) {
      // What it thinks of our input may repeat a header.
      reject(new NotSentError(`not a request that can be made (${String((error as { code?: unknown }).code)})`));
      return;
    }
    let connected = false;
    const onConnected = (): void => {
      connected = true;
      onDispatched?.();
    };
    request.once('socket', (socket) => {
      // It could not even begin to connect: its error follows.
      if (socket.destroyed) return;
      markSent(socket);
      // A socket from the pool may carry the request at once: from then on nobody knows.
      if (isOpen(socket)) onConnected();
      else socket.once(secure ? 'secureConnect' : 'connect', onConnected);
    });
    // Without an error: one for a request whose answer is already complete would have no listener and end the process.
    const abort = (): void => void request.destroy();
    const release = (): void => signal.removeEventListener('abort', abort);
    signal.addEventListener('abort', abort, { once: true });
    request.once('close', release);
    // Stays on for good: an error after the answer has begun is told by the body.
    request.on('error', (error) => {
      if (connected) broken();
      reject(connected ? error : new NotSentError(describe(error), { cause: error }));
    });
    const broken = (): void => {
      if (!signal.aborted) onBroken();
    };
    request.once('response', (response) => {
      // Without a listener an error in an unread body would end the process.
      response.on('error', broken);
      resolve(replyOf(response, traffic));
    });
    traffic.sent += sendBody(request, body);
  });
}

/** Sends the request with its body, and returns how many bytes that has. */
function sendBody(request: http.ClientRequest, body: string | undefined): number {
  if (body === undefined) {
    request.end();
    return 0;
  }
  const length = Buffer.byteLength(body);
  request.setHeader('content-length', length);
  // Node encodes the headers like a text that goes with them, which must be latin1, as with fetch. What is that anyway goes out in one
  // write with them; the rest as bytes of its own.
  if (length === body.length) request.end(body, 'latin1');
  else request.end(Buffer.from(body));
  return length;
}

const places = new WeakMap<URL, http.RequestOptions>();

/** What node:http makes of a URL, which for nearly all requests is the same one. */
function placeOf(url: URL): http.RequestOptions {
  let place = places.get(url);
  if (!place) places.set(url, (place = urlToHttpOptions(url)));
  return place;
}

/** A header that was given once, which nearly all are, is read as it came: Node's object of all headers takes as long to make as a request. */
function headerOf(response: http.IncomingMessage, name: string): string | undefined {
  const { rawHeaders } = response;
  let found: string | undefined;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const each = rawHeaders[i] as string;
    if (each.length !== name.length || each.toLowerCase() !== name) continue;
    if (found !== undefined) {
      const value = response.headers[name];
      return Array.isArray(value) ? value.join(', ') : value;
    }
    found = rawHeaders[i + 1];
  }
  return found;
}

function replyOf(response: http.IncomingMessage, traffic: Traffic): HttpReply {
  const encoding = headerOf(response, 'content-encoding');
  return {
    status: response.statusCode ?? 0,
    header: (name) => headerOf(response, name),
    read: (onText) =>
      new Promise((resolve, reject) => {
        // None was asked for (no Accept-Encoding), and an unasked one may be a bomb.
        if (encoding !== undefined && encoding !== 'identity') {
          reject(new UnreadableError(`the server sent a body in the encoding "${encoding}", which was not asked for`));
          response.destroy();
          return;
        }
        const decoder = new StringDecoder('utf8');
        let begun = false;
        let ended = false;
        response.on('data', (bytes: Buffer) => {
          traffic.received += bytes.length;
          const chunk = decoder.write(bytes);
          if (chunk === '') return;
          // A byte order mark is no part of the text; fetch takes it off too.
          const text = !begun && chunk.charCodeAt(0) === 0xfeff ? chunk.slice(1) : chunk;
          begun = true;
          try {
            onText(text);
          } catch (error) {
            reject(error);
            response.destroy();
          }
        });
        response.once('end', () => {
          ended = true;
          const rest = decoder.end();
          try {
            if (rest) onText(rest);
            resolve();
          } catch (error) {
            reject(error);
          }
        });
        const breakOff = (cause?: Error): void => reject(new Error('the connection closed before the answer was complete', { cause }));
        // Node's own word is "aborted", which says neither who nor what.
        response.once('error', breakOff);
        // It closes after its end too: then there is nothing to tell, and an error with its stack is not cheap.
        response.once('close', () => {
          if (!ended) breakOff();
        });
        if (response.destroyed) breakOff();
      }),
    cancel: () => void response.destroy(),
  };
}

function describe(error: Error): string {
  const { code, errors } = error as Error & { code?: string; errors?: Error[] };
  const first = errors?.[0]?.message;
  return error.message || first || code || 'no connection';
}
