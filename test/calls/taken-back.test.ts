import { ToolListChangedNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { expect, it } from 'vitest';
import { memoryStore, type ResilientClient } from '../../src/index.ts';
import { connected, failure, heardFrom, say, streamOpen } from '../session/clients.ts';
import { countOf, sharedServer } from './servers.ts';

/** What a server has said does not hold for ever, and not for all who share its session at the same moment. */

const server = sharedServer();
const CUT = { onlyMethod: 'tools/call', times: 1 };

const changed = (client: ResilientClient): Promise<void> =>
  new Promise((resolve) => client.setNotificationHandler(ToolListChangedNotificationSchema, () => resolve()));

it('G2 a tool is not repeated on the word of a list that was taken back', async () => {
  const client = await connected(server().url, { trustAnnotations: true });
  await client.listTools();
  await streamOpen(server());
  const heard = changed(client);
  await say(client, 'grow', { name: 'taken-back' });
  await heard;
  await server().behave({ endEmpty: CUT });
  expect(await failure(say(client, 'look', { nonce: 'taken back' }))).toMatchObject({ code: 'OUTCOME_UNKNOWN' });
});

it('G2 nor on the word of a session that is lost', async () => {
  const client = await connected(server().url, { trustAnnotations: true, listen: false });
  const { reset } = heardFrom(client);
  await client.listTools();
  await server().forget();
  await client.ping();
  expect(reset).toHaveLength(1);
  await server().behave({ endEmpty: CUT });
  expect(await failure(say(client, 'look', { nonce: 'lost' }))).toMatchObject({ code: 'OUTCOME_UNKNOWN' });
});

it('a list that one client hears has changed is asked for by the others on its session too', async () => {
  const store = memoryStore();
  const first = await connected(server().url, { store });
  await first.listTools();
  await streamOpen(server());
  const second = await connected(server().url, { store, listen: false });
  await second.listTools();
  expect(await countOf(server(), 'tools/list')).toBe(1);
  const heard = changed(first);
  await say(first, 'grow', { name: 'heard-by-one' });
  await heard;
  expect((await second.listTools()).tools.map(({ name }) => name)).toContain('heard-by-one');
});

it('G4 arguments that cannot be copied leave no caller without an answer', async () => {
  const client = await connected(server().url, { history: { payloads: true }, listen: false });
  const ring: Record<string, unknown> = {};
  ring['self'] = ring;
  await failure(client.callTool({ name: 'echo', arguments: ring }));
  expect(client.history().at(-1)?.params).toBeUndefined();
  expect(client.metrics().calls.pending).toBe(0);
});
