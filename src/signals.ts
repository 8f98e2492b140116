/**
 * Callers share one signal among thousands of calls, and the platform looks through all listeners of a signal each time that one is
 * added, and warns of a leak when there are many. So a signal has one listener of ours, and only while a call needs it.
 */
class Watch {
  readonly #signal: AbortSignal;
  readonly #tasks = new Set<{ readonly run: () => void }>();

  constructor(signal: AbortSignal) {
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

const watches = new WeakMap<AbortSignal, Watch>();

/** Calls `task` once when the signal aborts (at once if it has), unless the function that it returns is called before. */
export function onAbort(signal: AbortSignal, task: () => void): () => void {
  if (signal.aborted) {
    task();
    return () => {};
  }
  let watch = watches.get(signal);
  if (!watch) watches.set(signal, (watch = new Watch(signal)));
  return watch.add(task);
}
