import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connect } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { failure, runsOf, say, started, wireOf } from '../session/clients.ts';
import { type ClientProcess, runScript } from '../support/client-process.ts';
import type { ServerOptions } from '../support/contract.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import type { Report, Task } from './durable.process.ts';
import { entryOf, rewrite } from './entries.ts';

/** Item 7 (G2, G3): a durable call outlives its program. Real programs, killed by SIGKILL; the tool says how often it ran. */

type Program = ClientProcess<Report, never>;

interface Wanted extends Pick<Task, 'dieAt'> {
  readonly safe?: true;
  readonly ms?: number;
  readonly steps?: number;
}

/** A server, and a directory that the programs share. */
class World {
  readonly server: FixtureProcess;
  readonly directory: string;

  constructor(server: FixtureProcess, directory: string) {
    this.server = server;
    this.directory = directory;
  }

  static async create(options: ServerOptions): Promise<World> {
    return new World(await startServer(options), await mkdtemp(join(tmpdir(), 'durable-')));
  }

  /** A program that makes the call of this name: the nonce of its work, and its `callId`. */
  program(call: string, { dieAt, safe, ms = 2000, steps = 20 }: Wanted = {}): Program {
    const options = { callId: call, ...(safe ? { safe } : {}) };
    const task: Task = { url: this.server.url.href, directory: this.directory, name: 'work', arguments: { nonce: call, ms, steps }, options, ...(dieAt ? { dieAt } : {}) };
    return runScript<Report, never>(new URL('./durable.process.ts', import.meta.url), [JSON.stringify(task)]);
  }

  /** The same call, made by this process. Returns the text of its answer. */
  async again(call: string, { safe, ms = 2000, steps = 20 }: Wanted = {}, onprogress?: (progress: number) => void): Promise<string> {
    await using client = await connect(this.server.url, { store: fileStore(this.directory) });
    const options = { callId: call, ...(safe ? { safe } : {}) };
    return await say(client, 'work', { nonce: call, ms, steps }, { ...options, onprogress: ({ progress }) => onprogress?.(progress) });
  }

  /** Waits until the call can be taken up. */
  async resumable(call: string): Promise<void> {
    await waitFor(async () => (await entryOf(fileStore(this.directory), call))?.['token'], { what: `the token of ${call} in the store` });
  }

  /** A minute passes: whoever waited for the call, and is gone, is known to be gone. */
  async later(call: string): Promise<void> {
    await rewrite(fileStore(this.directory), call, (text) => text.replace(/"seenAt":\d+/, `"seenAt":${Date.now() - 60_000}`));
  }

  async ran(call: string): Promise<number> {
    return (await runsOf(this.server, call)).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.stop();
    await rm(this.directory, { recursive: true, force: true });
  }
}

/** What a program came to; it ends by itself then. */
async function outcomeOf(program: Program): Promise<Report> {
  const report = await Promise.race([program.next('answered'), program.next('failed')]);
  expect(await program.exit).toMatchObject({ code: 0 });
  return report;
}

const answered = (call: string): Report => ({ type: 'answered', text: `done:${call}` });

