import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

/** Starts another process that uses the file store of a directory: see `file-store.process.ts`. */
export function startProcess(task: string, directory: string, key: string, times = ''): ChildProcess {
  const script = fileURLToPath(new URL('file-store.process.ts', import.meta.url));
  return fork(script, [task, directory, key, times], { execArgv: ['--conditions=mcp-reprise-source', '--import', 'tsx'] });
}

/** Waits for its end, which must not be a failure of its own. */
export async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  if (child.exitCode) throw new Error(`The other process failed with ${child.exitCode}.`);
}

/** Ends it, whatever it is doing. */
export async function killed(child: ChildProcess): Promise<void> {
  child.kill('SIGKILL');
  await ended(child);
}
