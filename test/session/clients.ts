import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import type { CallOptions } from '../../src/client.ts';
import { type ConnectOptions, ResilientClient, type SessionEmitter, type SessionEvents, type Target } from '../../src/index.ts';
import type { Behaviour, Execution, WireEntry } from '../support/contract.ts';
import { waitFor } from '../support/wait.ts';

/** What the tests of sessions do again and again. */

/** A client that is closed when the test is over. */
export function clientOf(target: Target, options: ConnectOptions = {}): ResilientClient {
  const client = new ResilientClient(target, options);
  onTestFinished(() => client.close());
  return client;
}

export async function connected(target: Target, options: ConnectOptions = {}): Promise<ResilientClient> {
  const client = clientOf(target, options);
  await client.connect();
  return client;
}

interface Calls {
  callTool(params: { name: string; arguments: Record<string, unknown> }, schema?: undefined, options?: CallOptions): Promise<object>;
}

/** Calls a tool and returns the text of its answer. */
export async function say(client: Calls, name: string, args: Record<string, unknown> = {}, options: CallOptions = {}): Promise<string> {
  const { content } = (await client.callTool({ name, arguments: args }, undefined, options)) as { content?: { text?: string }[] };
  return content?.[0]?.text ?? '';
}

type Heard = { readonly [E in keyof SessionEvents]: Parameters<SessionEvents[E]>[0][] };

/** What a client tells about itself from now on. */
export function heardFrom({ events }: { readonly events: SessionEmitter }): Heard {
  const heard: Heard = { state: [], resumed: [], reset: [], degraded: [], cursorLost: [], warning: [], retry: [] };
  for (const [name, list] of Object.entries(heard)) {
    events.on(name as keyof SessionEvents, (info: unknown) => void (list as unknown[]).push(info));
  }
  return heard;
}

/** What a call fails with. */
export async function failure(call: Promise<unknown>): Promise<Error & Record<string, unknown>> {
  try {
    await call;
  } catch (error) {
    return error as Error & Record<string, unknown>;
  }
  throw new Error('it should have failed');
}

/** How long something takes until it settles, in ms. */
export async function timed(task: Promise<unknown>): Promise<number> {
  const start = performance.now();
  await task.catch(() => {});
  return performance.now() - start;
}

export async function temporaryDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'session-'));
  onTestFinished(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

// ── What a server has seen ──────────────────────────────────────────────────────────────────────────────────────────

interface Wire {
  requests(): WireEntry[] | Promise<WireEntry[]>;
}

export async function wireOf(server: Wire, what: string): Promise<WireEntry[]> {
  return (await server.requests()).filter(({ http, rpc }) => http === what || rpc.some(({ method }) => method === what));
}

/** Waits until a client's stream is open at the server, and stands. */
export async function streamOpen(server: Wire): Promise<WireEntry> {
  return waitFor(async () => (await wireOf(server, 'GET')).find(({ status, endedBy }) => status === 200 && !endedBy), { what: 'an open GET stream' });
}

interface Journal {
  executions(): Promise<Execution[]>;
}

export async function runsOf(server: Journal, nonce: string): Promise<Execution[]> {
  return (await server.executions()).filter((execution) => execution.nonce === nonce);
}

export async function started(server: Journal, nonce: string): Promise<Execution> {
  return waitFor(async () => (await runsOf(server, nonce))[0], { what: `the start of ${nonce}` });
}

/** No fault at all. */
export const wellBehaved: Behaviour = {
  get: 'ok',
  getRetry: null,
  lost: '404-json',
  post: null,
  hang: null,
  reply: null,
  endEmpty: null,
  sessionIdHeader: null,
};
