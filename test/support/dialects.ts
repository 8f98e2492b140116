type RpcId = string | number | null;
interface Refusal {
  status: number;
  body: string;
  /** null: no content type at all. */
  contentType: string | null;
}

const json = (status: number, code: number, message: string, id: RpcId | undefined = null, data?: unknown): Refusal => ({
  status,
  body: JSON.stringify({ jsonrpc: '2.0', error: { code, message, data }, id }),
  contentType: 'application/json',
});

/** How real servers say "the session is gone". */
const refusals = {
  '404-json': () => json(404, -32001, 'Session not found'),
  '404-json-own-id': (id: RpcId) => json(404, -32001, 'Session not found', id),
  '404-text': () => ({ status: 404, body: 'Session not found', contentType: 'text/plain' }),
  '404-html': () => ({ status: 404, body: '<!doctype html><title>404</title><h1>Not Found</h1>', contentType: 'text/html' }),
  '404-empty': () => ({ status: 404, body: '', contentType: null }),
  '400-everything': () => json(400, -32000, 'Bad Request: No valid session ID provided'),
  '400-not-initialized': () => json(400, -32000, 'Bad Request: Server not initialized'),
  '400-unknown-header': () => json(400, -32000, 'Bad Request: Unknown Mcp-Session-Id header'),
  '400-invalid-request': () => json(400, -32600, 'Invalid Request: Session not found'),
  '401-session': () => json(401, -32001, 'Unauthorized: Session not found'),
  '503-session': () => json(503, -32001, 'Session not found'),
  '400-32022': () => json(400, -32022, 'Unsupported protocol version', null, { supported: ['2026-07-28'] }),
} satisfies Record<string, (id: RpcId) => Refusal>;

/** 'adopts' is no refusal: the server takes the unknown id for its own. */
export type LostDialect = keyof typeof refusals | 'adopts';

export const lostDialects: readonly LostDialect[] = [...(Object.keys(refusals) as (keyof typeof refusals)[]), 'adopts'];

export const refusal = (dialect: Exclude<LostDialect, 'adopts'>, id: RpcId): Refusal => refusals[dialect](id);
