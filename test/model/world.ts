import type { ConnectOptions, Store } from '../../src/index.ts';
import { say } from '../session/say.ts';
import { type Asked, type Kind, Peer } from './peer.ts';
import { ModelServer, type Traits } from './server.ts';
import type { Stage } from './stage.ts';
import { ModelStore, type User } from './store.ts';

export interface Setting extends Traits {
  readonly peers: number;
  /** Whether the peers share a store. */
  readonly stored: boolean;
  readonly listen: boolean;
  readonly rude: boolean;
  readonly lost: 'replay' | 'fail';
  readonly ttl: number;
}

/** What no guarantee speaks of any more once it has happened. */
export type Trouble = 'store' | 'usurped' | 'died' | 'late' | 'expired' | 'ended';

const TIMEOUT = { connect: 10_000, call: 20_000, total: 60_000 };
/** What `close()` may take at the worst: a store that hangs, a server that is silent, and a bit. */
const LEAVING = 15_000;
/** From here on clients count what stands still as failed, in ms. */
const STALLED = 3000;
/** By then everything has its end. */
const END_OF_TIME = 300_000;

/** A server, a store and those who use them. Nothing in it happens but by its stage. */
export class World {
  readonly setting: Setting;
  readonly stage: Stage;
  readonly server: ModelServer;
  readonly store: ModelStore | undefined;
  readonly peers: Peer[];
  readonly asked: Asked[] = [];
  readonly troubles = new Set<Trouble>();
  /** Clients that were closed in the middle of a handshake. */
  leftEarly = 0;
  /** Sessions that a client ended. */
  ends = 0;
  /** How long the I/O stood still, in ms. */
  #stalled = 0;
  #nonces = 0;

  constructor(setting: Setting, stage: Stage, base: Store) {
    this.setting = setting;
    this.stage = stage;
    this.server = new ModelServer(setting, stage.step, stage.now, (name) => this.store?.goesAlone(name) ?? false);
    this.store = setting.stored ? new ModelStore(base, stage.step, stage.now) : undefined;
    this.peers = Array.from({ length: setting.peers }, (_, i) => this.#peer(`peer ${i + 1}`));
  }

  peer(index: number): Peer {
    return this.peers[index] as Peer;
  }

  connect(peer: Peer): Asked {
    peer.wanted = true;
    const asked = this.#ask(peer, 'connect', TIMEOUT.connect, () => peer.client.connect());
    asked.promise.catch(() => (peer.wanted = false));
    return asked;
  }

  call(peer: Peer, kind: Kind, { held = false, callId, timeout = TIMEOUT.call }: { held?: boolean; callId?: string; timeout?: number } = {}): Asked {
    const nonce = callId ?? `${kind} ${++this.#nonces}`;
    const options = { timeout, ...(kind === 'safe' ? { safe: true } : {}), ...(kind === 'durable' ? { callId: nonce } : {}) };
    return this.#ask(peer, nonce, timeout, (signal) => say(peer.client, 'work', { nonce, held }, { ...options, signal }), { nonce, kind });
  }

  batch(peer: Peer, kinds: readonly Kind[]): Asked {
    const requests = kinds.map((kind) => {
      const nonce = `${kind} ${++this.#nonces}`;
      return { method: 'tools/call' as const, params: { name: 'work', arguments: { nonce } }, options: { ...(kind === 'safe' ? { safe: true } : {}), ...(kind === 'durable' ? { callId: nonce } : {}) } };
    });
    return this.#ask(peer, `batch of ${kinds.join(', ')}`, TIMEOUT.call, () => peer.client.batch(requests, { timeout: TIMEOUT.call, wire: 'array' }));
  }

  subscribe(peer: Peer, uri: string): Asked {
    const asked = this.#ask(peer, `subscribe ${uri}`, TIMEOUT.call, () => peer.client.subscribeResource({ uri }));
    asked.promise.then(() => peer.wanted && peer.uris.add(uri), () => {});
    return asked;
  }

  list(peer: Peer): Asked {
    return this.#ask(peer, 'list', TIMEOUT.call, () => peer.client.listTools(undefined, { cache: false }));
  }

  /** Adds a word to what is kept with the session. */
  update(peer: Peer): Asked {
    const word = `word ${++this.#nonces}`;
    return this.#ask(peer, word, LEAVING, () => peer.client.update(({ data }) => ({ data: { ...data, [word]: true } })));
  }

  close(peer: Peer): Asked {
    this.#leave(peer);
    return this.#ask(peer, 'close', LEAVING, () => peer.client.close());
  }

  end(peer: Peer): Asked {
    this.#leave(peer);
    this.ends++;
    this.troubles.add('ended');
    return this.#ask(peer, 'end', LEAVING, () => peer.client.end());
  }

  /** Its process is killed: what has not arrived never will, and nobody answers for it. */
  die(peer: Peer): void {
    this.troubles.add('died');
    peer.dead = true;
    this.store?.bury(peer);
    this.server.hangUp(peer.name);
  }

  async pass(ms: number, how: 'stalled' | 'flowing'): Promise<void> {
    if (how === 'stalled') this.#stalled += ms;
    if (this.#stalled >= STALLED) this.troubles.add('late');
    if (ms > this.setting.ttl) this.troubles.add('expired');
    await this.stage.pass(ms, how);
  }

  /** Whatever is broken works again. */
  heal(): void {
    this.server.down = false;
    this.server.faults.length = 0;
    this.server.releaseAll();
    this.store?.fail('no');
  }

  /** What is asked for now has its end. */
  async settle(): Promise<void> {
    const over = this.stage.now() + END_OF_TIME;
    const open = (): readonly Asked[] => this.asked.filter(({ settledAt }) => settledAt === undefined);
    for (;;) {
      await this.stage.goOn(() => open().length > 0);
      if (open().length === 0) break;
      if (this.stage.now() > over) throw new Error(`never settled: ${open().map(({ peer, what }) => `${peer.name}'s ${what}`).join(', ')}`);
    }
    await this.stage.goOn(() => false);
  }

  #leave(peer: Peer): void {
    if (/loading|negotiating|backoff|lost|resuming/.test(peer.client.session.state)) this.leftEarly++;
    peer.wanted = false;
    peer.uris.clear();
  }

  #ask(peer: Peer, what: string, limit: number, start: (signal: AbortSignal) => Promise<unknown>, call?: Asked['call']): Asked {
    const startedAt = this.stage.now();
    const abort = new AbortController();
    const promise = start(abort.signal);
    const asked: Asked = { what, peer, startedAt, dueAt: startedAt + limit, abort, promise, ...(call ? { call } : {}) };
    const settled = (): void => void (asked.settledAt = this.stage.now());
    promise.then((value) => (settled(), (asked.value = value)), (error: Error) => (settled(), (asked.error = error)));
    this.asked.push(asked);
    return asked;
  }

  #peer(name: string): Peer {
    const { listen, lost, ttl, rude } = this.setting;
    const options = (self: User): ConnectOptions => ({
      fetch: (target, init) => (self.dead ? silence(init?.signal) : this.server.fetch(target, init)),
      ...(this.store ? { store: this.store.as(self) } : {}),
      listen,
      onSessionLost: lost,
      ttl,
      timeout: TIMEOUT,
      // What is promised is that a safe call has until its deadline, as long as the budget lasts.
      retry: { budget: false },
    });
    return new Peer(name, options, rude);
  }
}

/** A network on which nothing comes. */
function silence(signal: AbortSignal | null | undefined): Promise<never> {
  return new Promise((_, reject) => {
    if (signal?.aborted) reject(signal.reason as Error);
    signal?.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
  });
}
