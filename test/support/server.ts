import { fileURLToPath } from 'node:url';
import { Child, runnable } from './child.ts';
import type { Behaviour, Controls, Execution, ServerMessage, ServerOptions, SessionState, WireEntry } from './contract.ts';

/** How to start the fixture server over stdio. See `stdio-server.ts` for its environment. */
const stdioServer = runnable(fileURLToPath(new URL('./stdio-server.ts', import.meta.url)));
export const fixtureStdio = { command: process.execPath, args: [...stdioServer.flags, stdioServer.file] };

/** Starts the fixture server in its own process; resolves when it listens. */
export async function startServer(options: ServerOptions = {}): Promise<FixtureProcess> {
  const server = new FixtureProcess(options);
  await server.restart();
  return server;
}

/** A fixture server: its process may come and go, its port stays. */
export class FixtureProcess {
  readonly #options: ServerOptions;
  readonly #executions = new Map<string, Execution>();
  readonly #pending = new Map<number, { resolve: (result: unknown) => void; reject: (error: Error) => void }>();
  #calls = 0;
  #port = 0;
  #child: Child | undefined;

  constructor(options: ServerOptions) {
    this.#options = options;
    this.#port = options.port ?? 0;
  }

  get port(): number {
    return this.#port;
  }

  get url(): URL {
    return new URL(`http://127.0.0.1:${this.#port}/mcp`);
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Every request that the present process has seen. */
  requests = () => this.#call('requests') as Promise<WireEntry[]>;
  clearRequests = () => this.#call('clearRequests') as Promise<void>;
  forget = () => this.#call('forget') as Promise<void>;
  cut = () => this.#call('cut') as Promise<void>;
  closeStreams = () => this.#call('closeStreams') as Promise<void>;
  notify = (text: string) => this.#call('notify', text) as Promise<void>;
  subscriptions = () => this.#call('subscriptions') as Promise<SessionState[]>;
  sessions = () => this.#call('sessions') as Promise<string[]>;
  behave = (patch: Partial<Behaviour>) => this.#call('behave', patch) as Promise<void>;

  /** Every execution since the start: unlike all else they survive a restart, so that a call which ran twice is seen. */
  async executions(): Promise<Execution[]> {
    if (this.#child?.alive) await this.#call('sync');
    return [...this.#executions.values()];
  }

  /** Ends the process. The port stays reserved for `restart`. */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    await this.#child?.kill(signal);
  }

  /** A new process with an empty memory on the same port. Kills the old one first if it is there. */
  async restart(): Promise<void> {
    await this.kill();
    const port = await new Promise<number>((resolve, reject) => {
      const args = [JSON.stringify({ ...this.#options, port: this.#port })];
      const onMessage = (message: ServerMessage) => {
        if (message.type === 'listening') resolve(message.port);
        else if (message.type === 'execution') this.#executions.set(message.execution.id, message.execution);
        else this.#settle(message.id, message.result, message.error);
      };
      const child = new Child(new URL('./server-process.ts', import.meta.url), { args, onMessage });
      this.#child = child;
      void child.obituary().then((error) => {
        reject(error);
        for (const { reject } of this.#pending.values()) reject(error);
        this.#pending.clear();
      });
    });
    this.#port = port;
  }

  async stop(): Promise<void> {
    await this.kill();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  #settle(id: number, result: unknown, error: string | undefined): void {
    const call = this.#pending.get(id);
    this.#pending.delete(id);
    if (error === undefined) call?.resolve(result);
    else call?.reject(new Error(error));
  }

  async #call(control: keyof Controls, ...args: unknown[]): Promise<unknown> {
    const child = this.#child;
    if (!child?.alive) throw new Error(`The server is not running: ${control}()`);
    const id = ++this.#calls;
    return await new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      child.send({ id, control, args });
    });
  }
}
