import { describe, expect, it } from 'vitest';
import { keyOf, placeOf, queryDigest, SESSIONS, sessionKey, type SessionPlace } from '../../src/session/key.ts';

const URL_ = 'https://host/mcp';
const QUERY = '0123456789abcdef01234567';

describe('the key of a session', () => {
  it('names server, principal and session, each escaped', async () => {
    expect(await sessionKey({ url: URL_, query: '' }, undefined, 'default')).toBe('session/https%3A%2F%2Fhost%2Fmcp//default');
    expect(await sessionKey({ url: URL_, query: '' }, 'a/b', 'c d')).toBe('session/https%3A%2F%2Fhost%2Fmcp/a%2Fb/c%20d');
  });

  it('differs in server, query, principal and name', async () => {
    const keys = await Promise.all([
      sessionKey({ url: URL_, query: '' }, undefined, 'default'),
      sessionKey({ url: `${URL_}/`, query: '' }, undefined, 'default'),
      sessionKey({ url: URL_, query: '?a' }, undefined, 'default'),
      sessionKey({ url: URL_, query: '?b' }, undefined, 'default'),
      sessionKey({ url: URL_, query: '' }, 'me', 'default'),
      sessionKey({ url: URL_, query: '' }, 'you', 'default'),
      sessionKey({ url: URL_, query: '' }, undefined, 'other'),
    ]);
    expect(new Set(keys).size).toBe(keys.length);
  });

  it('has a digest of the query and not the query, and the same one each time', async () => {
    const key = await sessionKey({ url: URL_, query: '?key=secret' }, 'me', 'n');
    expect(key).toMatch(/^session\/https%3A%2F%2Fhost%2Fmcp%3F[0-9a-f]{24}\/me\/n$/);
    expect(await sessionKey({ url: URL_, query: '?key=secret' }, 'me', 'n')).toBe(key);
    expect(placeOf(key)).toEqual({ url: URL_, query: await queryDigest('?key=secret'), principal: 'me', name: 'n' });
    expect(await queryDigest('')).toBeUndefined();
  });

  it.each<SessionPlace>([
    { url: URL_, name: 'default' },
    { url: URL_, query: QUERY, name: 'default' },
    { url: URL_, principal: 'a/b?c%', name: '../x y' },
    { url: URL_, query: QUERY, principal: 'ü', name: '' },
  ])('says what it is the key of: %j', (place) => {
    expect(placeOf(keyOf(place))).toEqual(place);
  });

  it('G7 cannot be made of what is not well-formed text', () => {
    expect(() => keyOf({ url: URL_, principal: '\ud800', name: 'x' })).toThrow(URIError);
  });

  it.each([
    '',
    SESSIONS,
    'session',
    'durable/https%3A%2F%2Fhost%2Fmcp//default',
    'https%3A%2F%2Fhost%2Fmcp//default',
    'session/https%3A%2F%2Fhost%2Fmcp',
    'session/https%3A%2F%2Fhost%2Fmcp/me',
    'session/https%3A%2F%2Fhost%2Fmcp//default/more',
    // Not as we write it: two keys must not mean one session.
    'session/https://host/mcp//default',
    'session/https%3a%2f%2fhost%2fmcp//default',
    'session/%68ttps%3A%2F%2Fhost%2Fmcp//default',
    // A query that is no digest may hold a secret.
    'session/https%3A%2F%2Fhost%2Fmcp%3Fkey=secret//default',
    `session/https%3A%2F%2Fhost%2Fmcp%3Fx${QUERY}//default`,
    `session/https%3A%2F%2Fhost%2Fmcp%3F${QUERY}x//default`,
    `session/https%3A%2F%2Fhost%2Fmcp%3F${QUERY.toUpperCase()}//default`,
    `session/https%3A%2F%2Fhost%2Fmcp%3F${QUERY}%3F${QUERY}//default`,
    'session/https%3A%2F%2Fhost%2Fmcp%3F//default',
    // No escapes at all.
    'session/%//default',
    'session/https%3A%2F%2Fhost%2Fmcp//%E0%A4',
  ])('is known from what is none: %j', (key) => {
    expect(placeOf(key)).toBeUndefined();
  });
});
