import { fork, type ChildProcess, type Serializable } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

/** Lets Node run our TypeScript, whatever the working directory. */
export const typescriptFlags = [
  '--conditions=mcp-reprise-source',
  '--import',
  pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href,
];

const TESTS = fileURLToPath(new URL('..', import.meta.url));

/** How Node is to run one of our scripts: the bundle that was made of it for this run of the tests (`bundles.ts`), or itself. */
export function runnable(script: string): { readonly file: string; readonly flags: string[] } {
  const bundles = process.env['TEST_BUNDLES'];
  const bundle = bundles && script.startsWith(TESTS) ? join(bundles, script.slice(TESTS.length).replace(/\.ts$/, '.mjs')) : undefined;
  return bundle && existsSync(bundle) ? { file: bundle, flags: ['--enable-source-maps'] } : { file: script, flags: typescriptFlags };
}

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export interface ChildOptions {
  args?: string[];
  flags?: string[];
  env?: Record<string, string>;
  onMessage?: (message: never) => void;
}

/** A child process with an IPC channel whose output is kept. */
export class Child {
  stdout = '';
  stderr = '';
  /** Settles when the process is gone and everything it said has arrived. */
  readonly exit: Promise<Exit>;
  #onOutput: (() => void) | undefined;
  readonly #process: ChildProcess;

  constructor(script: string | URL, { args = [], flags, env = {}, onMessage }: ChildOptions = {}) {
    const path = script instanceof URL ? fileURLToPath(script) : script;
    const { file, flags: usual } = flags ? { file: path, flags } : runnable(path);
    const child = fork(file, args, {
      execArgv: usual,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    });
    this.#process = child;
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
      this.#onOutput?.();
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
      this.#onOutput?.();
    });
    if (onMessage) child.on('message', onMessage as (message: unknown) => void);
    this.exit = new Promise((resolve) => {
      child.once('close', (code, signal) => resolve({ code, signal }));
      // Without this a process that could not be started would never be gone.
      child.once('error', (error) => {
        this.stderr += String(error);
        if (child.pid === undefined) resolve({ code: null, signal: null });
      });
    });
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  get alive(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }

  send(message: Serializable): void {
    // A message to a dying child is lost; that it died is told by `exit`.
    if (this.#process.connected) this.#process.send(message, () => {});
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<Exit> {
    this.#process.kill(signal);
    return await this.exit;
  }

  /** What the process died of, for an error message. */
  async obituary(): Promise<Error> {
    const { code, signal } = await this.exit;
    return new Error(`The process exited (${signal ?? code})\n${this.stderr.slice(-2000)}`);
  }

  /** Waits until the process has printed something. */
  async printed(text: string): Promise<void> {
    const seen = new Promise<void>((resolve) => {
      this.#onOutput = () => {
        if (this.stdout.includes(text) || this.stderr.includes(text)) resolve();
      };
      this.#onOutput();
    });
    await Promise.race([seen, this.obituary().then((error) => Promise.reject(error))]);
  }
}
