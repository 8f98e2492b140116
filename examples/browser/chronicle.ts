import type { CallRecord, StateName } from 'mcp-reprise';

/** The session's state for a time; without `to` it is the present one. */
export interface Segment {
  readonly id: string;
  readonly from: number;
  to?: number;
  readonly name: StateName;
}

export type Outcome = 'pending' | 'answered' | 'error' | 'unknown' | 'refused' | 'not-sent' | 'left';

/** A call; without `to` it is under way. */
export interface Bar {
  readonly id: string;
  readonly from: number;
  to?: number;
  readonly tool: string;
  readonly label: string;
  outcome: Outcome;
  attempts: number;
  /** `3 of 10` */
  progress?: string;
  /** The client's number of it, known when it is settled. */
  call?: number;
}

export type MarkKind = 'retry' | 'resumed' | 'reset' | 'degraded' | 'cursorLost' | 'warning' | 'reload' | 'notification';

export interface Mark {
  readonly id: string;
  readonly at: number;
  readonly kind: MarkKind;
  readonly text: string;
  readonly call?: number;
}

interface Kept {
  readonly segments: Segment[];
  readonly bars: Bar[];
  readonly marks: Mark[];
}

const KEY = 'chronicle';
/** How long things are kept, in ms: more than a picture shows. */
const SPAN = 180_000;

/** What happened in this tab, for the picture. A reload does not end it. */
export class Chronicle {
  readonly segments: Segment[];
  readonly bars: Bar[];
  readonly marks: Mark[];

  constructor() {
    const kept = JSON.parse(sessionStorage.getItem(KEY) ?? 'null') as Kept | null;
    ({ segments: this.segments, bars: this.bars, marks: this.marks } = kept ?? { segments: [], bars: [], marks: [] });
    if (kept) this.mark('reload', 'The page was reloaded.');
    addEventListener('pagehide', () => this.#save());
  }

  state(name: StateName): void {
    const at = Date.now();
    const last = this.segments.at(-1);
    if (last) last.to ??= at;
    this.segments.push({ id: crypto.randomUUID(), from: at, name });
    this.#prune(at);
  }

  mark(kind: MarkKind, text: string, call?: number): void {
    this.marks.push({ id: crypto.randomUUID(), at: Date.now(), kind, text, ...(call === undefined ? {} : { call }) });
  }

  begin(tool: string, label: string): Bar {
    const bar: Bar = { id: crypto.randomUUID(), from: Date.now(), tool, label, outcome: 'pending', attempts: 0 };
    this.bars.push(bar);
    return bar;
  }

  /** Puts what the client's history says of a call to its bar. */
  settle({ call, name, startedAt, duration, attempts, outcome, isError, error }: CallRecord): void {
    const pending = this.bars.filter(({ tool, from, to }) => tool === name && from <= startedAt && to === undefined);
    const bar = pending.at(-1);
    if (!bar) return;
    const failed = outcome === 'answered' && (isError === true || error !== undefined);
    Object.assign(bar, { call, to: startedAt + duration, attempts, outcome: failed ? 'error' : outcome } satisfies Partial<Bar>);
  }

  /** What is under way when a page goes is seen no more by it. */
  #save(): void {
    const at = Date.now();
    this.#prune(at);
    const segments = this.segments.map((each) => ({ to: at, ...each }));
    const bars = this.bars.map((each) => (each.to === undefined ? { ...each, to: at, outcome: 'left' } : each));
    sessionStorage.setItem(KEY, JSON.stringify({ segments, bars, marks: this.marks }));
  }

  #prune(now: number): void {
    const recent = (end = now): boolean => end > now - SPAN;
    prune(this.segments, ({ to }) => recent(to));
    prune(this.bars, ({ to }) => recent(to));
    prune(this.marks, ({ at }) => recent(at));
  }
}

function prune<T>(items: T[], keep: (item: T) => boolean): void {
  items.splice(0, items.length, ...items.filter(keep));
}
