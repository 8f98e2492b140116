import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { completable } from '@modelcontextprotocol/sdk/server/completable.js';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import type { RequestHandlerExtra } from '@modelcontextprotocol/sdk/shared/protocol.js';
import {
  LoggingLevelSchema,
  SetLevelRequestSchema,
  SubscribeRequestSchema,
  UnsubscribeRequestSchema,
  type CallToolResult,
  type LoggingLevel,
  type RequestId,
  type ServerNotification,
  type ServerRequest,
} from '@modelcontextprotocol/sdk/types.js';
import { z } from 'zod';
import type { Execution } from './contract.ts';

type Extra = RequestHandlerExtra<ServerRequest, ServerNotification>;

export interface ToolHost {
  /** Told when an execution starts, and again when it ends. */
  journal(execution: Execution): void;
  /** Destroys the connection that waits for the answer to a request. */
  cut?(sessionId: string | undefined, requestId: RequestId, whenBodyStarted: boolean): Promise<void>;
}

export interface FixtureServer {
  mcp: McpServer;
  uris: Set<string>;
  level: LoggingLevel | undefined;
  log(text: string): Promise<void>;
}

// Schemas are shared by all sessions: building them is most of what a new session costs.
const text = { text: z.string() };
const terms = { a: z.number(), b: z.number() };
const total = { total: z.number() };
const job = { nonce: z.string(), ms: z.number().optional(), steps: z.number().int().positive().optional() };
const cutJob = { nonce: z.string(), ms: z.number().optional(), after: z.boolean().optional() };
const sampling = { prompt: z.string(), late: z.boolean().optional() };
const elicitation = { message: z.string(), late: z.boolean().optional() };
const rooting = { late: z.boolean().optional() };
const touching = { uri: z.string() };
const growing = { name: z.string() };
const greeting = { name: completable(z.string(), (start) => ['Ada', 'Alan', 'Grace'].filter((name) => name.startsWith(start))) };

const say = (said: string): CallToolResult => ({ content: [{ type: 'text', text: said }] });
const severity = (level: LoggingLevel) => LoggingLevelSchema.options.indexOf(level);

