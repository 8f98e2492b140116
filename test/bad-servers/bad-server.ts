import type { ServerResponse } from 'node:http';
import { type Script, ScriptedServer, type Seen } from '../links/scripted-server.ts';

/** A JSON-RPC message, as far as a server looks at it. */
export interface Rpc {
  readonly id?: number;
  readonly method?: string;
  readonly params?: { readonly name?: string; readonly arguments?: { readonly text?: string }; readonly requestId?: number; readonly _meta?: { readonly progressToken?: number } };
}

export interface Asked extends Seen {
  readonly rpc: Rpc;
}

/** What a bad server does with a request; {@link GOOD} where it does as it should. */
export type Badness = (asked: Asked, res: ServerResponse) => unknown;

export const GOOD = Symbol('as it should');
export const JSON_TYPE = { 'content-type': 'application/json' };
export const SSE = { 'content-type': 'text/event-stream' };

/** A small MCP server that does as it should, but for what the test makes it do. It knows no other sessions than its own. */
export class BadServer {
  readonly http: ScriptedServer;
  /** What it does badly. */
  bad: Badness;
  readonly asked: Asked[] = [];
  readonly sessions = new Set<string>();

  private constructor(http: ScriptedServer, bad: Badness) {
    this.http = http;
    this.bad = bad;
  }

  static async start(bad: Badness = () => GOOD, options?: { secure?: boolean }): Promise<BadServer> {
    const script: Script = (seen, res) => server.#handle(seen, res);
    const server = new BadServer(await ScriptedServer.start(script, options), bad);
    return server;
  }

  get url(): URL {
    return this.http.url;
  }

  /** What was asked by a JSON-RPC method, or by GET or DELETE. */
  requests(method: string): Asked[] {
    return this.asked.filter((asked) => methodOf(asked) === method);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.http.stop();
  }

  async #handle(seen: Seen, res: ServerResponse): Promise<void> {
    const asked = { ...seen, rpc: seen.body ? (JSON.parse(seen.body) as Rpc) : {} };
    this.asked.push(asked);
    if ((await this.bad(asked, res)) === GOOD) this.#answer(asked, res);
  }

  #answer(asked: Asked, res: ServerResponse): void {
    const { method, headers, rpc } = asked;
    const session = headers['mcp-session-id'];
    if (rpc.method !== 'initialize' && (typeof session !== 'string' || !this.sessions.has(session))) {
      res.writeHead(session === undefined ? 400 : 404).end();
    } else if (method !== 'POST') res.writeHead(method === 'GET' ? 405 : 204).end();
    else if (rpc.id === undefined || rpc.method === undefined) res.writeHead(202).end();
    else {
      const id = `session-${this.sessions.size + 1}`;
      if (rpc.method === 'initialize') this.sessions.add(id);
      const head = rpc.method === 'initialize' ? { ...JSON_TYPE, 'mcp-session-id': id } : JSON_TYPE;
      res.writeHead(200, head).end(result(rpc.id, resultOf(rpc)));
    }
  }
}

export const methodOf = ({ method, rpc }: Asked): string => rpc.method ?? method;

/** Bad for one method (or GET, DELETE), and good for all else. */
export const badFor =
  (method: string, bad: Badness): Badness =>
  (asked, res) =>
    methodOf(asked) === method ? bad(asked, res) : GOOD;

export const result = (id: unknown, value: unknown): string => JSON.stringify({ jsonrpc: '2.0', id, result: value });
export const said = (text: string) => ({ content: [{ type: 'text', text }] });
export const event = (data: string, id?: string): string => `${id === undefined ? '' : `id: ${id}\n`}data: ${data}\n\n`;
/** The answer to a call of `echo`. */
export const echoed = ({ id, params }: Rpc): string => result(id, said(params?.arguments?.text ?? ''));

export const INITIALIZED = { protocolVersion: '2025-11-25', capabilities: { tools: {}, logging: {}, resources: {} }, serverInfo: { name: 'bad', version: '0' } };

function resultOf({ method, params }: Rpc): unknown {
  if (method === 'initialize') return INITIALIZED;
  if (method === 'tools/list') return { tools: [{ name: 'echo', inputSchema: { type: 'object' } }] };
  return method === 'tools/call' ? said(params?.arguments?.text ?? '') : {};
}
