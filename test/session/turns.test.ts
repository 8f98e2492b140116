import { setImmediate as turn } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { memoryStore, type Store } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { altered, type Clients, clientOf, connected, failure, heardFrom, say, startClients, temporaryDirectory, wellBehaved, wireOf } from './clients.ts';
import { type Member, members, watched } from './members.ts';

/** Of all who share a store and find no session one makes it, and the others wait for that: the handshake has a turn. */

let server: FixtureProcess;
beforeAll(async () => void (server = await startServer()));
afterAll(() => server.stop());
beforeEach(async () => {
  await server.forget();
  await server.clearRequests();
});
afterEach(() => server.behave(wellBehaved));

const handshakes = () => wireOf(server, 'initialize');
/** A turn in which the server never answers. */
const hold = () => server.behave({ hang: { onlyMethod: 'initialize', times: 1 } });
const held = () => waitFor(async () => (await handshakes())[0], { what: 'a handshake that hangs' });

/**
 * Takes a lock that should be free. One that a holder has left behind is free after its ttl of 3 s, in memory never: so within 2 s
 * means that it was given back.
 */
async function takesAtOnce(store: Store, lock: string): Promise<void> {
  const { release } = await store.lock(lock, { ttl: 3000, signal: AbortSignal.timeout(2000) });
  await release();
}

describe('30 clients in 3 processes, over files,', () => {
  let processes: Clients[] = [];
  beforeAll(() => {
    processes = Array.from({ length: 3 }, startClients);
  });
  afterAll(() => Promise.all(processes.map((each) => each.kill())));

  test('that start cold at once, on an empty store, make one handshake; after a loss they make one more (G6)', async () => {
    const store = await temporaryDirectory();
    // The stream would notice the loss as well, and is not what this is about.
    for (const each of processes) each.send({ type: 'connect', url: server.url.href, store, count: 10, options: { listen: false } });
    const ids = new Set<string>();
    for (const each of processes) for (const id of (await each.next('connected')).ids) ids.add(id);
    expect([...ids]).toEqual(await server.sessions());
    expect(await handshakes()).toHaveLength(1);

    for (let loss = 2; loss <= 3; loss++) {
      await server.forget();
      for (const each of processes) each.send({ type: 'echo', times: 3 });
      const after = new Set<string>();
      for (const each of processes) {
        const { wrong, ids } = await each.next('echoed');
        expect(wrong).toEqual([]);
        for (const id of ids) after.add(id);
      }
      expect([...after]).toEqual(await server.sessions());
      expect(await handshakes()).toHaveLength(loss);
    }
    // Nobody made a session only to end it again.
    expect(await wireOf(server, 'DELETE')).toEqual([]);
    for (const each of processes) each.send({ type: 'close' });
    for (const each of processes) {
      expect((await each.next('closed')).resources).toEqual([]);
      expect(await each.exit).toEqual({ code: 0, signal: null });
      await expect(each.next('warned')).rejects.toThrow('exited (0)');
    }
  });
});

test('many clients of one process make one handshake, and one after each loss (G6)', async () => {
  const store = memoryStore();
  const clients = Array.from({ length: 50 }, () => clientOf(server.url, { store, listen: false }));
  const heard = clients.map(heardFrom);
  await Promise.all(clients.map((client) => client.connect()));
  expect(await handshakes()).toHaveLength(1);
  await server.forget();
  expect(await Promise.all(clients.map((client, i) => say(client, 'echo', { text: `${i}` })))).toEqual(clients.map((_, i) => `${i}`));
  expect(await handshakes()).toHaveLength(2);
  // One made it, and each of the others took that up.
  expect(heard.map(({ reset }) => reset.length)).toEqual(clients.map(() => 1));
  expect(heard.filter(({ reset }) => reset[0]?.adopted === false)).toHaveLength(1);
  expect(heard.flatMap(({ warning }) => warning)).toEqual([]);
});