describe('on a server that keeps its events', () => {
  let world: World;
  beforeAll(async () => void (world = await World.create({ eventStore: true })));
  afterAll(() => world[Symbol.asyncDispose]());

  it('G3 two programs with the same callId at the same time: one run, both get the answer, and neither takes the stream from the other', async () => {
    await using one = world.program('both', { ms: 2000 });
    await using other = world.program('both', { ms: 2000 });
    expect(await Promise.all([outcomeOf(one), outcomeOf(other)])).toEqual([answered('both'), answered('both')]);
    expect(await world.ran('both')).toBe(1);
    expect(await wireOf(world.server, 'tools/call')).toHaveLength(1);
    expect((await world.server.requests()).filter(({ lastEventId }) => lastEventId !== undefined)).toEqual([]);
  });

  it('G3 an answer that is stored needs no request at all', async () => {
    await using first = world.program('stored', { ms: 0 });
    expect(await outcomeOf(first)).toEqual(answered('stored'));
    await world.server.clearRequests();
    await using next = world.program('stored', { ms: 0 });
    expect(await outcomeOf(next)).toEqual(answered('stored'));
    expect(await world.server.requests()).toEqual([]);
  });

  describe.concurrent('G3 a program that is killed', () => {
    const moments: { when: string; dieAt?: 'answer'; alive?(program: Program, call: string): Promise<unknown> }[] = [
      { when: 'as soon as the call can be taken up', alive: (_, call) => world.resumable(call) },
      {
        when: 'in the middle of its progress',
        async alive(program, call) {
          await world.resumable(call);
          await program.next('progress');
        },
      },
      { when: 'when it has the answer, and has not stored it', dieAt: 'answer' },
    ];

    it.for(moments)('$when: the next one hears of its progress and gets the answer, and the tool ran once', async ({ when, dieAt, alive }) => {
      await using first = world.program(when, dieAt ? { dieAt } : {});
      if (alive) await alive(first, when).then(() => first.kill('SIGKILL'));
      expect(await first.exit).toMatchObject({ signal: 'SIGKILL' });
      const heard: number[] = [];
      expect(await world.again(when, {}, (progress) => heard.push(progress))).toBe(`done:${when}`);
      expect(await world.ran(when)).toBe(1);
      // An event may come twice; none is missing at the end.
      expect(heard.at(-1)).toBe(20);
    });

    it('twice in a row: the third one gets the answer, and the tool ran once', async () => {
      const wanted = { ms: 5000, steps: 50 };
      await using first = world.program('twice', wanted);
      await world.resumable('twice');
      await first.kill('SIGKILL');
      await world.later('twice');
      await using second = world.program('twice', wanted);
      await second.next('progress');
      await second.kill('SIGKILL');
      await world.later('twice');
      expect(await world.again('twice', wanted)).toBe('done:twice');
      expect(await world.ran('twice')).toBe(1);
    });

    it('is followed by two at once, who share the answer', async () => {
      await using first = world.program('heirs');
      await world.resumable('heirs');
      await first.kill('SIGKILL');
      await world.later('heirs');
      expect(await Promise.all([world.again('heirs'), world.again('heirs')])).toEqual(['done:heirs', 'done:heirs']);
      expect(await world.ran('heirs')).toBe(1);
    });
  });
});

it('G2 the server was restarted since the program was killed: the outcome is unknown, the error says why, and the tool does not run again', async () => {
  await using world = await World.create({ eventStore: true });
  await using first = world.program('lost');
  await world.resumable('lost');
  await first.kill('SIGKILL');
  await world.later('lost');
  await world.server.restart();
  const error = await failure(world.again('lost'));
  expect(error).toMatchObject({ name: 'OutcomeUnknownError', outcome: 'unknown' });
  expect(error.message).toMatch(/was made before.*404.*may or may not have run/);
  expect(await world.ran('lost')).toBe(1);
  expect(await wireOf(world.server, 'tools/call')).toEqual([]);
});

describe.concurrent('where no event of the answer has come', () => {
  const noEvent = { name: 'OutcomeUnknownError', outcome: 'unknown', message: expect.stringMatching(/was made before.*No event.*nobody waits for it.*may or may not have run/) };

  it.for([
    { what: 'keeps no events', options: {} },
    { what: 'answers in JSON', options: { mode: 'json' as const } },
    { what: 'begins its streams with no event', options: { eventStore: true, protocolVersion: '2025-06-18' } },
  ])('G2 because the server $what: the outcome of a killed program\'s call is unknown, and the tool does not run again', async ({ options }) => {
    await using world = await World.create(options);
    const wanted = { ms: 20_000, steps: 1 };
    await using first = world.program('unsafe', wanted);
    await started(world.server, 'unsafe');
    await first.kill('SIGKILL');
    await world.later('unsafe');
    expect(await failure(world.again('unsafe', wanted))).toMatchObject(noEvent);
    expect(await world.ran('unsafe')).toBe(1);
  });

  it('G1 a call that is safe is made again', async () => {
    await using world = await World.create({});
    await using first = world.program('safe', { safe: true, ms: 0, dieAt: 'answer' });
    expect(await first.exit).toMatchObject({ signal: 'SIGKILL' });
    await world.later('safe');
    expect(await world.again('safe', { safe: true, ms: 0 })).toBe('done:safe');
    expect(await world.ran('safe')).toBe(2);
  });

  it('G2 because the program was killed before it sent the call: the next one waits for a sign of life, and cannot know that', async () => {
    await using world = await World.create({});
    await using first = world.program('noted', { dieAt: 'noted' });
    expect(await first.exit).toMatchObject({ signal: 'SIGKILL' });
    expect(await failure(world.again('noted'))).toMatchObject(noEvent);
    expect(await world.ran('noted')).toBe(0);
  });
});
