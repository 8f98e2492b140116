import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { memoryStore, type Store } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { ScriptedServer } from '../links/scripted-server.ts';
import type { BadServer } from './bad-server.ts';
import { clientOf, connected, echo, expectUsable, startBad } from './harness.ts';

/** Each field for itself is in test/session/bad-input.test.ts, time in test/registry/sessions-ttl.test.ts, any damage at all in test/fuzz. */

type Fields = Record<string, unknown>;

const DAY = 24 * 3_600_000;
const STORES: readonly (readonly [string, () => Promise<Store>])[] = [
  ['memory', async () => memoryStore()],
  ['files', async () => fileStore(await directory())],
];

async function directory(): Promise<string> {
  const made = await mkdtemp(join(tmpdir(), 'reprise-bad-'));
  // The last lock may be given back a moment after the client is closed.
  onTestFinished(() => rm(made, { recursive: true, force: true, maxRetries: 5 }));
  return made;
}

/** Leaves a session in the store and changes its record. Returns its key and id. */
async function leave(server: BadServer, store: Store, change: (record: Fields) => unknown): Promise<{ key: string; id: string | undefined }> {
  const { client } = await connected(server, { store, metadata: { of: 'the user' } });
  await echo(client, 'before');
  const { key = '', id } = client.session;
  await client.close();
  const changed = change(JSON.parse((await store.get(key))?.value ?? '') as Fields);
  await store.set(key, typeof changed === 'string' ? changed : JSON.stringify(changed));
  return { key, id };
}

const nested = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth);
/** Puts a text of JSON into a record, which could not be written otherwise. */
const withJson =
  (field: string, json: string) =>
  (record: Fields): string =>
    JSON.stringify({ ...record, [field]: '<here>' }).replace('"<here>"', json);