describe('a process that is killed in its turn', () => {
  // So long one waits for its turn: half of it. The turn of a dead one is over after 3 s.
  const options = { listen: false, timeout: { connect: 30_000 } } as const;

  test('leaves it to another, which makes the session for all who wait', async () => {
    const directory = await temporaryDirectory();
    const [killed, ...others] = await members(4, server, directory, options);
    await hold();
    killed?.send('connect');
    await held();
    const connecting = others.map((each) => each.does('connect'));
    for (const each of others) await each.until('asks', 'handshake');
    expect(await handshakes()).toHaveLength(1);
    await killed?.signal('SIGKILL');

    const ids = new Set(await Promise.all(connecting));
    expect([...ids]).toEqual(await server.sessions());
    expect((await handshakes()).map(({ headers }) => headers['x-member'] === killed?.name)).toEqual([true, false]);
    expect(others.flatMap((each) => each.all('connected')).filter(({ resumed }) => !resumed)).toHaveLength(1);
    expect(others.flatMap((each) => each.toldOf('warning'))).toEqual([]);
  }, 60_000);

  test('leaves it to another, which replaces the lost session for all who call (G6)', async () => {
    const directory = await temporaryDirectory();
    const [killed, ...others] = await members(3, server, directory, options);
    await killed?.does('connect');
    for (const each of others) await each.does('connect');
    await server.forget();
    await server.clearRequests();
    await hold();
    killed?.send('echo');
    await held();
    const echoes = others.map((each) => each.does('echo'));
    for (const each of others) await each.until('asks', 'handshake');
    await killed?.signal('SIGKILL');

    const ids = new Set(await Promise.all(echoes));
    expect([...ids]).toEqual(await server.sessions());
    expect((await handshakes()).map(({ headers }) => headers['x-member'] === killed?.name)).toEqual([true, false]);
    expect(others.flatMap((each) => each.toldOf('reset')).sort()).toEqual(['adopted', 'made']);
  }, 60_000);
});

describe('a store whose lock', () => {
  const broken: [string, () => Promise<never>][] = [
    ['rejects', () => Promise.reject(new Error('no locks here'))],
    ['throws', () => {
      throw new Error('no locks here');
    }],
    ['never answers', () => new Promise(() => {})],
  ];

  test.each(broken)('%s keeps nobody from a session: it goes on without a turn, with one warning at the most (G8)', async (what, lock) => {
    const store = altered(memoryStore(), { lock });
    const client = clientOf(server.url, { store, timeout: { connect: 8000 } });
    const { warning, reset } = heardFrom(client);
    await client.connect();
    expect(await say(client, 'echo', { text: 'on' })).toBe('on');
    const { id } = client.session;
    await server.forget();
    expect(await say(client, 'echo', { text: 'on a new one' })).toBe('on a new one');
    expect(client.session.id).not.toBe(id);
    expect(reset).toHaveLength(1);
    expect(await handshakes()).toHaveLength(2);
    // One that says nothing may only have somebody who takes long.
    expect(warning.map(({ message }) => message)).toEqual(what === 'never answers' ? [] : [expect.stringContaining('no locks here')]);
    await client.close();
    expect(client.session.state).toBe('closed');
  });

  test('never answers: compare-and-set decides whose session it is, and the others are ended', async () => {
    const store = altered(memoryStore(), { lock: () => new Promise(() => {}) });
    const clients = await Promise.all(Array.from({ length: 5 }, () => connected(server.url, { store, listen: false, timeout: { connect: 8000 } })));
    expect(new Set(clients.map(({ session }) => session.id)).size).toBe(1);
    expect(await Promise.all(clients.map((client, i) => say(client, 'echo', { text: `${i}` })))).toEqual(clients.map((_, i) => `${i}`));
    await waitFor(async () => (await server.sessions()).length === 1);
    expect(await server.sessions()).toEqual([clients[0]?.session.id]);
  });

  test('answers after the client has left gives the lock back (G9)', async () => {
    const base = memoryStore();
    let answer = (): void => {};
    let answered = false;
    const asked: string[] = [];
    const late = altered(base, {
      async lock(key, options) {
        asked.push(key);
        await new Promise<void>((resolve) => (answer = resolve));
        const lock = await base.lock(key, { ttl: options.ttl });
        answered = true;
        return lock;
      },
    });
    const client = clientOf(server.url, { store: late });
    const failed = failure(client.connect());
    const key = await waitFor(() => asked[0]);
    await client.close();
    expect(await failed).toBeInstanceOf(Error);
    answer();
    await waitFor(() => answered);
    await takesAtOnce(base, key);
    expect(await handshakes()).toEqual([]);
  });
});

