/** What our own code needs of an `AbortSignal`. */
export interface Signal {
  readonly aborted: boolean;
  readonly reason: unknown;
  throwIfAborted(): void;
  addEventListener(type: 'abort', listener: () => void, options?: { readonly once?: boolean }): void;
  removeEventListener(type: 'abort', listener: () => void): void;
}

/**
 * An `AbortController` and its signal, for what is made with every call: the platform's take many times as long to make and to listen to
 * (Node 20: 10 µs of a call's 500), and few calls are ever aborted.
 */
export class Abort implements Signal {
  aborted = false;
  reason: unknown;
  #listeners: Set<() => void> | undefined;
  #native: AbortController | undefined;

  get signal(): Signal {
    return this;
  }

  /** A real signal, for the platform. */
  get native(): AbortSignal {
    if (!this.#native) {
      this.#native = new AbortController();
      if (this.aborted) this.#native.abort(this.reason);
    }
    return this.#native.signal;
  }

  abort(reason?: unknown): void {
    if (this.aborted) return;
    this.aborted = true;
    this.reason = reason;
    this.#native?.abort(reason);
    // Not over a copy: one may take back those that come after it.
    for (const listener of this.#listeners ?? []) listener();
    this.#listeners = undefined;
  }

  throwIfAborted(): void {
    if (this.aborted) throw this.reason;
  }

  addEventListener(_type: 'abort', listener: () => void): void {
    if (this.aborted) return;
    this.#listeners ??= new Set();
    this.#listeners.add(listener);
  }

  removeEventListener(_type: 'abort', listener: () => void): void {
    this.#listeners?.delete(listener);
  }
}

/** The same signal as one of the platform's. */
export function nativeOf(signal: Signal): AbortSignal {
  return signal instanceof Abort ? signal.native : (signal as AbortSignal);
}

/**
 * Callers share one signal among thousands of calls, and the platform looks through all listeners of a signal each time that one is
 * added, and warns of a leak when there are many. So a signal has one listener of ours, and only while a call needs it.
 */
class Watch {
  readonly #signal: Signal;
  readonly #tasks = new Set<{ readonly run: () => void }>();

  constructor(signal: Signal) {
    this.#signal = signal;
    signal.addEventListener('abort', this.#runAll);
  }

  add(run: () => void): () => void {
    const task = { run };
    this.#tasks.add(task);
    return () => {
      if (this.#tasks.delete(task) && this.#tasks.size === 0) this.#end();
    };
  }

  // Not of the name of what is exported here: the transform to CommonJS takes setting `#onAbort` for setting the export.
  readonly #runAll = (): void => {
    this.#end();
    // Not over a copy: a task may release those that come after it.
    for (const { run } of this.#tasks) run();
  };

  #end(): void {
    this.#signal.removeEventListener('abort', this.#runAll);
    if (watches.get(this.#signal) === this) watches.delete(this.#signal);
  }
}

const watches = new WeakMap<Signal, Watch>();

/** Calls `task` once when the signal aborts (at once if it has), unless the function that it returns is called before. */
export function onAbort(signal: Signal, task: () => void): () => void {
  if (signal.aborted) {
    task();
    return () => {};
  }
  if (signal instanceof Abort) {
    // Another each time: the same one may be there twice.
    const listener = (): void => task();
    signal.addEventListener('abort', listener);
    return () => signal.removeEventListener('abort', listener);
  }
  let watch = watches.get(signal);
  if (!watch) watches.set(signal, (watch = new Watch(signal)));
  return watch.add(task);
}
