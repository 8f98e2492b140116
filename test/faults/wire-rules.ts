import { setTimeout as sleep } from 'node:timers/promises';

/** Sessions whose request ids are remembered. */
const MOST_SESSIONS = 400;

/** A handshake as the proxy sees it. */
export interface Handshake {
  /** Who ended it; absent while it is under way. */
  endedBy?: 'answer' | 'client';
}

/** What a client must not do on the wire, whatever happens to it. */
export class WireRules {
  readonly #violate: (what: string) => void;
  readonly #ids = new Map<string, Set<unknown>>();
  readonly #handshakes = new Map<string, Set<Handshake>>();
  readonly #notBefore = new Map<string, number>();
  readonly #streams = new Map<string, { count: number; readonly since: number }>();
  readonly #checks = new Set<Promise<void>>();

  constructor(violate: (what: string) => void) {
    this.#violate = violate;
  }

  /** A request id is used once in a session, whoever shares it (2025-11-25, Basic Protocol, Requests). */
  request(client: string, session: string | undefined, id: unknown): void {
    if (session === undefined || id === undefined) return;
    const ids = this.#ids.get(session) ?? new Set();
    if (ids.has(id)) this.#violate(`client ${client} used the request id ${String(id)} a second time in its session`);
    ids.add(id);
    this.#ids.delete(session);
    this.#ids.set(session, ids);
    if (this.#ids.size > MOST_SESSIONS) this.#ids.delete(this.#ids.keys().next().value as string);
  }

  /** A client makes one handshake at a time (G6). One that it gave up is over when its connection is; that may be heard of a little later. */
  handshake(client: string): Handshake {
    const handshake: Handshake = {};
    const open = this.#handshakes.get(client) ?? new Set();
    this.#handshakes.set(client, open);
    for (const earlier of open) {
      if (earlier.endedBy) open.delete(earlier);
      else this.#later(async () => {
        for (let i = 0; i < 20 && !earlier.endedBy; i++) await sleep(50);
        if (earlier.endedBy !== 'client') this.#violate(`client ${client} made two handshakes at the same time`);
      });
    }
    open.add(handshake);
    return handshake;
  }

  /** `Retry-After` is a lower bound (G5). */
  putOff(client: string, nonces: readonly number[], seconds: number): void {
    for (const nonce of nonces) this.#notBefore.set(`${client} ${nonce}`, performance.now() + seconds * 1000);
  }

  sentAgain(client: string, nonces: readonly number[]): void {
    for (const nonce of nonces) {
      const key = `${client} ${nonce}`;
      const early = (this.#notBefore.get(key) ?? 0) - performance.now();
      this.#notBefore.delete(key);
      // The clocks of two processes agree, but timers are in whole ms.
      if (early > 2) this.#violate(`call ${nonce} of client ${client} was sent again ${Math.round(early)} ms before its Retry-After allows`);
    }
  }

  /** Streams that the server ends at once are opened ever more seldom: each delay is at least half of 0.5 s, 1 s, 2 s, … */
  stream(client: string, session: string): void {
    const key = `${client} ${session}`;
    const seen = this.#streams.get(key) ?? { count: 0, since: performance.now() };
    seen.count++;
    this.#streams.set(key, seen);
    const seconds = (performance.now() - seen.since) / 1000;
    if (seen.count > 4 + 1.2 * Math.log2(1 + 4 * seconds)) this.#violate(`client ${client} opened its notification stream ${seen.count} times within ${seconds.toFixed(2)} s, though it ends at once each time`);
    if (this.#streams.size > MOST_SESSIONS) this.#streams.delete(this.#streams.keys().next().value as string);
  }

  /** Resolves when everything that was seen is judged. */
  async settled(): Promise<void> {
    await Promise.all(this.#checks);
  }

  #later(check: () => Promise<void>): void {
    const running = check().finally(() => this.#checks.delete(running));
    this.#checks.add(running);
  }
}
