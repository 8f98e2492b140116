import fs from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';

/** Directories whose file system fails or hangs, each by itself: the cases of the contract run side by side. */

interface Fault {
  /** How many steps go well before one fails. */
  soundSteps?: number;
  hung?: Promise<void>;
}

type Call = (...args: unknown[]) => Promise<unknown>;

const faults = new Map<string, Fault>();

async function step(path: unknown, name: string, call: () => Promise<unknown>): Promise<unknown> {
  for (const [directory, fault] of faults) {
    if (!String(path).startsWith(directory)) continue;
    await fault.hung;
    if (fault.soundSteps === undefined || fault.soundSteps-- !== 0) continue;
    // A close does happen, or its descriptor would be lost.
    if (name === 'close') await call();
    throw Object.assign(new Error(`EIO: ${name} does not work`), { code: 'EIO' });
  }
  return call();
}

function patch(): void {
  const changed: Record<string, Call> = {};
  for (const [name, call] of Object.entries(fs as unknown as Record<string, Call>)) {
    if (typeof call === 'function') changed[name] = (...args) => step(args[0], name, () => call(...args));
  }
  const open = changed['open'] as Call;
  changed['open'] = async (...args) => {
    const handle = (await open(...args)) as Record<string, Call>;
    for (const name of ['writeFile', 'sync', 'read', 'close']) {
      const call = (handle[name] as Call).bind(handle);
      handle[name] = (...rest) => step(args[0], name, () => call(...rest));
    }
    return handle;
  };
  Object.assign(fs, changed);
  syncBuiltinESMExports();
}

patch();

/** Makes the n-th call about a directory and what is in it fail. The function that it returns ends that, and tells whether it came to it. */
export function failStepIn(directory: string, n: number): () => boolean {
  const fault: Fault = { soundSteps: n - 1 };
  faults.set(directory, fault);
  return () => {
    faults.delete(directory);
    return Number(fault.soundSteps) < 0;
  };
}

/** Makes every call about a directory and what is in it wait until the function that it returns is called. */
export function hangIn(directory: string): () => void {
  let goOn = (): void => undefined;
  faults.set(directory, { hung: new Promise((resolve) => (goOn = resolve)) });
  return () => {
    faults.delete(directory);
    goOn();
  };
}