describe('whoever gives up while it waits for its turn leaves nothing behind (G9):', () => {
  test.each(['closed', 'aborted'])('a client that is %s', async (how) => {
    const { store, asked, given } = watched(memoryStore());
    await hold();
    const holder = clientOf(server.url, { store });
    const heldUp = failure(holder.connect());
    await held();
    const abort = new AbortController();
    const waiting = clientOf(server.url, { store, signal: abort.signal });
    const { warning } = heardFrom(waiting);
    const gaveUp = failure(waiting.connect());
    await waitFor(() => asked.length === 2);
    if (how === 'closed') await waiting.close();
    else abort.abort(new Error('my own reason'));
    const error = await gaveUp;
    if (how === 'aborted') expect(error.message).toBe('my own reason');
    else expect(error.name).toBe('ClosedError');
    await waiting.close();

    await holder.close();
    await heldUp;
    await takesAtOnce(store, asked[0] as string);
    // The one that held it, and this test.
    expect(given).toHaveLength(2);
    expect(await handshakes()).toHaveLength(1);
    expect(warning).toEqual([]);
    expect((await connected(server.url, { store })).session.resumed).toBe(false);
  });

  test('a process, over files; and so does the one that has the turn', async () => {
    const directory = await temporaryDirectory();
    const [holder, waiting] = (await members(2, server, directory)) as [Member, Member];
    await hold();
    holder.send('connect');
    await held();
    waiting.send('connect');
    await waiting.until('asks', 'handshake');
    for (const each of [waiting, holder]) {
      await each.close();
      expect(await each.exit).toEqual({ code: 0, signal: null });
      expect(each.toldOf('warning')).toEqual([]);
    }
    expect(waiting.times('has', 'handshake')).toBe(0);
    const store = fileStore(directory);
    onTestFinished(() => store.close());
    await takesAtOnce(store, holder.all('has')[0]?.lock ?? '');
    expect(await handshakes()).toHaveLength(1);
  });
});

test('G9 close() waits for what connect() asked of the store, and the next connect() has a turn of its own', async () => {
  const memory = memoryStore();
  const held: { read?: () => void; write?: () => void } = {};
  let turns = 0;
  const store = altered(memory, {
    get: async (key) => {
      if (!held.read) await new Promise<void>((resolve) => (held.read = resolve));
      return memory.get(key);
    },
    set: async (...args) => {
      if (!held.write) await new Promise<void>((resolve) => (held.write = resolve));
      return memory.set(...args);
    },
    lock: async (...args) => {
      const lock = await memory.lock(...args);
      turns++;
      return { fence: lock.fence, lost: lock.lost, release: () => lock.release().finally(() => turns--) };
    },
  });
  const client = clientOf(server.url, { store, listen: false });
  const first = failure(client.connect());
  const read = await waitFor(() => held.read);
  let left = false;
  const closing = client.close().then(() => (left = true));
  const second = client.connect();
  expect(await first).toMatchObject({ code: 'CLOSED' });
  await turn();
  expect(left).toBe(false);
  read();
  await closing;
  expect(turns).toBe(0);
  const write = await waitFor(() => held.write);
  expect(turns).toBe(1);
  write();
  await second;
  await client.close();
  expect(turns).toBe(0);
});
