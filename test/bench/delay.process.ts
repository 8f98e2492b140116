/**
 * A network with a round trip of so many ms, as a TCP proxy in a process of its own: bytes arrive half a round trip after they were sent,
 * and what opens a connection costs a whole one more, as the handshake of TCP does.
 */
import { connect, createServer, type Socket } from 'node:net';
import { listen } from '../support/ports.ts';
import { serve } from './remote.ts';

const sockets = new Set<Socket>();
let opened = 0;
let peak = 0;

function open(client: Socket, target: number, roundTrip: number): void {
  opened++;
  sockets.add(client);
  peak = Math.max(peak, sockets.size);
  client.once('close', () => sockets.delete(client));
  const server = connect(target, '127.0.0.1');
  // The kernel has said yes to the client already: what it sends first waits for as long as it would have waited for that, and is on its
  // way then.
  carry(client, server, roundTrip / 2, performance.now() + roundTrip * 1.5);
  carry(server, client, roundTrip / 2, 0);
}

/** In order, each piece `delay` ms after it came and none before `notBefore`, and so the end. */
function carry(from: Socket, to: Socket, delay: number, notBefore: number): void {
  let due = notBefore;
  const later = (task: () => void): void => {
    due = Math.max(due, performance.now() + delay);
    setTimeout(task, due - performance.now());
  };
  from.setNoDelay();
  from.on('data', (piece) => later(() => to.write(piece)));
  from.on('end', () => later(() => to.end()));
  from.on('error', () => to.destroy());
  from.on('close', () => later(() => to.destroy()));
}

const controls = {
  /** Returns the port. `roundTrip` in ms. */
  listen: ({ target, roundTrip }: { target: number; roundTrip: number }) => listen(createServer({ allowHalfOpen: true }, (client) => open(client, target, roundTrip))),
  count: () => ({ sockets: sockets.size, opened, peak }),
  reset: () => {
    opened = 0;
    peak = sockets.size;
  },
  drop: () => {
    for (const socket of sockets) socket.destroy();
  },
};
export type DelayControls = typeof controls;
serve(controls);
