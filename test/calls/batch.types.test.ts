import type { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { type CallToolResult, CompatibilityCallToolResultSchema, EmptyResultSchema, type ListToolsRequest } from '@modelcontextprotocol/sdk/types.js';
import { expectTypeOf, test } from 'vitest';
import { z } from 'zod';
import * as mini from 'zod/mini';
import * as v3 from 'zod/v3';
import { type BatchRequest, ResilientClient } from '../../src/index.ts';

/** The types of a batch: `tsc --noEmit` is the test. Nothing of this is run. */

const client = new ResilientClient('http://127.0.0.1:1/mcp');

type Result<V extends 'callTool' | 'listTools' | 'readResource' | 'ping' | 'complete' | 'getPrompt' | 'listPrompts' | 'listResources' | 'listResourceTemplates' | 'subscribeResource' | 'unsubscribeResource' | 'setLoggingLevel'> =
  // The SDK's own type of a tool's result knows nothing of its content.
  PromiseSettledResult<V extends 'callTool' ? CallToolResult : Awaited<ReturnType<Client[V]>>>;

test('each request of a tuple has the result of its own verb', () => {
  const batch = () =>
    client.batch([
      { method: 'tools/list' },
      { method: 'tools/call', params: { name: 'echo', arguments: { text: 'x' } }, options: { safe: true, timeout: 100 } },
      { method: 'resources/read', params: { uri: 'test://one' } },
      { method: 'ping' },
      { method: 'completion/complete', params: { ref: { type: 'ref/prompt', name: 'greet' }, argument: { name: 'name', value: 'A' } } },
      { method: 'prompts/get', params: { name: 'greet', arguments: { name: 'Ada' } } },
      { method: 'prompts/list', params: { cursor: 'next' } },
      { method: 'resources/list' },
      { method: 'resources/templates/list' },
      { method: 'resources/subscribe', params: { uri: 'test://one' } },
      { method: 'resources/unsubscribe', params: { uri: 'test://one' } },
      { method: 'logging/setLevel', params: { level: 'info' } },
    ]);
  expectTypeOf(batch).returns.resolves.toEqualTypeOf<
    [
      Result<'listTools'>,
      Result<'callTool'>,
      Result<'readResource'>,
      Result<'ping'>,
      Result<'complete'>,
      Result<'getPrompt'>,
      Result<'listPrompts'>,
      Result<'listResources'>,
      Result<'listResourceTemplates'>,
      Result<'subscribeResource'>,
      Result<'unsubscribeResource'>,
      Result<'setLoggingLevel'>,
    ]
  >();
});

test('a fulfilled result can be used without a cast', () => {
  const use = async () => {
    const [tools, read] = await client.batch([{ method: 'tools/list' }, { method: 'resources/read', params: { uri: 'test://one' } }]);
    if (tools.status === 'fulfilled') expectTypeOf(tools.value.tools[0]?.name).toEqualTypeOf<string | undefined>();
    if (read.status === 'fulfilled') expectTypeOf(read.value.contents).not.toBeAny();
    // @ts-expect-error: it may have failed
    return read.value;
  };
  expectTypeOf(use).toBeFunction();
});

test('an array has the results of what it holds, as an array', () => {
  const mapped = (texts: string[]) => client.batch(texts.map((text) => ({ method: 'tools/call', params: { name: 'echo', arguments: { text } } })));
  expectTypeOf(mapped).returns.resolves.toEqualTypeOf<Result<'callTool'>[]>();

  const list: { method: 'tools/list'; params?: ListToolsRequest['params'] }[] = [];
  expectTypeOf(() => client.batch(list)).returns.resolves.toEqualTypeOf<Result<'listTools'>[]>();

  const either = (texts: string[]) => client.batch([{ method: 'tools/list' }, ...texts.map((uri) => ({ method: 'resources/read' as const, params: { uri } }))]);
  expectTypeOf(either).returns.resolves.toEqualTypeOf<[Result<'listTools'>, ...Result<'readResource'>[]]>();

  const mixed = async (requests: readonly BatchRequest[]) => (await client.batch(requests)).map(({ status }) => status);
  expectTypeOf(mixed).returns.resolves.toEqualTypeOf<('fulfilled' | 'rejected')[]>();

  expectTypeOf(() => client.batch([])).returns.resolves.toEqualTypeOf<[]>();
});

test('a request with a schema has what that makes, of zod 4, zod/mini and zod 3', () => {
  const batch = () =>
    client.batch([
      { method: 'x/four', schema: z.object({ count: z.string().transform(Number) }) },
      { method: 'x/mini', params: { anything: true }, schema: mini.object({ count: mini.number() }) },
      { method: 'x/three', schema: v3.z.object({ count: v3.z.number().default(1) }) },
      { method: 'tools/call', params: { name: 'echo' }, schema: CompatibilityCallToolResultSchema },
      { method: 'ping', schema: EmptyResultSchema },
    ]);
  type Count = PromiseSettledResult<{ count: number }>;
  expectTypeOf(batch).returns.resolves.toEqualTypeOf<
    [Count, Count, Count, PromiseSettledResult<z.output<typeof CompatibilityCallToolResultSchema>>, PromiseSettledResult<z.output<typeof EmptyResultSchema>>]
  >();
});

test('what makes no sense is a compile error', () => {
  const wrong = [
    // @ts-expect-error: no such parameter
    () => client.batch([{ method: 'tools/call', params: { nam: 'echo' } }]),
    // @ts-expect-error: no parameters, and it needs some
    () => client.batch([{ method: 'tools/call' }]),
    // @ts-expect-error: a number is no URI
    () => client.batch([{ method: 'resources/read', params: { uri: 7 } }]),
    // @ts-expect-error: no such level
    () => client.batch([{ method: 'logging/setLevel', params: { level: 'loud' } }]),
    // @ts-expect-error: parameters, and it has none
    () => client.batch([{ method: 'ping', params: { name: 'echo' } }]),
    // @ts-expect-error: not of the SDK, and no schema
    () => client.batch([{ method: 'x/y' }]),
    // @ts-expect-error: no request of the user's, and no schema
    () => client.batch([{ method: 'initialize' }]),
    // @ts-expect-error: no such option of a call
    () => client.batch([{ method: 'ping', options: { tiemout: 1 } }]),
    // @ts-expect-error: no such option of a batch
    () => client.batch([], { tiemout: 1 }),
    // @ts-expect-error: no such wire
    () => client.batch([], { wire: 'pigeon' }),
    // @ts-expect-error: not an array
    () => client.batch({ method: 'ping' }),
    // @ts-expect-error: the second one is wrong
    () => client.batch([{ method: 'ping' }, { method: 'tools/call', params: {} }]),
  ];
  expectTypeOf(wrong).toBeArray();
});
