import { ResourceUpdatedNotificationSchema, ToolListChangedNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { describe, expect, it } from 'vitest';
import { DeadlineError, type ResilientClient } from '../../src/index.ts';
import type { CallOptions } from '../../src/client.ts';
import { connected, failure, runsOf, say, started, streamOpen } from '../session/clients.ts';
import { arrived, countOf, sharedServer } from './servers.ts';

/** Item 5: who asks for the same at the same time shares one request, and nothing else. Counted at the server. */

const CALL = 'tools/call';
const READ = 'resources/read';
const one = { uri: 'test://one' };

const server = sharedServer();

const client = (): Promise<ResilientClient> => connected(server().url, { listen: false });
const look = (client: ResilientClient, nonce: string, options: CallOptions = {}): Promise<string> => say(client, 'look', { nonce, ms: 300 }, { safe: true, ...options });
const times = <T>(count: number, make: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => make(i));

describe('what looks the same and is asked at the same time', () => {
  it.each<{ method: string; ask: (client: ResilientClient) => Promise<unknown> }>([
    { method: 'tools/list', ask: (client) => client.listTools() },
    { method: 'resources/list', ask: (client) => client.listResources() },
    { method: 'resources/templates/list', ask: (client) => client.listResourceTemplates() },
    { method: READ, ask: (client) => client.readResource(one) },
    { method: 'prompts/list', ask: (client) => client.listPrompts() },
    { method: 'prompts/get', ask: (client) => client.getPrompt({ name: 'greet', arguments: { name: 'Ada' } }) },
    { method: 'completion/complete', ask: (client) => client.complete({ ref: { type: 'ref/prompt', name: 'greet' }, argument: { name: 'name', value: 'A' } }) },
    { method: CALL, ask: (client) => look(client, 'all') },
  ])('is one request, and every caller is answered: $method', async ({ method, ask }) => {
    const c = await client();
    const [first, ...others] = await Promise.all(times(50, () => ask(c)));
    for (const other of others) expect(other).toEqual(first);
    expect(await countOf(server(), method)).toBe(1);
    expect(c.metrics().calls).toMatchObject({ answered: 50, shared: 49 });
    expect(c.history().map(({ attempts }) => attempts).sort()).toEqual([...times(49, () => 0), 1]);
  });

  it('is the same in whatever order its parameters are', async () => {
    const c = await client();
    const args = { nonce: 'order', ms: 100 };
    await Promise.all([say(c, 'look', args, { safe: true }), say(c, 'look', { ms: 100, nonce: 'order' }, { safe: true })]);
    expect(await runsOf(server(), 'order')).toHaveLength(1);
  });

  it('a read-only tool is shared by its own word, where that is trusted', async () => {
    for (const trustAnnotations of [true, false]) {
      const c = await connected(server().url, { listen: false, trustAnnotations });
      await c.listTools();
      const nonce = `word ${trustAnnotations}`;
      await Promise.all(times(3, () => say(c, 'look', { nonce, ms: 100 })));
      expect(await runsOf(server(), nonce)).toHaveLength(trustAnnotations ? 1 : 3);
    }
  });

  it('is asked for again once it was answered', async () => {
    const c = await client();
    await c.readResource(one);
    await c.readResource(one);
    expect(await countOf(server(), READ)).toBe(2);
  });

  it('gives each caller an answer of its own: what one does to it no other sees', async () => {
    const c = await client();
    const [a, b] = await Promise.all([c.readResource(one), c.readResource(one)]);
    a.contents.length = 0;
    expect(b.contents).toHaveLength(1);
  });

  it('fails for every caller with what the server says', async () => {
    const c = await client();
    const errors = await Promise.all(times(5, () => failure(c.readResource({ uri: 'test://none' }))));
    for (const error of errors) expect(error).toMatchObject({ name: 'McpError', code: -32602 });
    expect(await countOf(server(), READ)).toBe(1);
    expect(c.metrics().calls).toMatchObject({ refused: 5 });
    expect(c.history().filter(({ shared }) => shared)).toHaveLength(4);
  });

  it('G1 is sent again for all where it must be', async () => {
    const c = await connected(server().url, { listen: false, retry: { minTimeout: 1, maxTimeout: 1 } });
    await server().behave({ post: { onlyMethod: READ, times: 2, status: 503 } });
    await Promise.all(times(10, () => c.readResource(one)));
    expect(await countOf(server(), READ)).toBe(3);
  });

  it('G1 is sent again for who wants that, though another does not', async () => {
    const c = await connected(server().url, { listen: false, retry: { minTimeout: 1, maxTimeout: 1 } });
    await server().behave({ post: { onlyMethod: READ, times: 2, status: 503 } });
    const unwilling = failure(c.readResource(one, { retry: false } as CallOptions));
    expect((await c.readResource(one)).contents).toHaveLength(1);
    expect(await unwilling).toMatchObject({ code: 'OUTCOME_UNKNOWN' });
  });
});

it('callers that share a request earn one share of the retry budget, as one request does', async () => {
  const c = await connected(server().url, { listen: false, retry: { minTimeout: 1, maxTimeout: 1, budget: { tokens: 10, ratio: 1 } } });
  await server().behave({ post: { onlyMethod: READ, times: 1e9, status: 503 } });
  await failure(c.readResource(one));
  expect(await countOf(server(), READ)).toBe(11);
  await server().clearRequests();
  await Promise.all(times(50, () => failure(c.readResource(one))));
  expect(await countOf(server(), READ)).toBe(2);
});

describe('what is not shared', () => {
  it('other parameters', async () => {
    const c = await client();
    const answers = await Promise.all(['a', 'b', 'c'].map((nonce) => look(c, nonce)));
    expect(answers).toEqual(['done:a', 'done:b', 'done:c']);
    await Promise.all([c.listResources(), c.listResources({ _meta: { mine: 1 } })]);
    expect(await countOf(server(), 'resources/list')).toBe(2);
  });

  it('calls that are not safe: each runs', async () => {
    const c = await client();
    await Promise.all(times(5, () => say(c, 'work', { nonce: 'unsafe', ms: 100 })));
    expect(await runsOf(server(), 'unsafe')).toHaveLength(5);
  });

  it('a safe call and one that is not', async () => {
    const c = await client();
    await Promise.all([say(c, 'work', { nonce: 'both', ms: 100 }, { safe: true }), say(c, 'work', { nonce: 'both', ms: 100 })]);
    expect(await runsOf(server(), 'both')).toHaveLength(2);
  });

  it.each<{ method: string; ask: (client: ResilientClient) => Promise<unknown> }>([
    { method: 'logging/setLevel', ask: (client) => client.setLoggingLevel('error') },
    { method: 'resources/subscribe', ask: (client) => client.subscribeResource(one) },
    { method: 'resources/unsubscribe', ask: (client) => client.unsubscribeResource(one) },
    { method: 'ping', ask: (client) => client.ping() },
  ])('what sets something, or asks for a sign of life: $method', async ({ method, ask }) => {
    const c = await client();
    await Promise.all(times(3, () => ask(c)));
    expect(await countOf(server(), method)).toBe(3);
  });

  it('one client\'s calls and another\'s', async () => {
    const [a, b] = [await client(), await client()];
    await Promise.all([a.readResource(one), b.readResource(one)]);
    expect(await countOf(server(), READ)).toBe(2);
  });

  it('what is asked after something was changed with what was asked before', async () => {
    const c = await client();
    await server().behave({ hang: { onlyMethod: READ, times: 1 } });
    const before = new AbortController();
    const old = failure(c.readResource(one, { signal: before.signal }));
    await arrived(server(), READ);
    await say(c, 'work', { nonce: 'change' });
    // It must see what the call has done, and the read that is under way may have come too early for that.
    expect((await c.readResource(one, { timeout: 3000 })).contents).toHaveLength(1);
    before.abort();
    await old;
  });

  it.each<{ told: string; change: (client: ResilientClient) => Promise<unknown>; method: string; ask: (client: ResilientClient, options?: CallOptions) => Promise<unknown> }>([
    { told: 'a list', change: (c) => say(c, 'grow', { name: 'grown' }, { safe: true }), method: 'tools/list', ask: (c, options) => c.listTools(undefined, options) },
    { told: 'a resource', change: (c) => say(c, 'touch', one, { safe: true }), method: READ, ask: (c, options) => c.readResource(one, options) },
  ])('what is asked when the server has told of a change with what was asked before: $told', async ({ change, method, ask }) => {
    const c = await connected(server().url);
    await c.subscribeResource(one);
    await streamOpen(server());
    const told = new Promise<void>((resolve) => {
      c.setNotificationHandler(ToolListChangedNotificationSchema, () => resolve());
      c.setNotificationHandler(ResourceUpdatedNotificationSchema, () => resolve());
    });
    await server().behave({ hang: { onlyMethod: method, times: 1 } });
    const before = new AbortController();
    const old = failure(ask(c, { signal: before.signal }));
    await arrived(server(), method);
    // The calls are marked safe: it is the notification that counts.
    await change(c);
    await told;
    await ask(c, { timeout: 3000 });
    expect(await countOf(server(), method)).toBe(2);
    before.abort();
    await old;
  });
});

describe('a caller that leaves', () => {
  it('leaves the others alone: the call goes on, and the server hears nothing of it', async () => {
    const c = await client();
    const controllers = times(5, () => new AbortController());
    const calls = controllers.map(({ signal }) => look(c, 'spared', { signal }).catch((error: unknown) => error));
    await started(server(), 'spared');
    const reason = new Error('no patience');
    // Among them the one whose request it is.
    for (const controller of controllers.slice(0, 4)) controller.abort(reason);
    const settled = await Promise.all(calls);
    for (const error of settled.slice(0, 4)) expect(error).toBe(reason);
    expect(settled[4]).toBe('done:spared');
    expect(await runsOf(server(), 'spared')).toMatchObject([{ finished: true }]);
    expect(await countOf(server(), 'notifications/cancelled')).toBe(0);
  });

  it('as the last of all cancels the call at the server; who comes then makes a new one', async () => {
    const c = await client();
    const controllers = times(3, () => new AbortController());
    const calls = controllers.map(({ signal }) => failure(look(c, 'all left', { signal })));
    await started(server(), 'all left');
    for (const controller of controllers) controller.abort();
    const next = look(c, 'all left');
    await Promise.all(calls);
    expect(await next).toBe('done:all left');
    const runs = await runsOf(server(), 'all left');
    expect(runs.map(({ finished, aborted }) => ({ finished, aborted }))).toEqual([{ aborted: true }, { finished: true }]);
    await arrived(server(), 'notifications/cancelled');
  });

  it('before it was sent takes nothing from the others', async () => {
    const c = await client();
    const controller = new AbortController();
    const left = failure(look(c, 'early', { signal: controller.signal }));
    const stays = look(c, 'early');
    controller.abort();
    await left;
    expect(await stays).toBe('done:early');
    expect(await runsOf(server(), 'early')).toHaveLength(1);
  });

  it('because its time is over fails alone, and is told that another still waits', async () => {
    const c = await client();
    const calls = [look(c, 'short'), failure(look(c, 'short', { timeout: 100 })), look(c, 'short')] as const;
    const error = await calls[1];
    expect(error).toBeInstanceOf(DeadlineError);
    expect(error).toMatchObject({ outcome: 'unknown', timeout: 100 });
    expect(error.message).toContain('another caller who asked for the same still waits');
    expect(await calls[0]).toBe('done:short');
    expect(await calls[2]).toBe('done:short');
    expect(await runsOf(server(), 'short')).toHaveLength(1);
  });

  it('as the impatient one who asked first leaves its time to the patient: it is sent again for them', async () => {
    const c = await connected(server().url, { listen: false, retry: { minTimeout: 1, maxTimeout: 50 } });
    await server().behave({ post: { onlyMethod: READ, times: 1e9, status: 503 } });
    const first = failure(c.readResource(one, { timeout: 100 }));
    const patient = c.readResource(one, { timeout: 10_000 });
    expect(await first).toMatchObject({ code: 'DEADLINE' });
    await server().behave({ post: null });
    expect((await patient).contents).toHaveLength(1);
  });

  it('G9 and a client that is closed settle every caller', async () => {
    const c = await client();
    const calls = times(10, () => failure(look(c, 'closed')));
    await started(server(), 'closed');
    await c.close();
    for (const error of await Promise.all(calls)) expect(error).toMatchObject({ code: 'CLOSED', outcome: 'unknown' });
  });
});

describe('progress', () => {
  it('reaches every caller that asked for it, and starts the time of each afresh', async () => {
    const c = await client();
    const heard = [0, 0, 0];
    const calls = heard.map((_, i) => say(c, 'work', { nonce: 'progress', ms: 1200, steps: 12 }, { safe: true, timeout: 700, onprogress: () => (heard[i] = (heard[i] as number) + 1) }));
    expect(await Promise.all(calls)).toEqual(heard.map(() => 'done:progress'));
    expect(heard).toEqual([12, 12, 12]);
    expect(await runsOf(server(), 'progress')).toHaveLength(1);
  });

  it('reaches the others though one of them throws, or has left', async () => {
    const c = await client();
    let heard = 0;
    const controller = new AbortController();
    const calls = [
      say(c, 'work', { nonce: 'faulty', ms: 300, steps: 6 }, { safe: true, onprogress: () => controller.abort(), signal: controller.signal }).catch(() => 'left'),
      say(c, 'work', { nonce: 'faulty', ms: 300, steps: 6 }, {
        safe: true,
        onprogress: () => {
          throw new Error('the fault of a user');
        },
      }),
      say(c, 'work', { nonce: 'faulty', ms: 300, steps: 6 }, { safe: true, onprogress: () => heard++ }),
    ];
    expect(await Promise.all(calls)).toEqual(['left', 'done:faulty', 'done:faulty']);
    expect(heard).toBe(6);
  });
});
