import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type Answer, type Carrier, DurableCalls } from '../../src/calls/durable.ts';
import { Flight } from '../../src/calls/flight.ts';
import { Page } from '../../src/calls/journal.ts';
import { memoryStore, OutcomeUnknownError, type Store, UnreachableError } from '../../src/index.ts';
import { altered, failure } from '../session/clients.ts';
import { entryOf, rewrite } from './entries.ts';

/** Who waits for a durable call, how he says so, and how long the others give him: on a clock that the tests turn. */

let store: Store;
let writes: number;
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date', 'performance'] });
  // Otherwise made on another thread, in its own time.
  vi.spyOn(crypto.subtle, 'digest').mockResolvedValue(new ArrayBuffer(32));
  const inner = memoryStore();
  writes = 0;
  store = altered(inner, { set: (key, value, expected) => (writes++, inner.set(key, value, expected)) });
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

/** A process with the call in its hands. */
interface Waiting {
  readonly result: Promise<Answer>;
  readonly done: Promise<unknown>;
  settled: boolean;
  /** What it has on the wire: `send`, or `join` and the token. */
  readonly wire: string[];
  token(token: string): void;
  answer(result: unknown): void;
  fail(error: Error): void;
}

async function make(safe = false): Promise<Waiting> {
  const flight = new Flight('tools/call "work"');
  flight.join({ left: 600_000, progress: () => {} });
  const wire: string[] = [];
  let hear: (token: string) => void = () => {};
  let settle: { resolve(value: unknown): void; reject(error: Error): void } | undefined;
  const start = (what: string, onToken: (token: string) => void): Promise<unknown> => {
    wire.push(what);
    hear = onToken;
    return new Promise((resolve, reject) => (settle = { resolve, reject }));
  };
  const carrier: Carrier = { send: (onToken) => start('send', onToken), join: (token, onToken) => start(`join ${token}`, onToken), behind: () => {} };
  const calls = new DurableCalls({ store, prefix: 'call/', ttl: 3_600_000, warn: (error) => expect.fail(error.message) });
  const result = calls.run({ callId: 'one', method: 'tools/call', params: { name: 'work' }, safe }, flight, carrier);
  const waiting: Waiting = {
    result,
    done: result.catch(() => {}).then(() => (waiting.settled = true)),
    settled: false,
    wire,
    token: (token) => hear(token),
    answer: (value) => settle?.resolve(value),
    fail: (error) => settle?.reject(error),
  };
  await quiet();
  return waiting;
}

/** Lets everything happen that needs no time. */
async function quiet(): Promise<void> {
  await turn();
}

async function pass(ms: number): Promise<void> {
  await vi.advanceTimersByTimeAsync(ms);
  await quiet();
}

/** The process is gone, and what it noted stays. */
async function leftBehind(entry: Record<string, unknown>): Promise<void> {
  const first = await make();
  first.fail(new OutcomeUnknownError('gone'));
  await first.done;
  await rewrite(store, 'one', (text) => JSON.stringify({ ...(JSON.parse(text) as object), ...entry }));
}

const last = (since: number) => ({ seenAt: Date.now() - since });

