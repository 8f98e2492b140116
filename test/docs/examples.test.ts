import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest';
import { type EverythingProcess, startEverything } from '../support/everything.ts';
import { type RecordingProxy, startRecordingProxy } from '../support/recording-proxy.ts';
import { waitFor } from '../support/wait.ts';
import { type RunningExample, startExample } from './run-example.ts';

/** The examples that are more than a few lines do what they say, on the build, a real server and a real Redis. */

const redisUrl = inject('redisUrl');
let everything: EverythingProcess;
let proxy: RecordingProxy;
let directory: string;

beforeAll(async () => {
  everything = await startEverything();
});
afterAll(async () => {
  await everything.stop();
});
beforeEach(async () => {
  proxy = await startRecordingProxy(everything.url);
  directory = await mkdtemp(join(tmpdir(), 'reprise-examples-'));
});
afterEach(async () => {
  proxy.stop();
  await rm(directory, { recursive: true, force: true });
});

const start = (name: string): RunningExample => startExample(`examples/${name}.ts`, { directory, env: { MCP_URL: proxy.url.href, REDIS_URL: redisUrl } });
const requests = (method: string): number => proxy.requests().filter(({ rpc }) => rpc.some((each) => each.method === method)).length;

describe('restart.ts', () => {
  it('goes on with its session and its count, and says so where the server forgot it', async () => {
    expect(await start('restart').ended).toEqual({ code: 0, output: expect.stringMatching(/^run 1, on a new session\n.*run 1/s) });
    expect(await start('restart').ended).toEqual({ code: 0, output: expect.stringMatching(/^run 2, on the session that was there\nthe server still knows the session\n/) });
    expect(requests('initialize')).toBe(1);
    await everything.restart();
    expect(await start('restart').ended).toEqual({ code: 0, output: expect.stringMatching(/^run 3, .*the server had forgotten the session.*run 3/s) });
    expect(requests('initialize')).toBe(2);
  });
});

describe.skipIf(!redisUrl)('fleet.ts', () => {
  it('shares one session among its workers, and again when it is run again', async () => {
    for (const run of [1, 2]) {
      const { code, output } = await start('fleet').ended;
      expect(output.match(/5 of 5 answers, each its own/g), output).toHaveLength(4);
      expect(code).toBe(0);
      expect(output.match(/made the session/g) ?? []).toHaveLength(run === 1 ? 1 : 0);
    }
    expect(requests('initialize')).toBe(1);
    expect(new Set(proxy.requests().flatMap(({ sessionId }) => sessionId ?? [])).size).toBe(1);
  });
});

describe('agents.ts', () => {
  it('G7 gives each user a session and a token of their own', async () => {
    const first = await start('agents').ended;
    expect(first).toEqual({ code: 0, output: expect.stringMatching(/ada: question [12] on a new session\nbob: question 1 on a new session\n.*\n2 clients, 0 of them in use\n$/) });
    const second = await start('agents').ended;
    expect(second).toEqual({ code: 0, output: expect.stringMatching(/bob: question 2 on the session that was there\n/) });
    expect(requests('initialize')).toBe(2);
    const tokens = new Map<string, Set<unknown>>();
    for (const { sessionId, headers } of proxy.requests()) {
      if (sessionId !== undefined) tokens.set(sessionId, (tokens.get(sessionId) ?? new Set()).add(headers['authorization']));
    }
    expect([...tokens.values()].map((each) => [...each]).sort()).toEqual([['Bearer token-of-ada'], ['Bearer token-of-bob']]);
  });
});

describe('workflow.ts', () => {
  it('G3 goes on in the step in which it was killed, and no step runs twice', async () => {
    const first = start('workflow');
    await waitFor(() => first.output.includes('convert: 2 of 4'));
    first.kill();
    await first.ended;
    const second = await start('workflow').ended;
    expect(second).toEqual({ code: 0, output: expect.stringMatching(/^fetch: done before\nconvert: step 2 of 3\n.*publish: step 3 of 3\nall done\n$/s) });
    expect(requests('tools/call')).toBe(3);
    expect(requests('initialize')).toBe(1);
  });
});
