import type { SessionRecord } from './record.ts';
import { Relay } from './relay.ts';
import { ServerStream, type StreamHost } from './server-stream.ts';
import type { ActiveSession } from './state.ts';
import type { Lock } from '../storage/store.ts';
import { onAbort } from '../signals.ts';
import { expiring, sleep } from '../timers.ts';

export interface ListenerHost {
  /** What a session's stream tells. */
  streamHost(session: ActiveSession): StreamHost;
  /**
   * The turn of whoever listens, among all who share the stored session; `undefined` where it is not shared or the store fails. Rejects
   * when `signal` aborts.
   */
  turn(session: ActiveSession, signal: AbortSignal): Promise<Lock | undefined>;
  /**
   * Waits until a store that failed works again. Resolves to whether the session is shared by it then. Rejects when `signal` aborts.
   */
  recovered(session: ActiveSession, signal: AbortSignal): Promise<boolean>;
  /** What is stored of the session now: another process may have listened until now. */
  stored(session: ActiveSession): Promise<SessionRecord | undefined>;
  /** Resolves when what was heard is stored. Never rejects. */
  flush(): Promise<void>;
  /** What was heard last, and is not stored yet, is not to be. */
  dropCursor(): void;
  /** Where those who share the stored session hear of each other; `undefined` where there is no such place. */
  channel(session: ActiveSession): BroadcastChannel | undefined;
}

/** A turn that is free is given within this time, in ms. */
const WAITED = 1000;
/** How long the answer that has proven a session goes first, in ms: in a new process all of this runs for the first time. */
const ANSWER_FIRST = 10;

/**
 * Listens to what a session's server says of its own accord. Of all who share a stored session one at a time does: most servers
 * allow no more, and some give the stream to whoever asked last. The next in turn goes on from the event where the last one was. In
 * browsers the others hear of it what comes.
 */
export class Listener {
  readonly #host: ListenerHost;
  #stop = new AbortController();
  #listening: Promise<void> = Promise.resolve();

  constructor(host: ListenerHost) {
    this.#host = host;
  }

  /** Listens to this session from now on, instead of the one before. */
  start(session: ActiveSession): void {
    void this.stop();
    const stop = new AbortController();
    this.#stop = stop;
    this.#listening = this.#listening.then(() => this.#listen(session, stop.signal)).catch(() => {});
  }

  /** Resolves when the turn is given back. */
  stop(): Promise<void> {
    this.#stop.abort(new Error('nobody listens any more'));
    return this.#listening;
  }

  async #listen(session: ActiveSession, signal: AbortSignal): Promise<void> {
    const host = this.#host.streamHost(session);
    const channel = this.#host.channel(session);
    const relay = channel && new Relay(channel, session.createdAt, host);
    // The first stream of a session that this client made: nobody can have missed anything before it.
    let first = !session.resumed;
    try {
      // What the server says meanwhile comes after the cursor; and where there is none, it counts as missed.
      if (session.resumed) await sleep(ANSWER_FIRST, signal);
      while (!signal.aborted) {
        const asked = performance.now();
        let lock = await this.#host.turn(session, signal);
        // Somebody else had it, and what came after that was for nobody.
        if (performance.now() - asked > WAITED) first = false;
        try {
          if (signal.aborted) return;
          const stored = session.resumed || lock ? (await this.#host.stored(session))?.cursor : undefined;
          const cursor = relay?.cursor ?? stored;
          if (signal.aborted) return;
          if (lock?.lost.aborted) continue;
          const stream = new ServerStream(session.link, relay?.spread(host) ?? host, { cursor, first });
          first = false;
          lock ??= await this.#lateTurn(session, signal);
          if (lock) await firstAbort([signal, lock.lost]);
          stream.stop();
          // The next one goes on from there. A turn that is another's already: he may be further by now.
          if (lock ? lock.lost.aborted : !signal.aborted) this.#host.dropCursor();
          else if (lock) await this.#host.flush();
        } finally {
          await lock?.release();
        }
      }
    } finally {
      relay?.close();
    }
  }

  /**
   * The turn of one who listens without, because the store failed: asked for when that works again, while the stream goes on. Then it
   * is free, or another's: `undefined` where the stream must end for that, or nobody listens any more.
   */
  async #lateTurn(session: ActiveSession, signal: AbortSignal): Promise<Lock | undefined> {
    try {
      while (await this.#host.recovered(session, signal)) {
        const lock = await this.#host.turn(session, AbortSignal.any([signal, expiring(WAITED)]));
        if (lock) return lock;
      }
      await firstAbort([signal]);
    } catch {
      // It was waited for long enough.
    }
    return undefined;
  }
}

/** Resolves when one of the signals aborts. */
async function firstAbort(signals: readonly AbortSignal[]): Promise<void> {
  let releases: readonly (() => void)[] = [];
  await new Promise<void>((resolve) => (releases = signals.map((signal) => onAbort(signal, resolve))));
  for (const release of releases) release();
}
