import { createServer } from 'node:http';
import { json } from 'node:stream/consumers';
import { InMemoryTransport } from '@modelcontextprotocol/sdk/inMemory.js';
import { Server } from '@modelcontextprotocol/sdk/server/index.js';
import { CallToolRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { describe, expect, it, onTestFinished, test, vi } from 'vitest';
import type { BatchOptions, BatchRequest, ConnectOptions, ResilientClient } from '../../src/index.ts';
import type { CallOptions } from '../../src/client.ts';
import { connected } from '../session/clients.ts';
import { listen } from '../support/ports.ts';
import { onFakeClock } from '../unit/parts.ts';
import { batchOf, echo, numbered, tool } from './batches.ts';

/** Item 4: the two limits of a batch, its concurrency and its time. */

interface Message {
  readonly id?: number;
  readonly method: string;
}

describe('concurrency, counted at the server', () => {
  /** A server that counts, and answers nothing before as many calls are in flight as are expected. */
  async function countingServer(protocolVersion: string, expected: number) {
    const now = { calls: 0, posts: 0 };
    /** In flight, and in one POST. */
    const most = { calls: 0, posts: 0, size: 0 };
    let letGo = (): void => {};
    const full = new Promise<void>((resolve) => (letGo = resolve));
    const http = createServer(async (req, res) => {
      if (req.method !== 'POST') return void res.writeHead(405).end();
      const body = (await json(req)) as Message | Message[];
      const messages = [body].flat();
      const type = { 'content-type': 'application/json', 'mcp-session-id': 'abc' };
      if (messages[0]?.id === undefined) return void res.writeHead(202).end();
      if (messages[0].method === 'initialize') {
        const result = { protocolVersion, capabilities: { tools: {} }, serverInfo: { name: 'counting', version: '1' } };
        return void res.writeHead(200, type).end(JSON.stringify({ jsonrpc: '2.0', id: messages[0].id, result }));
      }
      count(1);
      if (now.calls >= expected) letGo();
      await full;
      // Whoever else is on its way comes in now.
      await new Promise(setImmediate);
      count(-1);
      const answers = messages.map(({ id }) => ({ jsonrpc: '2.0', id, result: { content: [{ type: 'text', text: 'ok' }] } }));
      res.writeHead(200, type).end(JSON.stringify(Array.isArray(body) ? answers : answers[0]));

      function count(step: 1 | -1): void {
        now.calls += step * messages.length;
        now.posts += step;
        most.calls = Math.max(most.calls, now.calls);
        most.posts = Math.max(most.posts, now.posts);
        most.size = Math.max(most.size, messages.length);
      }
    });
    const port = await listen(http);
    onTestFinished(() => void http.close().closeAllConnections());
    return { url: `http://127.0.0.1:${port}/mcp`, most };
  }

  const requests = numbered(500, 'call').map((text) => echo(text));
  const answers = requests.map(() => 'ok');

  test.each([
    { what: 'the batch\'s, side by side', version: '2025-11-25', client: {}, batch: { concurrency: 8 }, expected: { calls: 8, posts: 8, size: 1 } },
    { what: 'the client\'s, side by side', version: '2025-11-25', client: { concurrency: 8 }, batch: {}, expected: { calls: 8, posts: 8, size: 1 } },
    { what: 'the client\'s before a larger one of the batch', version: '2025-11-25', client: { concurrency: 8 }, batch: { concurrency: 100 }, expected: { calls: 8, posts: 8, size: 1 } },
    { what: 'the batch\'s, in arrays', version: '2025-03-26', client: {}, batch: { concurrency: 20 }, expected: { calls: 20, posts: 1, size: 20 } },
    { what: 'the batch\'s, in many arrays', version: '2025-03-26', client: {}, batch: { concurrency: 250 }, expected: { calls: 200, posts: 2, size: 100 } },
    { what: 'the client\'s, in arrays', version: '2025-03-26', client: { concurrency: 2 }, batch: {}, expected: { calls: 200, posts: 2, size: 100 } },
    { what: 'the client\'s before a larger one of the batch, in arrays', version: '2025-03-26', client: { concurrency: 2 }, batch: { concurrency: 500 }, expected: { calls: 200, posts: 2, size: 100 } },
  ])('is kept: $what', async ({ version, client: clientOptions, batch, expected }) => {
    const { url, most } = await countingServer(version, expected.calls);
    const client = await connected(url, { listen: false, ...clientOptions });
    expect(await batchOf(client, requests, batch)).toEqual(answers);
    expect(most).toEqual(expected);
    expect(client.metrics()).toMatchObject({ inFlight: 0, queueLength: 0 });
  });

  test('is the client\'s own default: 64, and up to 256 where that is of use', async () => {
    const { url, most } = await countingServer('2025-11-25', 64);
    const client = await connected(url, { listen: false });
    expect(await batchOf(client, requests)).toEqual(answers);
    expect(most.calls).toBeGreaterThanOrEqual(64);
    expect(most.calls).toBeLessThanOrEqual(256);
  });

  test('of the client is kept by several batches together', async () => {
    const { url, most } = await countingServer('2025-11-25', 10);
    const client = await connected(url, { listen: false, concurrency: 10 });
    const batches = [8, 6, 20].map((concurrency) => batchOf(client, requests.slice(0, 100), { concurrency }));
    for (const batch of batches) expect(await batch).toEqual(answers.slice(0, 100));
    expect(most.calls).toBe(10);
  });
});

describe('the time of a batch', () => {
  onFakeClock();

  /** A client of a server in this process, on the same clock, whose only tool takes `ms`. */
  function slowClient(options: ConnectOptions = {}): Promise<ResilientClient> {
    const target = () => {
      const [ours, theirs] = InMemoryTransport.createLinkedPair();
      const server = new Server({ name: 'slow', version: '1' }, { capabilities: { tools: {} } });
      server.setRequestHandler(CallToolRequestSchema, async ({ params }, { signal }) => {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, Number(params.arguments?.['ms']));
          signal.addEventListener('abort', () => (clearTimeout(timer), resolve()));
        });
        return { content: [{ type: 'text', text: `after ${String(params.arguments?.['ms'])}` }] };
      });
      void server.connect(theirs);
      return ours;
    };
    return connected(target, options);
  }

  const slow = (ms: number, options?: CallOptions) => tool('slow', { ms }, options);

  /** Runs a batch on the fake clock; when it was over, and with what. */
  async function timed(one: ResilientClient, requests: readonly BatchRequest[], options: BatchOptions) {
    const start = performance.now();
    let took: number | undefined;
    const batch = batchOf(one, requests, options).finally(() => (took = performance.now() - start));
    await vi.advanceTimersByTimeAsync(3_600_000);
    const results = await batch;
    await one.close();
    return { took, results: results.map((result) => (typeof result === 'string' ? result : { ...(result as object) })) };
  }

  test.each([
    { whose: 'the batch', client: {}, batch: { concurrency: 1 } },
    { whose: 'the client', client: { concurrency: 1 }, batch: {} },
  ])('counts the wait for a turn of $whose against the batch, and not against the call', async ({ client, batch }) => {
    const requests = [slow(800, { timeout: 1000 }), slow(800, { timeout: 1000 }), slow(800, { timeout: 1000 }), slow(1200, { timeout: 1000 })];
    const { took, results } = await timed(await slowClient(client), requests, { ...batch, timeout: 10_000 });
    expect(results).toMatchObject(['after 800', 'after 800', 'after 800', { code: 'DEADLINE', timeout: 1000 }]);
    expect(took).toBe(3400);
  });

  test('ends for all at once, in flight or not, and exactly then', async () => {
    const { took, results } = await timed(await slowClient(), [slow(400), slow(5000), slow(5000), slow(10)], { concurrency: 2, timeout: 1000 });
    expect(results).toMatchObject(['after 400', { code: 'DEADLINE', outcome: 'unknown' }, { code: 'DEADLINE', outcome: 'unknown' }, { code: 'DEADLINE', outcome: 'not-sent', timeout: 1000 }]);
    expect(took).toBeGreaterThanOrEqual(1000);
    expect(took).toBeLessThanOrEqual(1001);
  });

  test('G9 leaves no timer behind when all is answered before', async () => {
    const client = await slowClient();
    const before = vi.getTimerCount();
    const batch = batchOf(client, [slow(10), slow(20), slow(30)], { concurrency: 2 });
    await vi.advanceTimersByTimeAsync(40);
    expect(await batch).toEqual(['after 10', 'after 20', 'after 30']);
    expect(vi.getTimerCount()).toBe(before);
    await client.close();
  });

  test('lets a call have less, and never more', async () => {
    const { took, results } = await timed(await slowClient(), [slow(5000, { timeout: 300 }), slow(5000, { timeout: 3_000_000, maxTotalTimeout: 3_000_000 })], { timeout: 1000 });
    expect(results).toMatchObject([{ code: 'DEADLINE', timeout: 300 }, { code: 'DEADLINE' }]);
    expect(took).toBeLessThanOrEqual(1001);
  });

  test.each([
    { options: {}, expected: 600_000 },
    { options: { timeout: { total: 70_000 } }, expected: 70_000 },
    { options: { timeout: { call: 900_000 } }, expected: 900_000 },
  ])('is that of any call by default: $options', async ({ options, expected }) => {
    const patient = { timeout: 2_000_000, maxTotalTimeout: 2_000_000 };
    const { took } = await timed(await slowClient(options), [slow(3_000_000, patient), slow(1)], {});
    expect(took).toBeGreaterThanOrEqual(expected);
    expect(took).toBeLessThanOrEqual(expected + 1);
  });

  // Planner and Calls take it for timeout.call, and give the fraction of a ms that was left: "within 999.87 ms (timeout.call)".
  it('is what the error of a call in flight names', async () => {
    const { results } = await timed(await slowClient(), [slow(5000)], { timeout: 1000 });
    expect(results).toMatchObject([{ timeout: 1000, reason: 'tools/call "slow" was not answered within the 1000 ms of its batch.' }]);
  });
});
