import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CfWorkerJsonSchemaValidator } from '@modelcontextprotocol/sdk/validation/cfworker';
import { memoryStore, ResilientClient, type Store } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { sessionKey } from '../../src/session/key.ts';
import { type Campaign, ensure, FuzzFailure, runBlocks, settled } from './campaign.ts';
import { mutateBytes, mutateJson, mutateText, Random, writeJson } from './mutate.ts';
import type { Recording } from './recorded.ts';
import { RecordedServer } from './server.ts';

/** One in so many lies in a file, and has its file changed. */
const FILES = 200;
const DAY = 24 * 3_600_000;
/** It keeps nothing of a schema that it has seen, unlike the SDK's usual one. */
const validator = new CfWorkerJsonSchemaValidator();

/** How many sessions were taken up, and how many new ones were started. */
interface Tally {
  resumed: number;
  fresh: number;
}

/** Has a client find a changed record: it takes the session up, or starts a new one with one warning, and works in either case. */
export async function fuzzRecords(recording: Recording, campaign: Campaign): Promise<Tally> {
  const tally: Tally = { resumed: 0, fresh: 0 };
  const key = await sessionKey({ url: recording.url, query: '' }, recording.principal, 'default');
  const file = await fileOf(key, fresh(recording.records[0] ?? ''));
  await runBlocks('records', campaign, 1, async (index, _, onDone) => {
    try {
      const { resumed } = await change(recording, key, file, new Random(campaign.seed, index), index);
      tally[resumed ? 'resumed' : 'fresh']++;
      onDone();
    } catch (error) {
      throw new FuzzFailure('records', campaign, index, error);
    }
  });
  return tally;
}

/** What a real store makes of a record. */
interface RecordFile {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly text: string;
}

async function fileOf(key: string, text: string): Promise<RecordFile> {
  const directory = await mkdtemp(join(tmpdir(), 'reprise-fuzz-'));
  const store = fileStore(directory);
  await store.set(key, text);
  await store.close();
  const name = (await readdir(directory)).find((each) => /^[0-9a-f]{64}$/.test(each)) ?? '';
  const bytes = await readFile(join(directory, name));
  await rm(directory, { recursive: true, force: true });
  return { name, bytes, text };
}

interface Place {
  readonly text: string;
  readonly damaged: string[];
  /** A slow disk costs a warning of its own. */
  readonly onDisk: boolean;
  open(): Store;
  leave(): Promise<void>;
}

async function change(recording: Recording, key: string, file: RecordFile, random: Random, index: number): Promise<Found> {
  // Used a moment ago, or the time that the campaign takes would count.
  const good = fresh(random.pick(recording.records));
  const place = index % FILES === FILES - 1 ? await inFile(file, random) : await inMemory(key, changed(good, random));
  const server = new RecordedServer(recording.replies);
  const { id } = JSON.parse(place.onDisk ? file.text : good) as { id: string };
  server.sessions.add(id);
  try {
    const first = await use(recording, server, place, `first ${index}`);
    await judge(first, place, server, recording, id);
    if (index % 4 !== 0) return first;
    // What is there now is good.
    if (place.onDisk && first.warnings.length > 0) return first;
    const second = await use(recording, server, place, `second ${index}`);
    ensure(second.warnings.length <= 1 && second.resets === 0, `the second client was told ${JSON.stringify(second)}`);
    return first;
  } finally {
    await place.leave();
  }
}

interface Found {
  readonly resumed: boolean;
  readonly warnings: readonly string[];
  readonly resets: number;
  readonly told: readonly string[];
}

