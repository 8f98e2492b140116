import { describe, expect, test } from 'vitest';
import { parseRetryAfter, readHttpFailure } from '../../src/links/http-failure.ts';
import { secretsIn } from '../../src/redact.ts';
import { lostDialects, refusal } from '../support/dialects.ts';

const SESSION = 'session-0123456789';

function read(status: number, body = '', { sessionId, headers = {}, secrets }: { sessionId?: string; headers?: Record<string, string>; secrets?: string[] } = {}) {
  return readHttpFailure({ status, body, header: (name) => headers[name], sessionId, ...(secrets ? { secrets } : {}) });
}

const rpc = (code: number, message: string) => JSON.stringify({ jsonrpc: '2.0', error: { code, message }, id: null });

describe('a lost session', () => {
  const dialects = lostDialects.flatMap((dialect) => (dialect === 'adopts' ? [] : [[dialect, refusal(dialect, 7)] as const]));

  test.each(dialects)('is understood in the dialect %s', (_dialect, { status, body }) => {
    expect(read(status, body, { sessionId: SESSION }).verdict).toBe('session-lost');
  });

  test.each(dialects)('is not what %s means when the request carried no session id', (_dialect, { status, body }) => {
    expect(read(status, body).verdict).not.toBe('session-lost');
  });

  test.each([
    [410, ''],
    [404, rpc(-32601, 'Method not found')],
    [400, rpc(-32000, 'Invalid session ID')],
    [400, rpc(-32000, 'Bad Request: invalid sessionId')],
    [400, '{"error":"unknown session_id"}'],
    [400, rpc(-32000, 'Bad Request: Mcp-Session-Id header is required')],
    [400, rpc(-32000, 'The session has expired')],
    [400, rpc(-32000, 'Session terminated')],
    [403, 'no such session'],
    [503, 'Session does not exist on this node'],
  ])('is also %i %s', (status, body) => {
    expect(read(status, body, { sessionId: SESSION }).verdict).toBe('session-lost');
  });
});

describe('any other refusal', () => {
  test.each([
    [400, '', 'refused'],
    [400, rpc(-32602, 'Invalid params: name is required'), 'refused'],
    [400, rpc(-32600, 'Invalid Request'), 'refused'],
    [400, rpc(-32000, 'Bad Request: Unsupported protocol version'), 'refused'],
    [401, '', 'unauthorized'],
    [401, 'Your session has expired, please log in', 'unauthorized'],
    [303, '', 'unknown'],
    [404, JSON.stringify({ jsonrpc: '2.0', id: 7, error: { code: -32601, message: 'Tool not found' } }), 'refused'],
    [400, JSON.stringify({ jsonrpc: '2.0', id: 7, error: { code: -32602, message: 'missing required argument session_id' } }), 'refused'],
    [503, 'Backend session closed while the request was running', 'unknown'],
    [401, '{"error":"invalid_token","error_description":"The access token expired"}', 'unauthorized'],
    [402, '', 'refused'],
    [403, '', 'refused'],
    [403, 'insufficient_scope', 'refused'],
    [405, '', 'refused'],
    [406, rpc(-32000, 'Not Acceptable'), 'refused'],
    [408, '', 'unknown'],
    [409, '', 'refused'],
    [413, '', 'refused'],
    [429, '', 'busy'],
    [429, 'too many sessions: unknown session', 'busy'],
    [307, '', 'refused'],
    [500, '', 'unknown'],
    [500, rpc(-32603, 'session not found'), 'unknown'],
    [502, 'Bad Gateway', 'unknown'],
    [503, 'Service Unavailable', 'unknown'],
    [504, '', 'unknown'],
  ] as const)('%i %s with a session id is %s', (status, body, verdict) => {
    expect(read(status, body, { sessionId: SESSION }).verdict).toBe(verdict);
  });

  test.each([
    [404, 'refused'],
    [410, 'refused'],
    [401, 'unauthorized'],
    [503, 'unknown'],
  ] as const)('%i without a session id is %s', (status, verdict) => {
    expect(read(status, 'Session not found').verdict).toBe(verdict);
  });
});

describe('the JSON-RPC error in a body', () => {
  test('is handed over with its id', () => {
    const body = JSON.stringify({ jsonrpc: '2.0', id: 5, error: { code: -32602, message: 'no' } });

    expect(read(400, body).error).toEqual(JSON.parse(body));
  });

  test.each(['', 'no', '{"error":"no"}', '{"jsonrpc":"2.0","id":1,"result":{}}', '[]'])('is not seen in %s', (body) => {
    expect(read(400, body).error).toBeUndefined();
  });
});

describe('the text of a failure', () => {
  test.each([
    [rpc(-32000, 'Go away'), 'Go away'],
    ['<h1>Not\n   Found</h1>', '<h1>Not Found</h1>'],
    ['', ''],
  ])('of %s is %s', (body, text) => {
    expect(read(404, body).text).toBe(text);
  });

  test('is short', () => {
    expect(read(500, 'x'.repeat(100_000)).text).toBe(`${'x'.repeat(300)}…`);
  });

  test('does not repeat the session id, a token or a header of the user', () => {
    const secrets = secretsIn({ authorization: 'Bearer token-secret', 'x-key': 'key-secret' });
    const { text } = read(400, `bad ${SESSION}, ${SESSION} with token-secret or key-secret`, { sessionId: SESSION, secrets });

    expect(text).toBe('bad <secret>, <secret> with <secret> or <secret>');
  });

  test('does not repeat half a secret that stands where it is cut', () => {
    const { text } = read(400, `${'x'.repeat(290)}${SESSION}`, { sessionId: SESSION });

    expect(text).not.toContain('session');
  });
});

describe('Retry-After', () => {
  const now = Date.parse('2026-01-01T00:00:00Z');

  test.each([
    ['0', 0],
    ['120', 120_000],
    [' 7 ', 7000],
    ['1.5', 1500],
    ['Thu, 01 Jan 2026 00:01:00 GMT', 60_000],
    ['Thursday, 01-Jan-26 00:01:00 GMT', 60_000],
    ['Thu Jan  1 00:01:00 2026', 60_000],
    ['Wed, 31 Dec 2025 23:59:00 GMT', 0],
  ])('of %s is %i ms', (value, expected) => {
    expect(parseRetryAfter(value, now)).toBe(expected);
  });

  test.each([undefined, '', '  ', 'soon', 'soon 5', '-5', '+5', '1e3', '0x10', 'NaN', 'Infinity', '9'.repeat(400), 'Thu, 99 Foo 2026 00:01:00 GMT', 'Thu', '2026-01-01'])(
    'of %s is no hint',
    (value) => {
      expect(parseRetryAfter(value, now)).toBeUndefined();
    },
  );

  test('is read from the header', () => {
    expect(read(429, '', { headers: { 'retry-after': '3' } }).retryAfter).toBe(3000);
    expect(read(429).retryAfter).toBeUndefined();
  });
});
