import * as fc from 'fast-check';
import type { Kind } from './peer.ts';
import type { Fault } from './server.ts';
import type { Failing } from './store.ts';
import type { World } from './world.ts';

/** What the users want, as far as it decides what makes sense next: whether each peer is in, and what has died. */
interface Wishes {
  readonly peers: number;
  readonly in: Set<number>;
  readonly dead: Set<number>;
}

/** One thing that happens. */
class Event implements fc.AsyncCommand<Wishes, World> {
  readonly #name: string;
  readonly #fits: (wishes: Wishes) => boolean;
  readonly #happen: (world: World, wishes: Wishes) => void | Promise<void>;

  constructor(name: string, fits: (wishes: Wishes) => boolean, happen: (world: World, wishes: Wishes) => void | Promise<void>) {
    this.#name = name;
    this.#fits = fits;
    this.#happen = happen;
  }

  check(wishes: Readonly<Wishes>): boolean {
    return this.#fits(wishes);
  }

  async run(wishes: Wishes, world: World): Promise<void> {
    await this.#happen(world, wishes);
  }

  toString(): string {
    return this.#name;
  }
}

type Happening = fc.Arbitrary<fc.AsyncCommand<Wishes, World>>;
const always = (): boolean => true;
/** One of three peers, where there are so many. */
const peer = fc.nat(2);
const isIn = (who: number) => ({ peers, in: inside, dead }: Wishes): boolean => who < peers && inside.has(who) && !dead.has(who);
const kind = fc.constantFrom<Kind>('safe', 'unsafe', 'durable');
/** Durable calls of one id meet. */
const callId = fc.constantFrom('durable a', 'durable b');

/** Where the peers share nothing, there is no durable call. */
function possible(world: World, wanted: Kind): Kind {
  return wanted === 'durable' && !world.store ? 'unsafe' : wanted;
}

const connect = peer.map((who) =>
  new Event(`connect ${who + 1}`, ({ peers, in: inside, dead }) => who < peers && !inside.has(who) && !dead.has(who), (world, wishes) => {
    wishes.in.add(who);
    // Where it does not come about, it may be tried again.
    world.connect(world.peer(who)).promise.catch(() => wishes.in.delete(who));
  }),
);

const call = fc.tuple(peer, kind, fc.boolean(), callId, fc.constantFrom(20_000, 20_000, 400)).map(([who, wanted, held, id, timeout]) =>
  new Event(`${wanted} call ${who + 1}${held ? ', held' : ''}${timeout < 20_000 ? `, in ${timeout} ms` : ''}${wanted === 'durable' ? `, ${id}` : ''}`, isIn(who), (world) => {
    const how = possible(world, wanted);
    world.call(world.peer(who), how, how === 'durable' ? { held: id === 'durable a', timeout, callId: id } : { held, timeout });
  }),
);

const batch = fc.tuple(peer, fc.array(fc.constantFrom<Kind>('safe', 'unsafe'), { minLength: 1, maxLength: 3 })).map(([who, kinds]) =>
  new Event(`batch ${who + 1}: ${kinds.join(', ')}`, isIn(who), (world) => void world.batch(world.peer(who), kinds)),
);

const other = fc.tuple(peer, fc.constantFrom('list', 'subscribe', 'update')).map(([who, what]) =>
  new Event(`${what} ${who + 1}`, isIn(who), (world) => {
    const one = world.peer(who);
    if (what === 'list') world.list(one);
    else if (what === 'subscribe') world.subscribe(one, `model://${who}`);
    else world.update(one);
  }),
);

const abort = fc.nat(5).map((which) =>
  new Event(`abort ${which}`, always, ({ asked }) => {
    const calls = asked.filter(({ call: made, settledAt, peer: { dead } }) => made && settledAt === undefined && !dead);
    calls[which % calls.length]?.abort.abort(new Error('the user gave up'));
  }),
);

const leave = fc.tuple(peer, fc.constantFrom('close', 'close', 'end')).map(([who, how]) =>
  new Event(`${how} ${who + 1}`, isIn(who), (world, wishes) => {
    wishes.in.delete(who);
    if (how === 'end') world.end(world.peer(who));
    else world.close(world.peer(who));
  }),
);

const server = fc.oneof(
  fc.boolean().map((restart) => new Event(restart ? 'server restarts' : 'server forgets', always, (world) => world.server.forget(restart))),
  fc.constantFrom<Fault>('cut before', 'cut after', 'busy', 'unavailable', 'failed after', 'stream ends').map((fault) => new Event(`fault: ${fault}`, always, (world) => void world.server.faults.push(fault))),
  fc.constant(new Event('server cuts', always, (world) => world.server.cut())),
  fc.constant(new Event('server ends its streams', always, (world) => world.server.closeStreams())),
  fc.constant(new Event('server goes down or up', always, (world) => {
    world.server.down = !world.server.down;
    if (world.server.down) world.server.cut();
  })),
  fc.nat(3).map((which) => new Event(`server answers ${which}`, always, (world) => {
    const held = [...world.server.held];
    const run = held[which % held.length];
    if (run) world.server.release(run);
  })),
  fc.constant(new Event('server notifies', always, (world) => world.server.notify(`news ${world.server.arrivals.length}`))),
);

const passing = (how: 'stalled' | 'flowing', ...times: number[]): Happening => fc.constantFrom(...times).map((ms) => new Event(`${ms} ms pass, ${how}`, always, (world) => world.pass(ms, how)));
const time = fc.oneof(passing('stalled', 1, 60, 300), passing('flowing', 10, 300, 1100, 2500, 6000));
const muchTime = fc.oneof(passing('stalled', 1100, 5000, 12_000), passing('flowing', 12_000, 45_000));

const store = fc.constantFrom<Failing>('no', 'errors', 'hangs', 'after').map((failing) =>
  new Event(`store fails: ${failing}`, always, (world) => {
    world.store?.fail(failing);
    if (failing !== 'no') world.troubles.add('store');
  }),
);

const usurp = fc.constantFrom('stream', 'handshake').map((what) =>
  new Event(`${what} lock is taken over`, always, (world) => {
    if (world.store?.usurp(what)) world.troubles.add('usurped');
  }),
);

const die = peer.map((who) =>
  new Event(`${who + 1} dies`, ({ peers, dead }) => who < peers && dead.size === 0, (world, wishes) => {
    wishes.dead.add(who);
    wishes.in.delete(who);
    world.die(world.peer(who));
  }),
);

/** The users and the server do what they like; the store holds and nobody dies. */
export const CALM: Happening[] = [connect, connect, call, call, call, batch, other, abort, leave, server, server, time];
/** And now everything may fail. */
export const ROUGH: Happening[] = [...CALM, muchTime, store, usurp, die];
