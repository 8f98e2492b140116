import type { Serializable } from 'node:child_process';
import { Child, type ChildOptions } from '../support/child.ts';

/** What a process of the benchmark can be asked, by name. */
export type Controls = Record<string, (args: never) => unknown>;

type Asked = { readonly id: number; readonly control: string; readonly args: unknown };
type Said = { readonly id: number; readonly result?: unknown; readonly error?: string };

/** Answers what the benchmark asks of this process. */
export function serve(controls: Controls): void {
  process.on('message', async ({ id, control, args }: Asked) => {
    try {
      const run = controls[control] as ((args: unknown) => unknown) | undefined;
      if (!run) throw new Error(`no such control: ${control}`);
      process.send?.({ id, result: await run(args) } satisfies Said);
    } catch (error) {
      process.send?.({ id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) } satisfies Said);
    }
  });
  process.on('disconnect', () => process.exit());
}

/** A process of the benchmark, seen from outside. */
export class Remote<C extends Controls> {
  readonly child: Child;
  readonly #pending = new Map<number, { resolve: (result: unknown) => void; reject: (error: Error) => void }>();
  #asked = 0;

  constructor(file: string, options: ChildOptions = {}) {
    this.child = new Child(file, { flags: [], ...options, onMessage: ((said: Said) => this.#hear(said)) as (message: never) => void });
    void this.child.obituary().then((error) => {
      for (const { reject } of this.#pending.values()) reject(error);
      this.#pending.clear();
    });
  }

  ask<N extends keyof C & string>(control: N, ...[args]: Partial<Parameters<C[N]>>): Promise<Awaited<ReturnType<C[N]>>> {
    const id = ++this.#asked;
    return new Promise((resolve, reject) => {
      if (!this.child.alive) {
        reject(new Error(`the process is gone: ${control}\n${this.child.stderr.slice(-2000)}`));
        return;
      }
      this.#pending.set(id, { resolve: resolve as (result: unknown) => void, reject });
      this.child.send({ id, control, args } satisfies Asked as Serializable);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.child.kill();
  }

  #hear({ id, result, error }: Said): void {
    const call = this.#pending.get(id);
    this.#pending.delete(id);
    if (error === undefined) call?.resolve(result);
    else call?.reject(new Error(error));
  }
}
