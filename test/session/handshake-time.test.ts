import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it, onTestFinished, vi } from 'vitest';
import { memoryStore, ResilientClient, type Store } from '../../src/index.ts';
import { ScriptedServer } from '../links/scripted-server.ts';
import { startServer } from '../support/server.ts';
import { wireOf } from './clients.ts';

it('G4 both halves of the handshake have one time, which its error tells', async () => {
  // Says who it is when half of the time is over, and then takes no notice of being told that this was heard.
  const slow = await ScriptedServer.start(async ({ body }, res) => {
    const { id, method } = JSON.parse(body || '{}') as { id?: number; method?: string };
    if (method !== 'initialize') return;
    await sleep(1000);
    const result = { protocolVersion: '2025-11-25', capabilities: {}, serverInfo: { name: 'slow', version: '1' } };
    res.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ jsonrpc: '2.0', id, result }));
  });
  onTestFinished(() => slow.stop());
  const client = new ResilientClient(slow.url);
  onTestFinished(() => client.close());
  const connecting = client.connect(undefined, { timeout: 2000 }).then(
    () => 'connected',
    (error: unknown) => error,
  );
  // Both timers run in this process: on a busy machine both are late.
  expect(await Promise.race([connecting, sleep(2700, 'too late')])).toMatchObject({ name: 'DeadlineError', timeout: 2000 });
});

it('G4, G8 a store that is slow to release the turn keeps nobody from the session', async () => {
  await using server = await startServer();
  const memory = memoryStore();
  let letGo = (): void => {};
  const slow = new Promise<void>((resolve) => (letGo = resolve));
  const store: Store = Object.assign(Object.create(memory) as Store, {
    lock: async (...args: Parameters<Store['lock']>) => {
      const lock = await memory.lock(...args);
      return { ...lock, release: () => slow.then(() => lock.release()) };
    },
    get: memory.get.bind(memory),
    set: memory.set.bind(memory),
  });
  const client = new ResilientClient(server.url, { store, listen: false });
  // It would be waited for no longer than 3 s.
  expect(await Promise.race([client.connect().then(() => 'connected'), sleep(2700, 'too late')])).toBe('connected');
  letGo();
  await client.close();
});

it('a store that takes all of the time for a new handshake leaves no server to be asked, and the error tells the time that was set', async () => {
  await using server = await startServer();
  const memory = memoryStore();
  const now = performance.now.bind(performance);
  let taken = 0;
  const clock = vi.spyOn(performance, 'now').mockImplementation(() => now() + taken);
  onTestFinished(() => clock.mockRestore());
  let slow = false;
  const store: Store = Object.assign(Object.create(memory) as Store, {
    get: (key: string) => {
      if (slow) taken += 20_000;
      return memory.get(key);
    },
    set: memory.set.bind(memory),
    lock: memory.lock.bind(memory),
  });
  const client = new ResilientClient(server.url, { store, listen: false, retry: false, timeout: { connect: 10_000, call: 300_000 } });
  onTestFinished(() => client.close());
  await client.connect();
  await server.forget();
  await server.clearRequests();
  slow = true;
  await expect(client.ping()).rejects.toThrow('The server did not answer initialize within 10000 ms (timeout.connect).');
  expect(await wireOf(server, 'initialize')).toEqual([]);
});
