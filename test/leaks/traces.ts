import { getEventListeners, once } from 'node:events';
import { get, type IncomingMessage } from 'node:http';
import { json } from 'node:stream/consumers';
import { setImmediate as turn, setTimeout as pause } from 'node:timers/promises';

/** What a process can find of what was left behind in it. */

/** The heap after so many calls, or cycles. */
export interface Sample {
  readonly after: number;
  /** In bytes. */
  readonly heap: number;
}

/** Those that are set, and who has set them. */
const timers = new Map<unknown, string>();

/** From now on the timers are counted that are set by anybody but Node itself; to be called before anybody can have kept the originals. */
export function countTimers(): void {
  const { setTimeout: set, clearTimeout: clear, setInterval: repeat, clearInterval: stop } = globalThis;
  const setTimeout = (task: (...args: unknown[]) => void, ...rest: unknown[]): unknown => {
    const timer: unknown = set((...args: unknown[]) => {
      timers.delete(timer);
      task(...args);
    }, ...(rest as [number]));
    timers.set(timer, callers(setTimeout));
    return timer;
  };
  const setInterval = (...args: Parameters<typeof repeat>): unknown => {
    const timer = repeat(...args);
    timers.set(timer, callers(setInterval));
    return timer;
  };
  const counted = <T>(end: (timer: T) => void) => (timer: T): void => {
    timers.delete(timer);
    end(timer);
  };
  Object.assign(globalThis, { setTimeout, setInterval, clearTimeout: counted(clear), clearInterval: counted(stop) });
}

/** The innermost, in words: a stack that is kept as it is keeps what is on it. */
function callers(of: (...args: never[]) => unknown): string {
  const { stackTraceLimit, prepareStackTrace } = Error;
  const holder = { stack: '' };
  try {
    Error.stackTraceLimit = 12;
    Error.prepareStackTrace = (_, sites) => sites.map((site) => `${site.getFunctionName()} (${site.getFileName()})`).join(' < ');
    Error.captureStackTrace(holder, of);
    return holder.stack;
  } finally {
    Object.assign(Error, { stackTraceLimit, prepareStackTrace });
  }
}

/** Who set the timers that are open. Node's fetch sets some of its own, by the names that everybody uses. */
export function openTimers(): string[] {
  return [...timers.values()].filter((callers) => !/^[^<]*\(node:/.test(callers));
}

/** Waits until no more timers are set than so many: what a call leaves to end by itself has its time in seconds. */
export async function quiet(most: number): Promise<void> {
  for (let i = 0; i < 1000 && openTimers().length > most; i++) await pause(10);
}

/** What is reachable, in bytes. */
export async function heap(): Promise<number> {
  let lowest = Number.POSITIVE_INFINITY;
  // What one collection finalizes is free after the next, and what that holds, later still.
  for (let since = 0; since < 3; since++) {
    globalThis.gc?.();
    await turn();
    const { heapUsed } = process.memoryUsage();
    if (heapUsed < lowest - 1024) since = 0;
    lowest = Math.min(lowest, heapUsed);
  }
  return lowest;
}

/** What keeps the process alive, beside its own input and output. */
export function resources(): string[] {
  return process.getActiveResourcesInfo().filter((kind) => !/^(Pipe|TTY|Immediate|FS|Timeout)/.test(kind));
}

export function listenersOf(signal: AbortSignal): number {
  return getEventListeners(signal, 'abort').length;
}

/** How many listeners the process has, by event. */
export function processListeners(): string {
  return process.eventNames().map((name) => `${String(name)} ${process.listenerCount(name)}`).sort().join();
}

/** Where a server says what its clients have left. */
export const LEFT = '/left';

export interface Left {
  /** Of each that is open, what was asked last. */
  readonly sessions: readonly string[];
  /** Beside the one that asks. */
  readonly connections: number;
  /** Requests whose answers have not ended. */
  readonly exchanges: number;
}

/** What the server says that is left now. Node lets a process end with idle connections open: only the server sees them. */
export async function leftAt(server: string): Promise<Left> {
  const request = get(new URL(LEFT, server), { agent: false });
  const closed = once(request, 'close');
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  const left = (await json(response)) as Left;
  await closed;
  return left;
}
