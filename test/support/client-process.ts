import type { Serializable } from 'node:child_process';
import { Child, type Exit } from './child.ts';
import { Inbox, type AnyMessage, type Message, type OfType } from './inbox.ts';

/** Runs a TypeScript client in its own process. The script talks back by `client-script.ts`. */
export function runScript<Heard extends Message = AnyMessage, Said extends Message = AnyMessage>(
  file: string | URL,
  args: string[] = [],
  env: Record<string, string> = {},
): ClientProcess<Heard, Said> {
  return new ClientProcess(file, args, env);
}

export class ClientProcess<Heard extends Message, Said extends Message> {
  readonly #child: Child;
  readonly #inbox = new Inbox<Heard>();

  constructor(file: string | URL, args: string[], env: Record<string, string>) {
    this.#child = new Child(file, { args, env, onMessage: (message: Heard) => this.#inbox.push(message) });
    void this.#child.obituary().then((error) => this.#inbox.fail(error));
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  get stdout(): string {
    return this.#child.stdout;
  }

  get stderr(): string {
    return this.#child.stderr;
  }

  get exit(): Promise<Exit> {
    return this.#child.exit;
  }

  /** The next message, of that type if one is given. Rejects with the end of stderr when the process is gone. */
  next<T extends Heard['type']>(type?: T): Promise<OfType<Heard, T>> {
    return this.#inbox.next(type);
  }

  send(message: Said): void {
    this.#child.send(message as Message as Serializable);
  }

  kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<Exit> {
    return this.#child.kill(signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}
