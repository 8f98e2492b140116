/** Each bucket is so much wider than the one before: a quantile is off by half of that at the most. */
const GROWTH = 1.04;
/** Times below this, in ms, are one bucket. */
const SMALLEST = 0.01;

/** Quantiles of any number of times, in constant memory, within 2 %. */
export class Histogram {
  /** How many times fell into each bucket, by its number. */
  readonly #buckets = new Map<number, number>();
  #count = 0;
  #max = 0;

  add(time: number): void {
    const bucket = time <= SMALLEST ? 0 : Math.ceil(Math.log(time / SMALLEST) / Math.log(GROWTH));
    this.#buckets.set(bucket, (this.#buckets.get(bucket) ?? 0) + 1);
    this.#count++;
    this.#max = Math.max(this.#max, time);
  }

  get count(): number {
    return this.#count;
  }

  get max(): number {
    return this.#max;
  }

  /** The time that a part `q` (0…1) of all do not exceed; 0 where there are none. */
  quantile(q: number): number {
    let rank = Math.max(1, Math.ceil(q * this.#count));
    for (const [bucket, count] of [...this.#buckets].sort(([a], [b]) => a - b)) {
      rank -= count;
      if (rank <= 0) return Math.min(this.#max, SMALLEST * GROWTH ** (bucket - 0.5));
    }
    return 0;
  }
}
