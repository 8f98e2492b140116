import { afterAll, beforeAll, beforeEach } from 'vitest';
import { wireOf } from '../session/clients.ts';
import { type ServerOptions, wellBehaved } from '../support/contract.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';

/** One server for all tests around, without faults and with an empty journal at the start of each. */
export function sharedServer(options: ServerOptions = {}): () => FixtureProcess {
  let server: FixtureProcess;
  beforeAll(async () => void (server = await startServer(options)));
  beforeEach(async () => {
    await server.behave(wellBehaved);
    await server.clearRequests();
  });
  afterAll(() => server.stop());
  return () => server;
}

/** How many requests of a method have reached a server. */
export async function countOf(server: FixtureProcess, what: string): Promise<number> {
  return (await wireOf(server, what)).length;
}

/** Waits until so many requests of a method have reached a server. */
export async function arrived(server: FixtureProcess, what: string, count = 1): Promise<void> {
  await waitFor(async () => (await countOf(server, what)) >= count, { what: `${count} × ${what} at the server` });
}
