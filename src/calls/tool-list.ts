import type { ListToolsResult } from '@modelcontextprotocol/sdk/types.js';

/** Keeps something with the session, and for as long as it lasts. */
export interface ToolListHost {
  recall(): unknown;
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

  constructor(host: ToolListHost) {
    this.#host = host;
  }

  /** The list, if the server gave it within the last `ttl` ms and has not taken it back. A copy. */
  within(ttl: number): ListToolsResult | undefined {
    const kept = this.#kept();
    const age = kept ? Date.now() - kept.at : 0;
    // A clock that was set back says nothing of the age.
    return kept && age >= 0 && age < ttl ? structuredClone(kept.result) : undefined;
  }

  /** The list as it was last, however long ago: what it says of answers holds until another is heard. */
  get last(): ListToolsResult | undefined {
    return this.#kept()?.result;
  }

  /** The server gave a list. One in pages is not kept: the SDK validates by the last page only. */
  note(cursor: unknown, result: ListToolsResult): void {
    this.believe(result);
    this.#host.remember(cursor === undefined && result.nextCursor === undefined ? ({ at: Date.now(), result } satisfies Kept) : undefined);
  }

  /** It has changed, and how is not known. */
  drop(): void {
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

  /** What is there may have been written by anybody: only its outline is sure, the SDK's schema has the last word. */
  #kept(): Kept | undefined {
    const kept = this.#host.recall() as Partial<Kept> | undefined;
    return typeof kept === 'object' && typeof kept?.at === 'number' && Array.isArray(kept.result?.tools) ? (kept as Kept) : undefined;
  }
}

function mark(names: Set<string>, name: string, belongs: boolean): void {
  if (belongs) names.add(name);
  else names.delete(name);
}
