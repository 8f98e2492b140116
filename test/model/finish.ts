import { expect } from 'vitest';
import { checkCalls, checkDurable, checkSecrets, checkSessions } from './guarantees.ts';
import type { Trouble, World } from './world.ts';

/** How long after its end a world is watched, in ms. */
const AFTERMATH = 120_000;

/** Everything is mended and comes to its end: then it is seen whether every promise held, and whether anything is left. */
export async function finish(world: World): Promise<void> {
  const rejections: unknown[] = [];
  const onRejection = (reason: unknown): void => void rejections.push(reason);
  process.on('unhandledRejection', onRejection);
  try {
    world.heal();
    await world.settle();
    check(world);
    await checkAlive(world);
    await checkKept(world);
    await leave(world);
    check(world);
    expect(rejections, 'G11 rejections that nobody handles').toEqual([]);
  } finally {
    process.off('unhandledRejection', onRejection);
  }
}

function check(world: World): void {
  checkCalls(world);
  checkDurable(world);
  checkSessions(world);
  checkSecrets(world);
}

/** Whoever is connected can be used, on a session that has what was asked of it. */
async function checkAlive(world: World): Promise<void> {
  const inside = world.peers.filter(({ wanted, dead }) => wanted && !dead);
  // With `onSessionLost: 'fail'` the first call only tells of the loss.
  const tries = world.setting.lost === 'fail' ? 2 : 1;
  for (let i = 0; i < tries; i++) {
    const calls = inside.map((peer) => ({ peer, asked: world.call(peer, 'safe') }));
    await world.settle();
    if (i === tries - 1) for (const { peer, asked } of calls) expect(asked.error, `${peer.name} is of no use any more`).toBeUndefined();
  }
  for (const { name, client, uris, heard } of inside) {
    const session = world.server.sessions.get(client.session.id ?? '');
    expect(session, `${name}'s session`).toBeDefined();
    // A server that is away for long is told of.
    const told = (world.server.wasDown || world.troubles.has('late')) && heard.warning.some(({ message }) => message.includes('could not be restored'));
    if (session && !told) expect([...session.uris], `G6 what ${name} subscribed to`).toEqual(expect.arrayContaining([...uris]));
  }
  // A store that failed, or had no time to answer, may have left each with a session of its own; so may an end of which the server never heard.
  if (world.store && !['store', 'late', 'expired', 'ended'].some((trouble) => world.troubles.has(trouble as Trouble))) {
    expect(new Set(inside.map(({ client }) => client.session.id)).size, 'sessions in the place of one').toBeLessThanOrEqual(1);
  }
}

/** No update is lost, as long as nobody ends the session. */
async function checkKept({ store, asked, troubles }: World): Promise<void> {
  if (!store || troubles.has('ended') || troubles.has('expired')) return;
  const [text] = await store.read('session');
  const kept = Object.keys((text === undefined ? {} : (JSON.parse(text) as { data?: object })).data ?? {});
  const words = asked.filter(({ what, error, settledAt }) => what.startsWith('word') && settledAt !== undefined && !error).map(({ what }) => what);
  expect(kept, 'what was kept with the session').toEqual(expect.arrayContaining(words));
}

/** All leave, and nothing of them stays (G9). */
async function leave(world: World): Promise<void> {
  const { peers, server, store, stage, troubles, setting } = world;
  const living = peers.filter(({ dead }) => !dead);
  for (const peer of peers) world.close(peer);
  await world.settle();
  // What an error has still to say to the SDK, it says in the next turn.
  await stage.pass(1, 'stalled');
  if (troubles.has('died')) await stage.pass(10_000, 'flowing');
  const timers = stage.timers();
  if (timers !== undefined) expect(timers, 'G9 timers that are left').toBe(0);
  for (const { name, client } of living) expect(client.session.state, `the state of ${name}, which may never have been open`).toMatch(/^(closed|idle)$/);
  for (const lock of ['stream', 'handshake']) expect(store?.holders(lock) ?? [], `G9 holders of the ${lock} lock`).toEqual([]);
  const { arrivals } = server;
  const before = [arrivals.length, store?.writes.length];
  if (stage.timers() !== undefined) await stage.pass(AFTERMATH, 'flowing');
  await stage.goOn(() => false);
  expect([arrivals.length, store?.writes.length], `G9 requests and writes after the end: ${arrivals.slice(before[0]).map(({ from, what }) => `${from}'s ${what}`).join(', ')}`).toEqual(before);
  if (!setting.stored && server.wasted === 0 && !server.broke && !troubles.has('late')) expect([...server.sessions.keys()], 'sessions left on the server').toEqual([]);
}