describe('whoever waits for the answer', () => {
  it('says so every second, and once more when he leaves', async () => {
    const first = await make();
    const before = writes;
    await pass(5000);
    expect(writes - before).toBe(5);
    expect(await entryOf(store, 'one')).toMatchObject({ seenAt: Date.now() });
    first.fail(new OutcomeUnknownError('cut'));
    await first.done;
    expect(await entryOf(store, 'one')).toMatchObject({ seenAt: 0 });
    const after = writes;
    await pass(60_000);
    expect(writes).toBe(after);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('notes by what it can be taken up: at once the first time, and from then on at each beat', async () => {
    const first = await make();
    const before = writes;
    first.token('a');
    await quiet();
    for (const token of ['b', 'c']) first.token(token);
    await quiet();
    expect(await entryOf(store, 'one')).toMatchObject({ token: 'a' });
    await pass(1000);
    expect(await entryOf(store, 'one')).toMatchObject({ token: 'c' });
    expect(writes - before).toBe(2);
    first.answer('done');
    expect(await first.result).toEqual({ result: 'done' });
  });

  it('is left alone by another, who looks for the answer twice a second', async () => {
    const first = await make();
    first.token('a');
    const second = await make();
    await pass(60_000);
    expect(second.wire).toEqual([]);
    first.answer('done');
    await quiet();
    await pass(500);
    expect(await second.result).toEqual({ result: 'done' });
  });

  it('and leaves is followed at the other\'s next look', async () => {
    const first = await make();
    first.token('a');
    const second = await make();
    await pass(1400);
    first.fail(new OutcomeUnknownError('closed'));
    await first.done;
    await pass(500);
    expect(second.wire).toEqual(['join a']);
    second.answer('done');
    expect(await second.result).toEqual({ result: 'done' });
  });
});

describe('who has not been heard of', () => {
  it('for 2.5 s is followed where the call can be taken up, and no sooner', async () => {
    await leftBehind({ token: 'a', ...last(0) });
    const next = await make();
    await pass(2400);
    expect(next.wire).toEqual([]);
    await pass(150);
    expect(next.wire).toEqual(['join a']);
  });

  it('for 6 s is gone where it cannot, and no sooner', async () => {
    await leftBehind(last(0));
    const next = await make();
    await pass(5900);
    expect(next.settled).toBe(false);
    await pass(150);
    expect(await failure(next.result)).toBeInstanceOf(OutcomeUnknownError);
    expect(next.wire).toEqual([]);
  });

  it('for 6 s is gone, and a call that is safe is made again', async () => {
    await leftBehind(last(0));
    const next = await make(true);
    await pass(5900);
    expect(next.wire).toEqual([]);
    await pass(150);
    expect(next.wire).toEqual(['send']);
  });

  it('for 6 s is gone, and of several one makes the safe call again', async () => {
    await leftBehind(last(0));
    const heirs = [await make(true), await make(true), await make(true)];
    await pass(10_000);
    expect(heirs.flatMap(({ wire }) => wire)).toEqual(['send']);
  });

  it('for longer than that is not waited for', async () => {
    await leftBehind({ token: 'a', ...last(3000) });
    expect((await make()).wire).toEqual(['join a']);
  });

  it('since yesterday is gone', async () => {
    await leftBehind(last(86_400_000));
    expect((await make()).settled).toBe(true);
  });

  it('by a clock that is ahead of ours is given the whole time', async () => {
    await leftBehind({ token: 'a', ...last(-3_600_000) });
    const next = await make();
    await pass(2400);
    expect(next.wire).toEqual([]);
    await pass(150);
    expect(next.wire).toEqual(['join a']);
  });

  it('is followed by one of several; the others wait for him', async () => {
    await leftBehind({ token: 'a', ...last(0) });
    const heirs = [await make(), await make(), await make()];
    await pass(10_000);
    expect(heirs.flatMap(({ wire }) => wire)).toEqual(['join a']);
    heirs.find(({ wire }) => wire.length > 0)?.answer('done');
    await pass(500);
    expect(await Promise.all(heirs.map(({ result }) => result))).toEqual(heirs.map(() => ({ result: 'done' })));
  });
});

describe('an answer that cannot be taken up', () => {
  it('makes the outcome unknown, at once, with the reason', async () => {
    await leftBehind({ token: 'a', seenAt: 0 });
    const next = await make();
    next.fail(new OutcomeUnknownError('The events are gone.'));
    expect((await failure(next.result)).message).toMatch(/was made before\. The events are gone\. It may or may not have run/);
  });

  it('is tried again where more of it has come', async () => {
    await leftBehind({ token: 'a', seenAt: 0 });
    const next = await make();
    next.token('b');
    next.fail(new OutcomeUnknownError('cut'));
    await quiet();
    expect(next.wire).toEqual(['join a', 'join b']);
  });
});

it('what has changed since somebody looked at it is not removed by him', async () => {
  const page = new Page({ store, key: 'call/one', ttl: 60_000, method: 'tools/call', digest: 'd' });
  await page.claim(() => false);
  const found = await page.read();
  await page.update({ token: 'a' });
  await page.remove(found);
  expect(await page.read()).toMatchObject({ entry: { token: 'a' } });
});

describe('what did not run', () => {
  const refusal = Object.assign(new Error('MCP error -32602: no'), { name: 'McpError', code: -32602 });

  it('by the word of who sent it is sent by who waited for it, as if for the first time', async () => {
    const first = await make();
    const second = await make();
    first.fail(new UnreachableError('nobody there'));
    await first.done;
    await pass(500);
    expect(second.wire).toEqual(['send']);
    second.fail(new UnreachableError('nobody there'));
    await second.done;
    expect(await entryOf(store, 'one')).toBeUndefined();
  });

  it('by an answer that was taken up is forgotten', async () => {
    await leftBehind({ token: 'a', seenAt: 0 });
    const next = await make();
    next.fail(refusal);
    expect(await failure(next.result)).toBe(refusal);
    expect(await entryOf(store, 'one')).toBeUndefined();
  });
});

describe('whoever is overtaken, because his process stood still', () => {
  const theirs = { other: { digest: 'of another call' }, same: { answer: { result: 'theirs' } } };
  const endings: { what: string; end(waiting: Waiting): void }[] = [
    { what: 'an answer', end: (waiting) => waiting.answer('ours') },
    { what: 'no answer', end: (waiting) => waiting.fail(new OutcomeUnknownError('cut')) },
    { what: 'nothing sent', end: (waiting) => waiting.fail(new UnreachableError('nobody there')) },
  ];

  it.each(endings.flatMap((ending) => Object.entries(theirs).map(([whose, entry]) => ({ ...ending, whose, entry }))))(
    'writes nothing into the entry that is there by then ($what; $whose call)',
    async ({ end, entry }) => {
      const first = await make();
      first.token('a');
      await quiet();
      await rewrite(store, 'one', (text) => JSON.stringify({ ...(JSON.parse(text) as object), ...entry }));
      const there = await entryOf(store, 'one');
      await pass(3000);
      end(first);
      await first.done;
      expect(await entryOf(store, 'one')).toEqual(there);
    },
  );
});
