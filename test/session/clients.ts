import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { type ConnectOptions, ResilientClient, type SessionEmitter, type SessionEvents, type Store, type Target } from '../../src/index.ts';
import type { Execution, WireEntry } from '../support/contract.ts';
import { type ClientProcess, runScript } from '../support/client-process.ts';
import { waitFor } from '../support/wait.ts';
import type { Said, Told } from './client.process.ts';

export { wellBehaved } from '../support/contract.ts';
export { say } from './say.ts';

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

type Heard = { readonly [E in keyof SessionEvents]: Parameters<SessionEvents[E]>[0][] };

/** What a client tells about itself from now on. */
export function heardFrom({ events }: { readonly events: SessionEmitter }): Heard {
  const heard: Heard = { state: [], resumed: [], reset: [], degraded: [], cursorLost: [], warning: [], retry: [], call: [], circuit: [] };
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

export type Clients = ClientProcess<Said, Told>;

/** A process of clients; dispose of it, or tell it to close. */
export function startClients(): Clients {
  return runScript<Said, Told>(new URL('./client.process.ts', import.meta.url));
}

/** How long a process stayed after its last client was closed, in ms. */
export function stayed({ stdout }: Clients): number {
  return Number(/^stayed (.+)$/m.exec(stdout)?.[1]);
}

export async function temporaryDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'session-'));
  onTestFinished(() => rm(directory, { recursive: true, force: true, maxRetries: 10 }));
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

/** A store with some of its methods in another way. */
export function altered(store: Store, methods: Partial<Store>): Store {
  return {
    get: (key) => store.get(key),
    set: (key, value, expected) => store.set(key, value, expected),
    delete: (key, expected) => store.delete(key, expected),
    keys: (prefix) => store.keys(prefix),
    lock: (key, options) => store.lock(key, options),
    close: () => store.close(),
    ...methods,
  };
}
