import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { afterAll, expect } from 'vitest';
import { type ConnectOptions, ResilientClient } from '../../src/index.ts';
import { waitFor } from '../support/wait.ts';
import { type Badness, BadServer, GOOD } from './bad-server.ts';

/** By both of what makes requests: they differ in redirects, in encodings and in what they see of a broken answer. */
export const REQUESTERS: readonly (readonly [string, Pick<ConnectOptions, 'fetch'>])[] = [
  ['node:http', {}],
  ['fetch', { fetch: (url, init) => fetch(url, init) }],
];

/** Where this process has asked for anything, by whatever means. */
const asked = new Set<string>();
const ours = new Set<string>();
const CHANNELS = {
  'http.client.request.start': ({ request }: { request: { protocol: string; getHeader(name: string): unknown } }) => asked.add(`${request.protocol}//${String(request.getHeader('host'))}`),
  'undici:request:create': ({ request }: { request: { origin: string } }) => asked.add(request.origin),
};
for (const [name, onMessage] of Object.entries(CHANNELS)) subscribe(name, onMessage as (message: unknown) => void);
afterAll(() => {
  for (const [name, onMessage] of Object.entries(CHANNELS)) unsubscribe(name, onMessage as (message: unknown) => void);
  // Whatever a server says: nothing is ever sent anywhere else.
  const strange = [...asked].filter((origin) => !ours.has(origin));
  if (strange.length > 0) throw new Error(`something was sent to ${strange.join(', ')}`);
  if (asked.size === 0) throw new Error('nobody watched what was sent');
});

/** A bad server that the client may talk to. */
export async function startBad(bad?: Badness, options?: { secure?: boolean }): Promise<BadServer> {
  const server = await BadServer.start(bad, options);
  ours.add(server.url.origin);
  return server;
}

interface Heard {
  readonly client: ResilientClient;
  readonly warnings: string[];
  readonly resets: string[];
  readonly cursorLost: string[];
  [Symbol.asyncDispose](): Promise<void>;
}

/** A client, and what it tells. It is not connected. */
export function clientOf(server: BadServer, options: ConnectOptions = {}): Heard {
  const client = new ResilientClient(server.url, { listen: false, ...options });
  const heard: Heard = { client, warnings: [], resets: [], cursorLost: [], [Symbol.asyncDispose]: () => client.close() };
  client.events.on('warning', ({ message }) => heard.warnings.push(message));
  client.events.on('reset', ({ reason }) => heard.resets.push(reason));
  client.events.on('cursorLost', ({ reason }) => heard.cursorLost.push(reason));
  return heard;
}

export async function connected(server: BadServer, options?: ConnectOptions): Promise<Heard> {
  const heard = clientOf(server, options);
  await heard.client.connect();
  return heard;
}

export const echo = (client: ResilientClient, text: string, options: Parameters<ResilientClient['callTool']>[2] = {}) =>
  client.callTool({ name: 'echo', arguments: { text } }, undefined, options);

/** How late a machine with much else to do may be, in ms. */
const LATE = 10_000;

/** The error that a call fails with, within `limit` ms and what a busy machine needs more. */
export async function failureOf(call: Promise<unknown>, limit: number): Promise<Error & { code?: unknown; outcome?: unknown; retryAfter?: number }> {
  const pending = Symbol('pending');
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<typeof pending>((resolve) => (timer = setTimeout(() => resolve(pending), limit + LATE)));
  const settled = await Promise.race([
    late,
    call.then(
      (answer) => ({ answer }),
      (error: unknown) => ({ error }),
    ),
  ]);
  clearTimeout(timer);
  if (settled === pending) throw new Error(`the call is not settled after ${limit + LATE} ms`);
  if ('answer' in settled) throw new Error(`the call was answered: ${JSON.stringify(settled.answer)?.slice(0, 200)}`);
  expect(settled.error).toBeInstanceOf(Error);
  return settled.error as Error;
}

/** As soon as the server is good again, so is the client; and nothing of what was bad is left with it. */
export async function expectUsable(server: BadServer, client: ResilientClient): Promise<void> {
  server.bad = () => GOOD;
  expect(await echo(client, 'the next one')).toEqual({ content: [{ type: 'text', text: 'the next one' }] });
  expect(client.metrics().calls.pending).toBe(0);
  await waitFor(() => client.metrics().openStreams === 0);
}
