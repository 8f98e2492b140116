import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export interface RunningExample {
  /** What it has printed by now. */
  readonly output: string;
  readonly ended: Promise<{ readonly output: string; readonly code: number | null }>;
  kill(): void;
}

/** Runs an example on the build, as a user of the package would. */
export function startExample(file: string, { directory, env }: { readonly directory: string; readonly env: Record<string, string> }): RunningExample {
  const path = fileURLToPath(new URL(`../../${file}`, import.meta.url));
  const child = fork(path, { cwd: directory, execArgv: ['--import', import.meta.resolve('tsx')], env: { ...process.env, ...env }, silent: true });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', (text: string) => (output += text));
  return {
    get output() {
      return output;
    },
    ended: new Promise((resolve) => child.once('close', (code) => resolve({ output, code }))),
    kill: () => void child.kill('SIGKILL'),
  };
}
