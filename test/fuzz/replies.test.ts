import { constants, setPriority } from 'node:os';
import { beforeAll, expect, it } from 'vitest';
import { type Recording, record } from './recorded.ts';
import { fuzzReplies } from './replies.ts';

/** A part of what `npm run fuzz` does without an end: the same 20,000 each time. */

// It needs nothing but time, and most tests beside it are waiting: it takes what they leave.
setPriority(constants.priority.PRIORITY_LOW);

let recording: Recording;
beforeAll(async () => void (recording = await record()), 60_000);

it('begins with what a real server said, in events and in JSON', () => {
  expect([...recording.replies.keys()]).toEqual(expect.arrayContaining(['initialize', 'ping', 'tools/list', 'tools/call', 'resources/read', 'resources/subscribe']));
  expect(recording.replies.get('tools/call')?.map(({ headers }) => headers['content-type'])).toEqual(['text/event-stream', 'application/json']);
});

it('19,000 changed answers: each call is settled by an answer or by an error with a type, and the next one works', { timeout: 600_000 }, async () => {
  await expect(fuzzReplies(recording, { seed: 1, count: 19_000 })).resolves.toBeUndefined();
});

it('1,000 more over a real network', { timeout: 600_000 }, async () => {
  await expect(fuzzReplies(recording, { seed: 2, count: 1000, overHttp: true })).resolves.toBeUndefined();
});
