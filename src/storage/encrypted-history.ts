/**
 * What an encrypted store remembers of each key, to know an old value when one is put back.
 *
 * From its creation to its removal a stored value is one generation, and its writes are counted, each by a compare-and-set on the one
 * before: within a generation a count is given once, and never falls. Generations follow each other and none comes back. So what was
 * current once, when this instance looked, tells which values can only be old. Between generations that it has not seen there is no
 * order to be known.
 */
export interface Mark {
  /** Random, chosen when the key was absent. */
  readonly generation: string;
  /** 1 for the first write of the generation. */
  readonly count: number;
  /** The nonce of the envelope: of those that tried to be the next one, it names the one that was written. */
  readonly nonce: string;
}

export interface Seen extends Mark {
  /** What the underlying store calls it. */
  readonly revision: string;
}

/** What is known of a key at one moment; never changed, so that it can be kept until an operation ends. */
export interface Memory {
  /** The newest value that was seen, unless it was removed here. */
  readonly last: Seen | undefined;
  /** Generations that are over. */
  readonly over: readonly string[];
}

/** The keys, and the generations of each, that are remembered; the oldest go first, and with them only what could be detected. */
const MOST_KEYS = 1_000;
const MOST_OVER = 20;

export class History {
  // The key used last is at the end.
  readonly #memories = new Map<string, Memory>();

  /** What is known of a key now. */
  recall(key: string): Memory | undefined {
    const memory = this.#memories.get(key);
    if (memory) this.#remember(key, memory);
    return memory;
  }

  /**
   * Remembers what was read or written.
   *
   * @param before - What {@link recall} said when the operation began.
   */
  saw(key: string, before: Memory | undefined, seen: Seen): void {
    const now = this.#memories.get(key);
    if (now?.last?.generation === seen.generation) {
      if (seen.count > now.last.count) this.#remember(key, { ...now, last: seen });
    } else if (now === before) {
      this.#remember(key, { last: seen, over: withLast(before) });
    }
    // Otherwise another operation has seen something else meanwhile, and nobody knows which of the two came first.
  }

  /** Remembers that this instance removed the value. */
  removed(key: string, before: Memory | undefined): void {
    const now = this.#memories.get(key);
    // Whether it was the one removed or was replaced before that: what was there when the removal began, is over.
    if (before?.last && now?.last?.generation === before.last.generation) this.#remember(key, { last: undefined, over: withLast(now) });
  }

  #remember(key: string, memory: Memory): void {
    this.#memories.delete(key);
    this.#memories.set(key, memory);
    if (this.#memories.size > MOST_KEYS) this.#memories.delete(this.#memories.keys().next().value as string);
  }
}

/** Whether a value that was read is known to be an old one, by what was known before the reading began. */
export function isReplayed(before: Memory | undefined, { generation, count, nonce }: Mark): boolean {
  if (before === undefined) return false;
  const { last, over } = before;
  if (over.includes(generation)) return true;
  return last?.generation === generation && (count < last.count || (count === last.count && nonce !== last.nonce));
}

function withLast(memory: Memory | undefined): readonly string[] {
  if (!memory) return [];
  return memory.last ? [...memory.over, memory.last.generation].slice(-MOST_OVER) : memory.over;
}
