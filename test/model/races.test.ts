import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { memoryStore } from '../../src/index.ts';
import { finish } from './finish.ts';
import type { Peer } from './peer.ts';
import { holds } from './replay.ts';
import { act, scheduledStage } from './stage.ts';
import { type Setting, World } from './world.ts';

/** Two things at once, in every order that there is. Each is a world of its own, in which everything else that is promised must hold too. */

const RUNS = 60;
const SETTING: Setting = { events: true, json: false, version: '2025-11-25', peers: 1, stored: true, listen: false, rude: false, lost: 'replay', ttl: 3_600_000 };

interface Race {
  readonly name: string;
  readonly setting?: Partial<Setting>;
  /** What comes before, in order. */
  before?(world: World): Promise<void>;
  /** What happens at once. */
  readonly racers: readonly ((world: World) => unknown)[];
  /** What must hold when all has settled. */
  after?(world: World): void;
}

const one = (world: World): Peer => world.peer(0);
const ready = async (world: World): Promise<void> => {
  for (const peer of world.peers) world.connect(peer);
  await world.settle();
  for (const peer of world.peers) world.call(peer, 'safe');
  await world.settle();
};
/** One has the stream without its turn: it lost that while the store failed. */
const alone = async (world: World): Promise<void> => {
  await ready(world);
  world.store?.fail('errors');
  world.store?.usurp('stream');
  world.troubles.add('store').add('usurped');
  await world.stage.goOn(() => false);
  world.store?.fail('no');
};
const streams = ({ server }: World): number => server.arrivals.filter(({ what }) => what.startsWith('GET')).length;
const handshakes = ({ server }: World): number => server.arrivals.filter(({ what }) => what === 'initialize').length;

