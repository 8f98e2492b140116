import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runScript } from '../support/client-process.ts';
import { said } from './bad-server.ts';
import type { Said, Told } from './flood-client.process.ts';

const MB = 1024 * 1024;
const LIMIT = 16 * MB;
/**
 * What Node itself takes when much goes through it, beside what is kept of an answer: buffers of sockets, and garbage that is not yet
 * collected. Without a limit each of these floods would take more than 120 MB.
 */
const RUNTIME = 48 * MB;
/** Garbage is collected soon: how much of it lies about depends on how busy the machine is, and says nothing about what is kept. */
const TIDY = { NODE_OPTIONS: '--max-semi-space-size=4' };

const tooLong = { code: 'OUTCOME_UNKNOWN', outcome: 'unknown', message: expect.stringContaining(`longer than the limit of ${LIMIT} characters (limits.responseBytes)`) };
const answered = { message: '', answer: said('through it all') };
const refused = { code: 'OUTCOME_UNKNOWN', message: expect.stringContaining('500') };
const encoded = { code: 'OUTCOME_UNKNOWN', message: expect.stringContaining('encoding "gzip", which was not asked for') };

let url: string;
let server: ReturnType<typeof runScript>;
beforeAll(async () => {
  server = runScript(new URL('./flood-server.process.ts', import.meta.url));
  url = String(((await server.next('listening')) as { url?: unknown }).url);
});
afterAll(() => server.kill());

describe.concurrent.each(['node:http', 'fetch'])('with a limit of 16 MB, over %s,', (requester) => {
  const overFetch = requester === 'fetch';

  it.each([
    ['endless-json', tooLong],
    ['endless-tools', tooLong],
    ['json-in-small-pieces', tooLong],
    ['endless-line', tooLong],
    ['endless-line-of-wide-characters', tooLong],
    ['endless-comment', tooLong],
    ['event-of-300-mb', tooLong],
    ['event-of-300-mb-in-short-lines', tooLong],
    // fetch decodes by itself: there the limit is for what comes out.
    ['gzip-bomb', overFetch ? tooLong : encoded],
    ['gzip-bomb-of-events', overFetch ? tooLong : encoded],
    ['gzip-bomb-of-a-refusal', refused],
    ['endless-refusal', refused],
    ['endless-answer-to-nothing', { code: 'OUTCOME_UNKNOWN', message: expect.stringContaining('202') }],
    ['progress-flood', answered],
    // What becomes of a message is the same for both.
    ...(overFetch ? [] : ([['notification-flood', answered], ['flood-of-questions', answered], ['flood-of-foreign-answers', answered]] as const)),
  ] as const)('%s takes no more memory than twice that', { timeout: 300_000 }, async (flood, expected) => {
    await using client = runScript<Said, Told>(new URL('./flood-client.process.ts', import.meta.url), [], TIDY);
    client.send({ type: 'flood', flood, url, limit: LIMIT, overFetch });

    const outcome = await client.next('flooded');

    expect(outcome).toMatchObject({ ...expected, next: said('the next one') });
    if (flood === 'progress-flood') expect(outcome.heard).toBeGreaterThan(100_000);
    expect(outcome.grown / MB).toBeLessThan((2 * LIMIT + RUNTIME) / MB);
  });
});
