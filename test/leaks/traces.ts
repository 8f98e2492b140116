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

const timers = new Set<unknown>();

/** From now on the timers are counted that are set by anybody but Node itself; to be called before anybody can have kept the originals. */
export function countTimers(): void {
  const { setTimeout: set, clearTimeout: clear, setInterval: repeat, clearInterval: stop } = globalThis;
  globalThis.setTimeout = ((task: (...args: unknown[]) => void, ...rest: unknown[]) => {
    const timer: unknown = set((...args: unknown[]) => {
      timers.delete(timer);
      task(...args);
    }, ...(rest as [number]));
    timers.add(timer);
    return timer;
  }) as typeof setTimeout;
  globalThis.setInterval = ((...args: Parameters<typeof setInterval>) => {
    const timer = repeat(...args);
    timers.add(timer);
    return timer;
  }) as typeof setInterval;
  const counted = <T>(end: (timer: T) => void) => (timer: T): void => {
    timers.delete(timer);
    end(timer);
  };
  globalThis.clearTimeout = counted(clear) as typeof clearTimeout;
  globalThis.clearInterval = counted(stop) as typeof clearInterval;
}

export function openTimers(): number {
  return timers.size;
}

/** Waits until no more timers are set than so many: what a call leaves to end by itself has its time in seconds. */
export async function quiet(most: number): Promise<void> {
  for (let i = 0; i < 1000 && timers.size > most; i++) await pause(10);
}

/** What is reachable, in bytes. */
export async function heap(): Promise<number> {
  // What a first collection finalizes is free after a second.
  for (let i = 0; i < 3; i++) {
    globalThis.gc?.();
    await turn();
  }
  return process.memoryUsage().heapUsed;
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
  readonly sessions: number;
  /** Beside the one that asks. */
  readonly connections: number;
  /** Requests whose answers have not ended. */
  readonly exchanges: number;
}

/** What the server says that is left. Node lets a process end with idle connections open: only the server sees them. */
export async function leftAt(server: string): Promise<Left> {
  const request = get(new URL(LEFT, server), { agent: false });
  const closed = once(request, 'close');
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  const left = (await json(response)) as Left;
  await closed;
  return left;
}