/** The fixture's server for one session: the same over HTTP and over stdio. */
export function createFixtureServer(host: ToolHost): FixtureServer {
  const mcp = new McpServer(
    { name: 'fixture', version: '1.0.0' },
    {
      instructions: 'Use the fixture well.',
      capabilities: {
        tools: { listChanged: true },
        prompts: { listChanged: true },
        resources: { subscribe: true, listChanged: true },
        logging: {},
        completions: {},
      },
    },
  );
  const fixture: FixtureServer = {
    mcp,
    uris: new Set(),
    level: undefined,
    async log(data) {
      if (fixture.level && severity('info') < severity(fixture.level)) return;
      await mcp.server.notification({ method: 'notifications/message', params: { level: 'info', data } });
    },
  };
  mcp.server.setRequestHandler(SetLevelRequestSchema, ({ params }) => {
    fixture.level = params.level;
    return {};
  });
  mcp.server.setRequestHandler(SubscribeRequestSchema, ({ params }) => {
    fixture.uris.add(params.uri);
    return {};
  });
  mcp.server.setRequestHandler(UnsubscribeRequestSchema, ({ params }) => {
    fixture.uris.delete(params.uri);
    return {};
  });

  mcp.registerTool('echo', { inputSchema: text }, (args) => say(args.text));
  mcp.registerTool('sum', { inputSchema: terms, outputSchema: total }, ({ a, b }) => ({
    ...say(String(a + b)),
    structuredContent: { total: a + b },
  }));

  mcp.registerTool('work', { inputSchema: job }, (args, extra) => run(host, 'work', args, extra));
  mcp.registerTool('look', { inputSchema: job, annotations: { readOnlyHint: true, idempotentHint: true } }, (args, extra) =>
    run(host, 'look', args, extra),
  );
  mcp.registerTool('cutme', { inputSchema: cutJob }, ({ nonce, ms, after = false }, extra) => {
    const cut = async () => {
      await progress(extra, 0);
      await host.cut?.(extra.sessionId, extra.requestId, extra._meta?.progressToken !== undefined);
    };
    return run(host, 'cutme', { nonce, ms }, extra, after ? { last: cut } : { first: cut });
  });

  // Within the call the question goes over the call's own stream; a late one goes over the session's.
  const route = (late: boolean | undefined, extra: Extra) => (late ? {} : { relatedRequestId: extra.requestId });
  mcp.registerTool('sample', { inputSchema: sampling }, async ({ prompt, late }, extra) => {
    const messages = [{ role: 'user' as const, content: { type: 'text' as const, text: prompt } }];
    const { content } = await mcp.server.createMessage({ messages, maxTokens: 100 }, route(late, extra));
    return say(content.type === 'text' ? content.text : JSON.stringify(content));
  });
  mcp.registerTool('elicit', { inputSchema: elicitation }, async ({ message, late }, extra) => {
    const requestedSchema = { type: 'object' as const, properties: { name: { type: 'string' as const } } };
    const { action, content } = await mcp.server.elicitInput({ message, requestedSchema }, route(late, extra));
    return say(JSON.stringify({ action, content }));
  });
  mcp.registerTool('roots', { inputSchema: rooting }, async ({ late }, extra) => {
    const { roots } = await mcp.server.listRoots({}, route(late, extra));
    return say(JSON.stringify(roots.map(({ uri }) => uri)));
  });

  mcp.registerTool('announce', { inputSchema: text }, async (args) => {
    await fixture.log(args.text);
    return say('announced');
  });
  mcp.registerTool('touch', { inputSchema: touching }, async ({ uri }) => {
    const subscribed = fixture.uris.has(uri);
    if (subscribed) await mcp.server.sendResourceUpdated({ uri });
    return say(subscribed ? 'touched' : 'not subscribed');
  });
  mcp.registerTool('grow', { inputSchema: growing }, ({ name }) => {
    mcp.registerTool(name, {}, () => say(name));
    return say('grown');
  });

  mcp.registerResource('one', 'test://one', { mimeType: 'text/plain' }, () => ({
    contents: [{ uri: 'test://one', mimeType: 'text/plain', text: 'one' }],
  }));
  mcp.registerPrompt('greet', { argsSchema: greeting }, ({ name }) => ({
    messages: [{ role: 'user', content: { type: 'text', text: `Hello, ${name}!` } }],
  }));
  return fixture;
}

interface Job {
  nonce: string;
  ms?: number | undefined;
  steps?: number | undefined;
}

async function run(
  host: ToolHost,
  tool: string,
  { nonce, ms = 0, steps = 1 }: Job,
  extra: Extra,
  { first, last }: { first?: () => Promise<void>; last?: () => Promise<void> } = {},
): Promise<CallToolResult> {
  const { sessionId, signal } = extra;
  const execution: Execution = { id: randomUUID(), tool, nonce, startedAt: Date.now(), ...(sessionId !== undefined && { sessionId }) };
  host.journal(execution);
  try {
    await first?.();
    for (let step = 1; step <= steps; step++) {
      if (ms > 0) await sleep(ms / steps, undefined, { signal });
      await progress(extra, step, steps);
    }
    signal.throwIfAborted();
    host.journal({ ...execution, finished: true });
  } catch (error) {
    host.journal({ ...execution, aborted: true });
    throw error;
  }
  await last?.();
  return say(`done:${nonce}`);
}

async function progress({ _meta, sendNotification }: Extra, done: number, total = 1): Promise<void> {
  const progressToken = _meta?.progressToken;
  if (progressToken === undefined) return;
  await sendNotification({ method: 'notifications/progress', params: { progressToken, progress: done, total } });
}
