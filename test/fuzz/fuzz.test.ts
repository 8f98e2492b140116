import { beforeAll, expect, it } from 'vitest';
import { type Recording, record } from './recorded.ts';
import { fuzzRecords } from './records.ts';
import { fuzzReplies } from './replies.ts';

/** A part of what `npm run fuzz` does without an end: the same 20,000 each time, and 1,000 over a real network. */

const SEED = 1;
const LONG = { timeout: 600_000 };

let recording: Recording;
beforeAll(async () => void (recording = await record()), 60_000);

it('begins with what a real server said and a real client kept', () => {
  expect([...recording.replies.keys()]).toEqual(expect.arrayContaining(['initialize', 'ping', 'tools/list', 'tools/call', 'resources/read', 'resources/subscribe']));
  const types = recording.replies.get('tools/call')?.map(({ headers }) => headers['content-type']);
  expect(types).toEqual(['text/event-stream', 'application/json']);
  expect(recording.records.map((text) => Object.keys(JSON.parse(text) as object))).toEqual([expect.arrayContaining(['cursor', 'cache', 'metadata', 'data', 'calls', 'principal']), expect.not.arrayContaining(['cursor'])]);
});

it('20,000 changed records: the session is taken up, or a new one is started with one warning, and nothing else happens', LONG, async () => {
  await expect(fuzzRecords(recording, { seed: SEED, count: 20_000 })).resolves.toBeUndefined();
});

it('20,000 changed answers: each call is settled by an answer or by an error with a type, and the next one works', LONG, async () => {
  await expect(fuzzReplies(recording, { seed: SEED, count: 19_000 })).resolves.toBeUndefined();
});

it('1,000 of them over a real network', LONG, async () => {
  await expect(fuzzReplies(recording, { seed: SEED + 1, count: 1000, overHttp: true })).resolves.toBeUndefined();
});