describe.each(STORES)('a stored record over %s', (_where, open) => {
  it.each<[string, (record: Fields) => unknown]>([
    ['corrupt', (record) => JSON.stringify(record).slice(0, -20)],
    ['no text of ours', () => '\u0000\ud800 nonsense'],
    ['of a server at another origin', (record) => ({ ...record, url: String(record['url']).replace('http:', 'https:') })],
    ['of a server at another path', (record) => ({ ...record, url: `${String(record['url'])}/other` })],
    ['of a version of the protocol that never was', (record) => ({ ...record, initialized: { ...(record['initialized'] as Fields), protocolVersion: '2025-01-01' } })],
    ['of a handshake that the SDK has no use for', (record) => ({ ...record, initialized: { ...(record['initialized'] as Fields), _meta: 5 } })],
    ['of a server whose icons are none', (record) => ({ ...record, initialized: { ...(record['initialized'] as Fields), serverInfo: { name: 's', version: '1', icons: 'none' } } })],
    ['of another principal', (record) => ({ ...record, principal: 'mallory' })],
    ['with capabilities that nest 200,000 deep', withJson('capabilities', `{"experimental":{"x":${nested(200_000)}}}`)],
    ['with data that nest 200,000 deep', withJson('data', `{"x":${nested(200_000)}}`)],
    ['with a cache that nests 200,000 deep', withJson('cache', `{"tools":{"at":1,"result":{"tools":${nested(200_000)}}}}`)],
    ['with an answer to the handshake that nests 200,000 deep', (record) => withJson('initialized', JSON.stringify(record['initialized']).replace('"capabilities":{', `"capabilities":{"x":{"y":${nested(200_000)}},`))(record)],
  ])('that is %s costs one warning, a new session and nothing else', async (_what, change) => {
    await using server = await startBad();
    const store = await open();
    const { key, id } = await leave(server, store, change);
    const before = server.asked.length;

    await using heard = await connected(server, { store });

    expect(heard.client.session).toMatchObject({ resumed: false });
    expect(heard.warnings).toHaveLength(1);
    expect(heard.warnings[0]).not.toContain(String(id));
    await expectUsable(server, heard.client);
    expect(server.asked.slice(before).map(({ headers }) => headers['mcp-session-id'])).not.toContain(id);
    await heard.client.close();
    // What is there now is good.
    await using next = await connected(server, { store });
    expect(next.client.session).toMatchObject({ resumed: true, id: heard.client.session.id ?? expect.any(String), key });
    await expectUsable(server, next.client);
    expect(next.warnings).toEqual([]);
  });

  it.each<[string, (record: Fields) => unknown]>([
    ['expired', (record) => ({ ...record, expiresAt: Date.now() - 1 })],
    ['expired in 1970', (record) => ({ ...record, createdAt: 0, lastUsedAt: 0, expiresAt: 0 })],
    ['used last in the year 9999', (record) => ({ ...record, lastUsedAt: 253_402_300_799_000, expiresAt: 253_402_300_799_001 })],
    ['used last in two days from now', (record) => ({ ...record, lastUsedAt: Date.now() + 2 * DAY, expiresAt: Date.now() + 3 * DAY })],
  ])('that is %s is not taken up; that needs no warning', async (_what, change) => {
    await using server = await startBad();
    const store = await open();
    const { id } = await leave(server, store, change);
    const before = server.asked.length;

    await using heard = await connected(server, { store });

    expect(heard.client.session).toMatchObject({ resumed: false });
    await expectUsable(server, heard.client);
    expect(heard.warnings).toEqual([]);
    // The server may be told that nobody will use it any more.
    const carried = server.asked.slice(before).filter(({ headers }) => headers['mcp-session-id'] === id);
    expect(carried.every(({ method }) => method === 'DELETE')).toBe(true);
  });

  it.each<[string, (record: Fields) => unknown]>([
    ['made in the year 9999', (record) => ({ ...record, createdAt: 253_402_300_799_000 })],
    ['used last in an hour from now', (record) => ({ ...record, lastUsedAt: Date.now() + 3_600_000 })],
    ['good until the end of all numbers', (record) => ({ ...record, expiresAt: Number.MAX_VALUE })],
    ['good for ever', (record) => ({ ...record, expiresAt: null, ttl: null })],
  ])('that is %s is taken up', async (_what, change) => {
    await using server = await startBad();
    const store = await open();
    const { id } = await leave(server, store, change);

    await using heard = await connected(server, { store });

    expect(heard.client.session).toMatchObject({ resumed: true, id });
    await expectUsable(server, heard.client);
    expect([...heard.warnings, ...heard.resets]).toEqual([]);
  });
});

it('a record that names another server is not believed: nothing goes there', async () => {
  const other = await ScriptedServer.start((_, res) => res.writeHead(404).end());
  onTestFinished(() => other.stop());
  await using server = await startBad();
  const store = memoryStore();
  await leave(server, store, (record) => ({ ...record, url: other.url.href }));
  await using heard = clientOf(server, { store, listen: true });
  await heard.client.connect();
  await expectUsable(server, heard.client);
  await heard.client.end();
  expect(other.connections).toBe(0);
});

it('a file of a record that is cut at any place is set aside and told, and a new session is started', async () => {
  await using server = await startBad();
  const place = await directory();
  await leave(server, fileStore(place), (record) => record);
  const file = join(place, (await readdir(place)).find((name) => /^[0-9a-f]{64}/.test(name)) ?? '');
  const bytes = await readFile(file);
  const damaged: string[] = [];
  for (const length of [0, 1, 100, bytes.length - 1]) {
    await writeFile(file, bytes.subarray(0, length));
    await using heard = await connected(server, { store: fileStore(place, { onDamaged: ({ reason }) => damaged.push(reason) }) });
    expect(heard.client.session.resumed).toBe(false);
    expect(heard.warnings).toEqual([]);
    await expectUsable(server, heard.client);
    await heard.client.end();
  }
  expect(damaged).toHaveLength(4);
});
