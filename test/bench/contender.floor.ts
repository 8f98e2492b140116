import { Agent, type IncomingMessage, request } from 'node:http';
import type { Connection, Contender } from './contender.ts';

/** More at a time make node:http slower, not faster. */
const MOST = 64;
const VERSION = '2025-11-25';

/**
 * The least that a client on node:http can do: no schemas, no timeouts, no cancellation, no ids but a counter, and an answer is what
 * stands behind the first `data:`. Nobody should use it; it shows what is left to gain.
 */
class Floor implements Connection {
  sessionId: string | undefined;
  readonly #url: URL;
  readonly #agent = new Agent({ keepAlive: true, scheduling: 'lifo', maxFreeSockets: MOST });
  readonly #waiting: (() => void)[] = [];
  #inside = 0;
  #id = 0;

  constructor(url: string, sessionId: string | undefined) {
    this.#url = new URL(url);
    this.sessionId = sessionId;
  }

  async initialize(): Promise<void> {
    await this.#post({ jsonrpc: '2.0', id: ++this.#id, method: 'initialize', params: { protocolVersion: VERSION, capabilities: {}, clientInfo: { name: 'floor', version: '1.0.0' } } });
    await this.#post({ jsonrpc: '2.0', method: 'notifications/initialized' });
  }

  async call(name: string, text: string): Promise<unknown> {
    if (this.#inside >= MOST) await new Promise<void>((enter) => this.#waiting.push(enter));
    this.#inside++;
    try {
      return await this.#post({ jsonrpc: '2.0', id: ++this.#id, method: 'tools/call', params: { name, arguments: { text } } });
    } finally {
      this.#inside--;
      this.#waiting.shift()?.();
    }
  }

  listTools(): Promise<unknown> {
    return this.#post({ jsonrpc: '2.0', id: ++this.#id, method: 'tools/list', params: {} });
  }

  async close(): Promise<void> {
    await this.#send('DELETE');
    this.#agent.destroy();
  }

  async #post(message: object): Promise<unknown> {
    const body = await this.#send('POST', JSON.stringify(message));
    if (body === '') return undefined;
    const from = body.indexOf('data: ') + 6;
    return (JSON.parse(body.slice(from, body.indexOf('\n', from))) as { result: unknown }).result;
  }

  #send(method: string, body?: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const headers: Record<string, string | number> = { accept: 'application/json, text/event-stream', 'mcp-protocol-version': VERSION };
      if (this.sessionId !== undefined) headers['mcp-session-id'] = this.sessionId;
      if (body !== undefined) {
        headers['content-type'] = 'application/json';
        headers['content-length'] = Buffer.byteLength(body);
      }
      const { hostname, port, pathname } = this.#url;
      const req = request({ method, hostname, port, path: pathname, headers, agent: this.#agent }, (res) => this.#read(res, resolve, reject));
      req.once('error', reject);
      req.end(body);
    });
  }

  #read(res: IncomingMessage, resolve: (text: string) => void, reject: (error: Error) => void): void {
    if ((res.statusCode ?? 500) >= 300) reject(new Error(`status ${res.statusCode}`));
    this.sessionId ??= res.headers['mcp-session-id'] as string | undefined;
    let text = '';
    res.setEncoding('utf8');
    res.on('data', (piece: string) => (text += piece));
    res.once('end', () => resolve(text));
    res.once('error', reject);
  }
}

export const floor: Contender = {
  async connect(url, { sessionId } = {}) {
    const connection = new Floor(url, sessionId);
    if (sessionId === undefined) await connection.initialize();
    return connection;
  },
};