/** What comes of connecting and calling once. */
async function use(recording: Recording, server: RecordedServer, place: Place, text: string): Promise<Found> {
  const warnings: string[] = [];
  const told: string[] = [];
  let resets = 0;
  let connected = false;
  const store = place.open();
  const client = new ResilientClient(recording.url, {
    store,
    principal: recording.principal,
    listen: false,
    fetch: server.fetch,
    timeout: { connect: 20_000, call: 20_000 },
    client: { jsonSchemaValidator: validator },
    on: { warning: ({ message }) => warnings.push(message), reset: ({ reason }) => told.push(reason) && resets++ },
  });
  try {
    const connecting = await settled(client.connect(), 'connect()');
    ensure(connecting.status === 'fulfilled', 'connect() failed', connecting.status === 'rejected' ? connecting.reason : undefined);
    connected = true;
    const { resumed } = client.session;
    const call = await settled(client.callTool({ name: 'echo', arguments: { text } }), 'the call');
    // A stored list of tools may say that this one has another kind of answer.
    const bySchema = call.status === 'rejected' && /output schema|structured content|task/i.test(String(call.reason));
    ensure(call.status === 'fulfilled' || (bySchema && resumed), 'the call failed', call.status === 'rejected' ? call.reason : undefined);
    if (call.status === 'fulfilled') ensure((call.value as { content: { text: string }[] }).content[0]?.text === text, `the call was answered ${JSON.stringify(call.value).slice(0, 200)}`);
    ensure(client.metrics().calls.pending === 0, 'a call is pending');
    return { resumed, warnings, resets, told: [...told, ...warnings] };
  } finally {
    await client.close();
    // What is in memory stays for the second client.
    if (place.onDisk) await store.close();
    ensure(connected || warnings.length <= 1, `several warnings: ${warnings.join('; ')}`);
  }
}

async function judge({ resumed, warnings, resets, told }: Found, place: Place, server: RecordedServer, recording: Recording, id: string): Promise<void> {
  ensure(warnings.length <= 1, `several warnings: ${warnings.join('; ')}`);
  ensure(place.onDisk || !warnings.some((text) => /the store failed(?!.* it is left alone)/.test(text)), `a store that works was said to fail: ${warnings.join()}`);
  const record = parsed(place.text);
  const own = typeof record['id'] === 'string' ? record['id'] : undefined;
  if (resumed) {
    ensure(record['url'] === recording.url && record['principal'] === recording.principal, 'a record of somebody else was taken up');
    ensure(own === id || resets === 1, 'the server refused the session, and nobody heard of it');
  } else {
    const { expiresAt, lastUsedAt } = record;
    const expired = typeof expiresAt === 'number' && (expiresAt <= Date.now() || (typeof lastUsedAt === 'number' && lastUsedAt > Date.now() + DAY / 2));
    ensure(warnings.length === 1 || place.damaged.length === 1 || expired, 'a new session was started, and nobody knows why');
  }
  // Its id goes to its own server only, and there only when it is ours to use, or to end.
  for (const { url, session, method } of server.asked) {
    ensure(url === recording.url, `something was sent to ${url}`);
    const minted = session === undefined || /^session-\d+$/.test(session);
    ensure(minted || (session === own && (resumed || method === 'DELETE')), 'a session id was sent that is not ours to use');
  }
  const secrets = [id, own ?? id].filter((secret) => secret.length >= 6);
  ensure(!told.some((text) => secrets.some((secret) => text.includes(secret))), `a secret was told: ${told.join('; ')}`);
}

function parsed(text: string): Record<string, unknown> {
  try {
    return (JSON.parse(text) ?? {}) as Record<string, unknown>;
  } catch {
    return {};
  }
}

function fresh(record: string): string {
  const now = Date.now();
  return JSON.stringify({ ...(JSON.parse(record) as object), createdAt: now - 60_000, lastUsedAt: now, expiresAt: now + 10 * DAY });
}

function changed(record: string, random: Random): string {
  if (random.chance(0.35)) return mutateText(record, random);
  let value: unknown = JSON.parse(record);
  for (let i = 1 + random.below(3); i > 0; i--) value = mutateJson(value, random);
  return writeJson(value);
}

async function inMemory(key: string, text: string): Promise<Place> {
  const store = memoryStore();
  await store.set(key, text);
  return { text, damaged: [], onDisk: false, open: () => store, leave: () => store.close() };
}

async function inFile({ name, bytes, text }: RecordFile, random: Random): Promise<Place> {
  const directory = await mkdtemp(join(tmpdir(), 'reprise-fuzz-'));
  const damaged: string[] = [];
  await writeFile(join(directory, name), mutateBytes(bytes, random), { mode: 0o600 });
  const open = (): Store => fileStore(directory, { onDamaged: ({ reason }) => damaged.push(reason) });
  return { text, damaged, onDisk: true, open, leave: () => rm(directory, { recursive: true, force: true, maxRetries: 5 }) };
}
