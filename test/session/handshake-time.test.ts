import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import { DeadlineError, ResilientClient } from '../../src/index.ts';
import { ScriptedServer } from '../links/scripted-server.ts';

it('G4 both halves of the handshake have one time', async () => {
  // Says who it is when half of the time is over, and then takes no notice of being told that this was heard.
  const slow = await ScriptedServer.start(async ({ body }, res) => {
    const { id, method } = JSON.parse(body || '{}') as { id?: number; method?: string };
    if (method !== 'initialize') return;
    await sleep(1000);
    const result = { protocolVersion: '2025-11-25', capabilities: {}, serverInfo: { name: 'slow', version: '1' } };
    res.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ jsonrpc: '2.0', id, result }));
  });
  onTestFinished(() => slow.stop());
  const client = new ResilientClient(slow.url, { timeout: { connect: 2000 } });
  onTestFinished(() => client.close());
  const connecting = client.connect().then(
    () => 'connected',
    (error: unknown) => error,
  );
  // Both timers run in this process: on a busy machine both are late.
  expect(await Promise.race([connecting, sleep(2700, 'too late')])).toBeInstanceOf(DeadlineError);
});