const races: readonly Race[] = [
  { name: 'close() against connect()', racers: [(w) => w.connect(one(w)), (w) => w.close(one(w)), (w) => w.connect(one(w))] },
  { name: 'close() against connect(), without a store', setting: { stored: false }, racers: [(w) => w.connect(one(w)), (w) => w.close(one(w))], after: (w) => expect(w.server.sessions.size - w.server.wasted).toBeLessThanOrEqual(one(w).wanted ? 1 : 0) },
  {
    name: 'abort against answer',
    before: ready,
    racers: [
      (w) => w.call(one(w), 'unsafe', { held: true }),
      (w) => w.asked.find(({ call }) => call?.kind === 'unsafe')?.abort.abort(new Error('enough')),
      (w) => w.server.releaseAll(),
      (w) => w.call(one(w), 'unsafe'),
    ],
    after: (w) => expect(w.asked.at(-1)?.error ?? { message: 'enough' }).toMatchObject({ message: 'enough' }),
  },
  { name: 'reset against close()', before: ready, racers: [(w) => w.server.forget(false), (w) => w.call(one(w), 'unsafe'), (w) => w.close(one(w))] },
  {
    name: 'resume against reset',
    setting: { peers: 2 },
    before: async (w) => {
      w.connect(one(w));
      await w.settle();
      w.close(one(w));
      await w.settle();
    },
    racers: [(w) => w.connect(one(w)), (w) => w.connect(w.peer(1)), (w) => w.server.forget(true), (w) => w.call(one(w), 'unsafe'), (w) => w.call(w.peer(1), 'unsafe')],
    after: (w) => expect(handshakes(w)).toBeLessThanOrEqual(2 + w.server.wasted),
  },
  {
    name: 'two clients that replace one lost session',
    setting: { peers: 3 },
    before: async (w) => {
      await ready(w);
      w.server.forget(false);
    },
    racers: [0, 1, 2, 0, 1, 2].map((who) => (w: World) => w.call(w.peer(who), 'unsafe')),
    after: (w) => {
      expect(handshakes(w), 'handshakes: the first, and one for the loss').toBe(2);
      expect(w.peers.map(({ heard }) => heard.reset.length), 'resets').toEqual([1, 1, 1]);
      expect(w.asked.filter(({ error }) => error)).toEqual([]);
    },
  },
  {
    name: 'calls that find one lost session, without a store',
    setting: { stored: false },
    before: async (w) => {
      await ready(w);
      w.server.forget(false);
    },
    racers: [0, 1, 2, 3].map(() => (w: World) => w.call(one(w), 'unsafe')),
    after: (w) => {
      expect(handshakes(w), 'handshakes: the first, and one for the loss').toBe(2);
      expect(one(w).heard.reset).toHaveLength(1);
      expect(w.asked.filter(({ error }) => error)).toEqual([]);
    },
  },
  {
    name: 'two handshakes, when the turn to make one is taken over',
    setting: { peers: 2 },
    racers: [(w) => w.connect(one(w)), (w) => w.connect(w.peer(1)), ...[1, 2, 3, 4].map(() => (w: World) => void (w.store?.usurp('handshake') && w.troubles.add('usurped')))],
    after: (w) => expect(new Set(w.peers.map(({ client }) => client.session.id)).size, 'sessions in the place of one').toBe(1),
  },
  {
    name: 'hand-over of the notification stream',
    setting: { peers: 2, listen: true },
    before: async (w) => {
      await ready(w);
      w.server.notify('first');
      await w.pass(10, 'stalled');
    },
    racers: [(w) => w.close(one(w)), (w) => w.server.notify('second'), (w) => w.server.closeStreams(), (w) => w.server.notify('third'), (w) => w.pass(2000, 'flowing'), (w) => w.server.notify('last')],
    after: (w) => {
      const told = w.peers.flatMap(({ notified }) => notified);
      const gap = w.peers.some(({ heard }) => heard.cursorLost.length > 0);
      if (!gap) for (const text of ['first', 'second', 'third', 'last']) expect(told, 'G10 what was said while the stream was handed over').toContain(text);
    },
  },
  {
    name: 'a stream without its turn, when the store works again',
    setting: { listen: true, events: false },
    before: alone,
    racers: [(w) => w.call(one(w), 'safe'), (w) => w.pass(45_000, 'flowing'), (w) => w.server.notify('late')],
    after: (w) => {
      expect(w.store?.holders('stream'), 'who has the turn').toEqual(['peer 1']);
      expect(streams(w), 'streams asked for: the first, and one for the turn that was lost').toBe(2);
      expect(one(w).notified).toContain('late');
    },
  },
  {
    name: 'a stream without its turn, and another who has it',
    setting: { peers: 2, listen: true },
    before: async (w) => {
      w.connect(one(w));
      await w.settle();
      await alone(w);
    },
    racers: [(w) => w.call(w.peer(1), 'safe'), (w) => w.pass(45_000, 'flowing'), (w) => w.pass(45_000, 'flowing'), (w) => w.server.notify('late')],
    after: (w) => {
      const [holder] = w.store?.holders('stream') ?? [];
      expect([...w.server.sessions.values()].map(({ streamOf }) => streamOf), 'who has the stream').toEqual([holder]);
      const told = w.peers.filter(({ notified }) => notified.includes('late'));
      expect(told.map(({ name }) => name)).toEqual([holder]);
    },
  },
  {
    name: 'connect() against close() and a store that says nothing',
    before: ready,
    racers: [
      (w) => {
        w.store?.fail('hangs');
        w.troubles.add('store');
      },
      (w) => w.close(one(w)),
      (w) => {
        w.server.down = true;
        w.connect(one(w));
      },
      (w) => w.pass(14_000, 'flowing'),
    ],
  },
  {
    name: 'a durable call that two make at once',
    setting: { peers: 2 },
    before: ready,
    racers: [0, 1, 0, 1].map((who) => (w: World) => w.call(w.peer(who), 'durable', { callId: 'durable one', held: true })),
    after: (w) => {
      expect(w.server.runs.get('durable one'), 'runs').toBe(1);
      expect(w.asked.filter(({ error }) => error)).toEqual([]);
    },
  },
  {
    name: 'a renewal against a server that forgets again',
    setting: { stored: false },
    before: async (w) => {
      await ready(w);
      w.server.forget(false);
    },
    racers: [(w) => w.call(one(w), 'safe'), (w) => w.call(one(w), 'unsafe'), (w) => w.server.forget(false)],
  },
  {
    name: 'a subscription that is to hold on the next session, against connections that break',
    before: async (w) => {
      await ready(w);
      w.subscribe(one(w), 'model://one');
      await w.settle();
      w.server.forget(false);
    },
    racers: [(w) => w.call(one(w), 'safe'), (w) => w.server.cut(), (w) => w.server.cut()],
    after: (w) => expect(one(w).heard.warning).toEqual([]),
  },
  { name: 'a durable call against close() and connect()', before: ready, racers: [(w) => w.close(one(w)), (w) => w.connect(one(w)), (w) => w.call(one(w), 'durable', { callId: 'durable one' })] },
  {
    name: 'close() against the last word of a durable call, which the store does not take',
    before: async (w) => {
      await ready(w);
      w.call(one(w), 'durable', { callId: 'durable one', held: true });
      await w.stage.goOn(() => false);
      w.store?.fail('hangs');
      w.troubles.add('store');
      w.server.releaseAll();
    },
    // Its answer does not wait for that longer than 1 s.
    racers: [(w) => w.pass(1500, 'flowing'), (w) => w.store?.fail('no'), (w) => w.close(one(w))],
  },
  {
    name: 'end() against a call',
    setting: { peers: 2 },
    before: ready,
    racers: [(w) => w.call(w.peer(1), 'unsafe'), (w) => w.end(one(w)), (w) => w.call(w.peer(1), 'unsafe'), (w) => w.call(w.peer(1), 'safe')],
  },
  { name: 'connect() against its deadline', setting: { stored: false }, racers: [(w) => w.connect(one(w)), (w) => w.pass(7000, 'stalled'), (w) => w.pass(7000, 'stalled')] },
  {
    name: 'update() against connect() and a loss',
    setting: { peers: 2 },
    racers: [(w) => w.connect(one(w)), (w) => w.connect(w.peer(1)), (w) => w.update(one(w)), (w) => w.update(w.peer(1)), (w) => w.server.forget(false), (w) => w.call(one(w), 'safe'), (w) => w.update(one(w)), (w) => w.update(w.peer(1))],
  },
];

// With %s the name stands as it is: $name is cut short, and nothing would be found by it.
test.each(races.map((race) => [race.name, race] as const))('%s', { timeout: 3_600_000 }, async (name, { setting, before, racers, after }) => {
  const property = fc.asyncProperty(fc.scheduler({ act }), fc.integer(), async (scheduler, seed) => {
    const stage = scheduledStage(scheduler, seed);
    try {
      const world = new World({ ...SETTING, ...setting }, stage, memoryStore());
      await before?.(world);
      scheduler.scheduleSequence(racers.map((racer, i) => ({ label: `racer ${i + 1}`, builder: async () => void (await Promise.resolve(isPass(racer(world)))) })));
      await scheduler.waitIdle();
      world.heal();
      await world.settle();
      // Whoever waits for the stream has it soon.
      if (setting?.listen) await stage.pass(10_000, 'flowing');
      after?.(world);
      await finish(world);
    } finally {
      stage.end();
    }
  });
  await holds(property, RUNS, { file: 'test/model/races.test.ts', test: name });
  expect.hasAssertions();
});

/** Time passes before the next one; everything else goes on by itself. */
function isPass(done: unknown): unknown {
  return done instanceof Promise ? done : undefined;
}
