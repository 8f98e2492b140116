import type { ListToolsResult } from '@modelcontextprotocol/sdk/types.js';
import { copyOf } from './copy.ts';

/** Keeps something with the session, and for as long as it lasts. */
export interface ToolListHost {
  recall(): unknown;
  /** As it stands in the store, where the session is kept in one. */
  recallStored(): Promise<unknown>;
  remember(value: unknown): void;
}

/** As it is kept with the session. */
interface Kept {
  /** When the server listed them, as Unix time in ms. */
  readonly at: number;
  readonly result: ListToolsResult;
}

/** What the server says of its tools, kept with the session: a process that takes the session up knows it without asking. */
export class ToolList {
  readonly #host: ToolListHost;
  /** Which tools only look, and which may be called again, by their word. */
  readonly #readOnly = new Set<string>();
  readonly #repeatable = new Set<string>();
  #changes = 0;

  constructor(host: ToolListHost) {
    this.#host = host;
  }

  /** The list, if the server gave it within the last `ttl` ms and has not taken it back. A copy. */
  async within(ttl: number): Promise<ListToolsResult | undefined> {
    if (!this.#kept()) return undefined;
    // Of those who share a session one hears that the list has changed: the others see it in the store.
    const kept = asKept(await this.#host.recallStored());
    const age = kept ? Date.now() - kept.at : 0;
    // A clock that was set back says nothing of the age.
    return kept && age >= 0 && age < ttl ? copyOf(kept.result) : undefined;
  }

  /** The list as it was last, however long ago: what it says of answers holds until another is heard. */
  get last(): ListToolsResult | undefined {
    return this.#kept()?.result;
  }

  /**
   * The server gave a list, which was asked for when there had been so many {@link changes}: one from before the last of them is not
   * kept. Nor is one in pages: the SDK validates by the last page only.
   */
  note(cursor: unknown, result: ListToolsResult, changes: number): void {
    this.believe(result);
    if (changes !== this.#changes) return;
    this.#host.remember(cursor === undefined && result.nextCursor === undefined ? ({ at: Date.now(), result: copyOf(result) } satisfies Kept) : undefined);
  }

  /** How often it has changed. */
  get changes(): number {
    return this.#changes;
  }

  /** It has changed, and how is not known. */
  drop(): void {
    this.#changes++;
    this.#readOnly.clear();
    this.#repeatable.clear();
    this.#host.remember(undefined);
  }

  believe({ tools }: ListToolsResult): void {
    for (const { name, annotations } of tools) {
      mark(this.#readOnly, name, annotations?.readOnlyHint === true);
      mark(this.#repeatable, name, annotations?.readOnlyHint === true || annotations?.idempotentHint === true);
    }
  }

  isReadOnly(name: string): boolean {
    return this.#readOnly.has(name);
  }

  isRepeatable(name: string): boolean {
    return this.#repeatable.has(name);
  }

  #kept(): Kept | undefined {
    return asKept(this.#host.recall());
  }
}

/** What is there may have been written by anybody: only its outline is sure, the SDK's schema has the last word. */
function asKept(value: unknown): Kept | undefined {
  const kept = value as Partial<Kept> | undefined;
  return typeof kept === 'object' && typeof kept?.at === 'number' && Array.isArray(kept.result?.tools) ? (kept as Kept) : undefined;
}

function mark(names: Set<string>, name: string, belongs: boolean): void {
  if (belongs) names.add(name);
  else names.delete(name);
}
