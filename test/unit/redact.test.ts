import { describe, expect, test } from 'vitest';
import { redacted, redactedData, redactedError, secretsIn, secretsOf } from '../../src/redact.ts';

/** What is secret is taken out of what others say, and nothing else of it is changed. The whole of it: `test/security/`. */

const SECRET = 'a/b "c"\\<d>&e=';

describe('a text', () => {
  test.each([
    ['as it is', SECRET],
    ['in another case', SECRET.toUpperCase()],
    ['in JSON', JSON.stringify(SECRET).slice(1, -1)],
    ['in the JSON of PHP', JSON.stringify(SECRET).slice(1, -1).replaceAll('/', '\\/')],
    ['in a URL', encodeURIComponent(SECRET)],
    ['in HTML', 'a/b &quot;c&quot;\\&lt;d&gt;&amp;e='],
  ])('loses a secret %s, wherever it is', (_way, form) => {
    expect(redacted(`before ${form} between ${form}`, [SECRET])).toBe('before <secret> between <secret>');
  });

  test('loses the longer of two, and the rest of the shorter', () => {
    expect(redacted('secret-1 secret-12', ['secret-1', 'secret-12'])).toBe('<secret> <secret>');
  });

  test('keeps what is too short to be one', () => {
    expect(redacted('the user is root', ['', 'root'])).toBe('the user is root');
  });
});

describe('an error', () => {
  test('that has nothing of it stays the same object', () => {
    const error = Object.assign(new TypeError('fetch failed', { cause: Object.assign(new Error('x'), { code: 'ECONNRESET' }) }), { errors: [new Error('y')] });
    expect(redactedError(error, [SECRET])).toBe(error);
    expect(redactedError(error, [])).toBe(error);
  });

  test.each([
    ['its message', () => new Error(`no ${SECRET}`)],
    ['a cause', () => new Error('no', { cause: new Error(SECRET) })],
    ['one of several', () => new AggregateError([new Error(SECRET)], 'all')],
    ['what somebody hung on it', () => Object.assign(new Error('no'), { config: { headers: { 'x-key': SECRET } } })],
    ['bytes, which nobody looks into', () => Object.assign(new Error('no'), { rawPacket: Buffer.from(SECRET) })],
    ['an object with a mind of its own', () => Object.assign(new Error('no'), { response: new Headers({ 'x-key': 'x' }) })],
  ])('that has it in %s becomes a copy with what explains it', (_where, create) => {
    const error = Object.assign(create(), { code: 'E_SUCH', status: 500 });
    const copy = redactedError(error, [SECRET]);
    expect(copy).not.toBe(error);
    expect(copy).toMatchObject({ name: error.name, code: 'E_SUCH', status: 500, message: error.message.replaceAll(SECRET, '<secret>') });
    for (const name of ['config', 'rawPacket', 'response']) expect(copy).not.toHaveProperty(name);
    expect((copy.cause as Error | undefined)?.message).toBe(error.cause === undefined ? undefined : '<secret>');
  });

  test('that is a ring, or throws when it is asked, does no harm', () => {
    const ring = new Error('no') as Error & { self?: unknown };
    ring.self = ring;
    expect(redactedError(ring, [SECRET])).toBe(ring);
    const sly = Object.defineProperty(new Error(SECRET), 'code', { get: () => { throw new Error('mine'); }, enumerable: true });
    expect(redactedError(sly, [SECRET]).message).toBe('<secret>');
  });
});

test('data lose it in texts and names, at any depth, and keep the rest', () => {
  const data = { n: 1234567, list: [SECRET, { [SECRET]: null }], ['__proto__x']: true };
  expect(redactedData(data, [SECRET, '1234567'])).toEqual({ n: 1234567, list: ['<secret>', { '<secret>': null }], ['__proto__x']: true });
});

test('headers and queries hold secrets in several forms', () => {
  expect(secretsIn({ authorization: 'Bearer token-123', 'x-basic': `Basic ${btoa('me:password')}`, odd: 'Basic !' })).toEqual(expect.arrayContaining(['Bearer token-123', 'token-123', 'me:password', 'password']));
  expect(secretsOf(new URL('http://host/mcp?key=a%2Fb+c&plain'))).toEqual(expect.arrayContaining(['key=a%2Fb+c&plain', 'a/b c', 'a%2Fb+c', 'plain']));
  expect(secretsOf(new URL('http://host/mcp'))).toEqual([]);
});
