import { Abort, onAbort, type Signal } from './signals.ts';
import { sleep } from './timers.ts';

/** What a browser tells of its device, to pages and workers. Elsewhere nothing is ever told. */
interface Device {
  readonly navigator?: { readonly onLine?: boolean };
  readonly document?: Partial<EventTarget> & { readonly visibilityState?: string };
  addEventListener?(type: string, listener: () => void): void;
  removeEventListener?(type: string, listener: () => void): void;
}

const device = globalThis as unknown as Device;

/** Whether the device says that it has no network. One that says nothing of it may have none either. */
export function isOffline(): boolean {
  return device.navigator?.onLine === false;
}

const tasks = new Set<{ readonly run: () => void }>();

const wake = (): void => {
  // Not over a copy: a task may take back those that come after it.
  for (const { run } of tasks) run();
};

/** A page that is left behind has nothing to wake for; one whose network comes back has, also in the background. */
const look = (): void => {
  if (device.document?.visibilityState === 'visible') wake();
};

/**
 * Calls `task` each time that waiting may be over sooner than was thought: the network is there again, or the page is looked at again,
 * whose timers hardly ran meanwhile. Returns what ends that. The browser has listeners of ours only while somebody waits.
 */
export function onWake(task: () => void): () => void {
  const entry = { run: task };
  if (tasks.size === 0) listen('addEventListener');
  tasks.add(entry);
  return () => {
    if (tasks.delete(entry) && tasks.size === 0) listen('removeEventListener');
  };
}

/**
 * Waits for `delay` ms like `sleep`, or less if the device wakes up, but never less than `least`: what a server asks for holds.
 *
 * @throws the reason of `signal` as soon as it aborts
 */
export async function nap(delay: number, signal: Signal, least = 0): Promise<void> {
  if (least > 0) await sleep(least, signal);
  if (delay <= least) return signal.throwIfAborted();
  const over = new Abort();
  const stopWaking = onWake(() => over.abort());
  const release = onAbort(signal, () => over.abort());
  try {
    await sleep(delay - least, over).catch(() => undefined);
    signal.throwIfAborted();
  } finally {
    stopWaking();
    release();
  }
}

function listen(how: 'addEventListener' | 'removeEventListener'): void {
  // Node has neither.
  device[how]?.('online', wake);
  device.document?.[how]?.('visibilitychange', look);
}
