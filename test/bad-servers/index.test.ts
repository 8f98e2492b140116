import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';

/** Where each kind of bad server is tested: a file, and words of the test's name. */
const CASES: readonly (readonly [string, readonly (readonly [string, string])[]])[] = [
  ['session ids: empty, too long, with spaces, non-ASCII', [['bad-servers/session-ids', 'is refused when it is given'], ['session/bad-input', 'a session id of the server that the protocol does not allow']]],
  ['session ids: changed by a later response or by an error', [['bad-servers/session-ids', 'changes is not believed, nor stored'], ['links/http-link', 'takes a session id from a good answer to initialize and from nothing else']]],
  ['redirects to another origin', [['bad-servers/redirects', 'a redirect to another origin'], ['links/http-link', 'to another origin is never followed']]],
  ['redirects from https to http', [['bad-servers/redirects', 'a redirect from https to http is a refusal'], ['links/http-link', 'from https to http is never followed']]],
  ['`retry:` of 0, negative, NaN', [['bad-servers/hints', 'is no reason to wait, and none for a storm'], ['session/stream', 'makes no storm: the backoff stays']]],
  ['`retry:` of 2^32', [['bad-servers/hints', 'is waited for, as far as the call has time'], ['session/stream', 'is clamped to five minutes']]],
  ['`Retry-After` in the year 9999', [['bad-servers/hints', '`Retry-After` in the year 9999']]],
  ['unknown and wrongly typed ids', [['bad-servers/ids', 'is never taken for another'], ['unit/session', 'drop and count what is foreign, repeated, wrongly typed']]],
  ['duplicate ids', [['bad-servers/ids', 'that comes twice']]],
  ['late ids', [['bad-servers/ids', 'that comes late']]],
  ["another call's id on a resumed stream", [['bad-servers/ids', 'to another call, of this client or of somebody else, on a resumed stream']]],
  ['200 with the wrong id', [['bad-servers/ids', 'of JSON under an id that is'], ['session/cut', 'a 200 with another id']]],
  ['202 to a request', [['bad-servers/ids', '202 to a request'], ['session/cut', 'a 202 to a request']]],
  ['streams that end without an answer', [['bad-servers/ids', 'a stream that ends at once'], ['session/cut', 'a stream that ends without the answer']]],
  ['a line without an end', [['bad-servers/floods', 'endless-line']]],
  ['an event of 300 MB', [['bad-servers/floods', 'event-of-300-mb']]],
  ['a gzip bomb', [['bad-servers/floods', 'gzip-bomb'], ['links/http-link', 'in an encoding is bounded by what it becomes']]],
  ['JSON that nests 200,000 deep', [['bad-servers/json', 'JSON that nests 200,000 deep'], ['bad-servers/records', 'nest 200,000 deep']]],
  ['`__proto__` keys', [['bad-servers/json', 'keys that mean something to JavaScript']]],
  ['headers that never come', [['bad-servers/slow', 'headers that never come']]],
  ['one byte every 10 s', [['bad-servers/slow', 'one byte every 10 s']]],
  ['keep-alives only', [['bad-servers/slow', 'keep-alives only']]],
  ['a progress flood', [['bad-servers/floods', 'progress-flood'], ['bad-servers/slow', 'with progress for ever']]],
  ['404 after every re-initialization', [['bad-servers/lost', '404 after every re-initialization'], ['session/reset', 'a server that refuses each new session too']]],
  ['a page of tools that never ends', [['bad-servers/lost', 'a list of tools whose pages never end'], ['bad-servers/floods', 'endless-tools']]],
  ['a stored record that is corrupt or foreign', [['bad-servers/records', 'costs one warning, a new session and nothing else'], ['session/bad-input', 'a stored record that makes no sense']]],
  ['a stored record that is expired or from the future', [['bad-servers/records', 'is not taken up; that needs no warning'], ['registry/sessions-ttl', 'a last use that lies in the future']]],
];

it.each(CASES)('%s: tested where it says', async (_what, places) => {
  for (const [file, words] of places) {
    const text = await readFile(new URL(`../${file}.test.ts`, import.meta.url), 'utf8');
    expect(text.replaceAll("\\'", "'"), file).toContain(words);
  }
});
