/** How the world's I/O gets its turn: what is asked for happens when the promise resolves. */
export type Step = (what: string) => Promise<void>;

/** The server's end of one HTTP request: it can break at any time, from either side. */
export class Line {
  /** Rejects when it is broken. */
  readonly broken: Promise<never>;
  /** The other end has gone, or this one has. */
  ended = false;
  #break!: (error: Error) => void;
  readonly #onEnd: (() => void)[] = [];

  constructor(signal: AbortSignal) {
    this.broken = new Promise((_, reject) => (this.#break = reject));
    this.broken.catch(() => {});
    const onAbort = (): void => this.cut(signal.reason instanceof Error ? signal.reason : new Error('aborted'));
    if (signal.aborted) onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    this.onEnd(() => signal.removeEventListener('abort', onAbort));
  }

  onEnd(task: () => void): void {
    this.#onEnd.push(task);
  }

  /** What a connection does that breaks off. */
  cut(error: Error = reset()): void {
    this.#break(error);
    this.end();
  }

  end(): void {
    if (this.ended) return;
    this.ended = true;
    for (const task of this.#onEnd) task();
  }

  or<T>(promise: Promise<T>): Promise<T> {
    return Promise.race([promise, this.broken]);
  }
}

/** A body of server-sent events on a line. What is written comes piece by piece, in order, each in its own time. */
export class EventBody {
  readonly #stream: ReadableStream<Uint8Array>;
  readonly #line: Line;
  readonly #step: Step;
  readonly #name: string;
  #onHeard: () => void;
  #wrote = false;
  #opened = false;
  #controller!: ReadableStreamDefaultController<Uint8Array>;
  #tail: Promise<unknown> = Promise.resolve();

  /** @param onHeard - called once, when something of it has reached whoever asked */
  constructor(line: Line, step: Step, name: string, onHeard: () => void = () => {}) {
    this.#line = line;
    this.#step = step;
    this.#name = name;
    this.#onHeard = onHeard;
    this.#stream = new ReadableStream({ start: (controller) => void (this.#controller = controller), cancel: () => line.end() });
    line.broken.catch((error: unknown) => this.#safely(() => this.#controller.error(error)));
  }

  /** Whoever asked has it, and reads. */
  open(): ReadableStream<Uint8Array> {
    this.#opened = true;
    this.#tell();
    return this.#stream;
  }

  write(text: string, what: string): void {
    this.#next(`${what} to ${this.#name}`, () => {
      this.#controller.enqueue(new TextEncoder().encode(text));
      this.#wrote = true;
      this.#tell();
    });
  }

  finish(): void {
    this.#next(`end of ${this.#name}`, () => {
      this.#line.end();
      this.#controller.close();
    });
  }

  #tell(): void {
    if (!this.#opened || !this.#wrote || this.#line.ended) return;
    this.#onHeard();
    this.#onHeard = () => {};
  }

  #next(what: string, task: () => void): void {
    this.#tail = this.#tail.then(async () => {
      if (this.#line.ended) return;
      await this.#step(what);
      if (!this.#line.ended) this.#safely(task);
    });
  }

  /** The reader may have let go of it. */
  #safely(task: () => void): void {
    try {
      task();
    } catch {
      // Nobody reads it any more.
    }
  }
}

/** As Node's fetch says it. */
function reset(): Error {
  return new TypeError('terminated', { cause: Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET', syscall: 'read' }) });
}

export function refusedConnection(): Error {
  return new TypeError('fetch failed', { cause: Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED', syscall: 'connect' }) });
}
