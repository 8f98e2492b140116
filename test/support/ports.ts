import { once } from 'node:events';
import { createServer, type AddressInfo, type Server } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Listens on `port`, or on a free one. Free ports are taken from below the range that the kernel uses for outgoing
 * connections, so that nobody gets a server's port while that server is down between a kill and a restart.
 */
export async function listen(server: Server, port = 0, backlog = 511): Promise<number> {
  for (let tries = 0; ; tries++) {
    try {
      server.listen(port || 11_000 + Math.floor(Math.random() * 20_000), '127.0.0.1', backlog);
      await once(server, 'listening');
      return (server.address() as AddressInfo).port;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || tries === 25) throw error;
      // A given port can be busy for a moment after its last owner died.
      if (port) await sleep(20);
    }
  }
}

export async function freePort(): Promise<number> {
  const server = createServer();
  const port = await listen(server);
  await new Promise((closed) => server.close(closed));
  return port;
}
