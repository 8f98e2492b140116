/** How long a look at the event loop is apart from the next, in ms. */
const TICK = 10;
/** So many blockings are remembered. */
const MEMORY = 2000;

/**
 * When this process's event loop did not turn, because it worked or because the machine gave it no time. No library can settle a promise
 * meanwhile, so that this is taken off where it is late.
 */
export class LoopLag {
  readonly #blocked: { from: number; to: number }[] = [];
  readonly #timer: NodeJS.Timeout;
  #seen = performance.now();

  constructor() {
    this.#timer = setInterval(() => this.#look(), TICK);
  }

  /** How many ms of a time the loop was blocked; both on the clock of `performance.now()`. */
  between(from: number, to: number): number {
    const now = performance.now();
    const blocked = [...this.#blocked, { from: this.#seen + TICK, to: now }];
    // A timer that was due before the loop was free again fires at the end of that only.
    return blocked.reduce((sum, each) => sum + Math.max(0, Math.min(to, each.to) - Math.max(from, each.from)), 0);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const now = performance.now();
    if (now - this.#seen > 2 * TICK) {
      this.#blocked.push({ from: this.#seen + TICK, to: now });
      if (this.#blocked.length > MEMORY) this.#blocked.shift();
    }
    this.#seen = now;
  }
}
