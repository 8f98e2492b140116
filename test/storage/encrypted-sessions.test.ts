import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { encryptedStore, type EncryptedStoreOptions, type EncryptionKey, type ResilientClient, type Store } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { clientOf, connected, failure, heardFrom, say, temporaryDirectory, wireOf } from '../session/clients.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { keysOf, newKey, PASSPHRASE, QUICK, rawValue } from './encrypted-parts.ts';

/** The encrypted store under clients, over files. */

let server: FixtureProcess;
let directory: string;
let key: CryptoKey;
beforeAll(async () => {
  server = await startServer({ eventStore: true });
  key = await newKey();
});
afterAll(() => server.stop());
beforeEach(async () => {
  directory = await temporaryDirectory();
  await server.clearRequests();
});

const CANARY = 'canary-4b1d';

function storeOf(keys: EncryptionKey | readonly EncryptionKey[] = QUICK, options?: EncryptedStoreOptions): Store {
  return encryptedStore(fileStore(directory), keys, options);
}

/** A client on that store, and the session that it was on when it left. */
async function visit(store: Store, use: (client: ResilientClient) => Promise<unknown> = (client) => say(client, 'echo', { text: 'hello' })) {
  const client = clientOf(server.url, { store, principal: CANARY, metadata: { note: CANARY } });
  const { warning } = heardFrom(client);
  await client.connect();
  const { resumed, id = '' } = client.session;
  await use(client);
  await client.close();
  await store.close();
  return { id, resumed, warnings: warning.map(({ message }) => message) };
}

/** All that is in the directory: names, and the bytes of the files as text. */
async function everything(): Promise<string> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const texts = await Promise.all(entries.map(async (entry) => entry.name + (entry.isFile() ? await readFile(join(entry.parentPath, entry.name), 'latin1') : '')));
  return texts.join('\n');
}

/** A text, and what it looks like in base64 at any place. */
function traces(text: string): string[] {
  return [text, ...[0, 1, 2].map((shift) => Buffer.from('x'.repeat(shift) + text).toString('base64').slice(shift + 1, -4))];
}

describe('A client on an encrypted store', () => {
  it('leaves nothing of the session id in the directory; without encryption it is there', async () => {
    const { id } = await visit(fileStore(directory));
    expect(await everything()).toContain(id);
    expect(await everything()).toContain(CANARY);
    directory = await temporaryDirectory();
    const secret = await visit(storeOf(key, { hideKeys: true }));
    const found = await everything();
    expect(found).toContain('mcp-reprise:encrypted:1:');
    for (const text of [secret.id, CANARY, PASSPHRASE, 'protocolVersion', '127.0.0.1']) for (const trace of traces(text)) expect(found).not.toContain(trace);
  });

  it('is followed by one that goes on with its session, without a handshake, also with the answer of a durable call', async () => {
    const first = await visit(storeOf(), (client) => client.callTool({ name: 'echo', arguments: { text: CANARY } }, undefined, { callId: 'once' }));
    expect(await everything()).not.toContain(first.id);
    await server.clearRequests();
    const second = await visit(storeOf(), async (client) => {
      expect(await say(client, 'echo', { text: CANARY }, { callId: 'once' })).toBe(CANARY);
      expect(await say(client, 'echo', { text: 'new' })).toBe('new');
    });
    expect(second).toEqual({ id: first.id, resumed: true, warnings: [] });
    expect(await wireOf(server, 'initialize')).toEqual([]);
    expect(await wireOf(server, 'tools/call')).toHaveLength(1);
  });

  it('goes on after its key was replaced, and leaves what the new one alone can read', async () => {
    const old = await newKey();
    const { id } = await visit(storeOf(old));
    expect(await visit(storeOf([key, old]), (client) => client.subscribeResource({ uri: 'test://one' }))).toMatchObject({ id, resumed: true, warnings: [] });
    expect(await visit(storeOf(key))).toMatchObject({ id, resumed: true, warnings: [] });
  });

  it.each<[string, () => Store]>([
    ['one passphrase', () => storeOf()],
    ['one key and hidden names', () => storeOf(key, { hideKeys: true })],
  ])('is one of five that start at once on an empty store and end up on one session, with %s', async (_, open) => {
    const clients = await Promise.all(Array.from({ length: 5 }, () => connected(server.url, { store: open() })));
    expect(new Set(clients.map(({ session }) => session.id)).size).toBe(1);
  });
});

describe('With a store that cannot be read', () => {
  /** Connects, calls and ends a client there, and expects no more than one warning and nothing changed. */
  async function expectDegraded(store: Store, founder: { readonly id: string }, what: RegExp): Promise<void> {
    const before = await everything();
    const { id, resumed, warnings } = await visit(store, async (client) => {
      expect(await say(client, 'echo', { text: 'hello' })).toBe('hello');
      await client.subscribeResource({ uri: 'test://one' });
      // A call that must not run twice is not sent where it cannot be noted.
      expect(await failure(say(client, 'echo', { text: 'hello' }, { callId: 'once' }))).toMatchObject({ code: 'STORE', outcome: 'not-sent' });
      await client.end();
    });
    expect({ resumed, same: id === founder.id }).toEqual({ resumed: false, same: false });
    expect(warnings).toEqual([expect.stringMatching(what)]);
    expect(warnings[0]).not.toMatch(new RegExp(`${CANARY}|${founder.id}|horse`));
    expect(await everything()).toBe(before);
  }

  it('for a wrong passphrase, a client starts a new session, warns once, and leaves what is stored to who has the right one', async () => {
    const founder = await visit(storeOf(), (client) => say(client, 'echo', { text: 'hello' }, { callId: 'once' }));
    await expectDegraded(storeOf({ ...QUICK, passphrase: 'wrong' }), founder, /kept in memory only, .*another key or passphrase.*give that key/);
    expect(await visit(storeOf())).toMatchObject({ id: founder.id, resumed: true, warnings: [] });
  });

  it('for what was tampered with, or put into it without encryption, a client starts a new session, warns once, and leaves it alone', async () => {
    const founder = await visit(storeOf(key), (client) => say(client, 'echo', { text: 'hello' }, { callId: 'once' }));
    const raw = fileStore(directory);
    for (const [tamper, what] of [
      [(value: string) => value.replace(/.{8}$/, 'AAAAAAAA'), /not as it was written.*find out who writes/],
      [() => '{"v":1,"id":"planted"}', /not encrypted.*delete it/],
    ] as const) {
      const sound = new Map<string, string>();
      for (const name of await keysOf(raw)) {
        sound.set(name, await rawValue(raw, name));
        await raw.set(name, tamper(await rawValue(raw, name)));
      }
      await expectDegraded(storeOf(key), founder, what);
      for (const [name, value] of sound) await raw.set(name, value);
    }
    await raw.close();
    expect(await visit(storeOf(key))).toMatchObject({ id: founder.id, resumed: true, warnings: [] });
  });
});
