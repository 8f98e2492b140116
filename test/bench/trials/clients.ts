import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ClientControls } from '../client.process.ts';
import { CONTENDERS, type ContenderName, type ContenderOptions } from '../contender.ts';
import { startClient } from '../lab.ts';
import type { Remote } from '../remote.ts';
import type { Bench } from '../trial.ts';

export type Clients = Record<ContenderName, Remote<ClientControls>>;

export function startClients(flags: string[] = []): Clients {
  return Object.fromEntries(CONTENDERS.map((name) => [name, startClient(name, flags)])) as Clients;
}

/** A client of each, warm: what a call costs is measured, and not what the first ones do, nor the compiler beside them. */
export async function warmClients(bench: Bench, flags: string[] = []): Promise<Clients> {
  const clients = startClients(flags);
  for (const client of Object.values(clients)) await warmUp(client, bench);
  return clients;
}

export async function warmUp(client: Remote<ClientControls>, { server, quick }: Bench, options: ContenderOptions = {}): Promise<void> {
  await client.ask('connect', { url: server.url, options });
  await client.ask('load', { count: quick ? 1000 : 4000, inFlight: 16 });
}

/** A directory of its own. */
export async function scratch(): Promise<{ readonly path: string; remove(): Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), 'mcp-reprise-bench-'));
  return { path, remove: () => rm(path, { recursive: true, force: true }) };
}

export async function endClients(clients: Clients): Promise<void> {
  for (const client of Object.values(clients)) await client.child.kill();
}
