import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { Child } from '../support/child.ts';
import { type AnyMessage, Inbox } from '../support/inbox.ts';
import type { Counter, HeldElsewhere } from '../../src/testing.ts';

/** Other processes, for the contract. */

/** Makes plain JavaScript of a script, in one file: many are started, and what starts slowly keeps the other cases from being in time. */
export async function bundle(script: URL, outfile: string): Promise<void> {
  await build({ entryPoints: [fileURLToPath(script)], outfile, bundle: true, packages: 'external', platform: 'node', format: 'esm' });
}

export class OtherProcess {
  /** What it says. It fails when the process is gone. */
  readonly inbox = new Inbox<AnyMessage>();
  readonly #child: Child;

  constructor(file: string, args: string[], onTold?: (told: AnyMessage) => void) {
    this.#child = new Child(file, {
      args,
      flags: [],
      onMessage: (told: AnyMessage) => {
        onTold?.(told);
        this.inbox.push(told);
      },
    });
    void this.#child.obituary().then((error) => this.inbox.fail(error));
  }

  say(type: string): void {
    this.#child.send({ type });
  }

  signal(signal: NodeJS.Signals): void {
    process.kill(Number(this.#child.pid), signal);
  }

  async kill(): Promise<void> {
    await this.#child.kill();
  }

  /** As one that counts once it is told to go. */
  get counter(): Counter {
    return {
      run: async () => {
        this.say('go');
        const { code } = await this.#child.exit;
        if (code) throw await this.#child.obituary();
      },
      kill: () => this.kill(),
    };
  }
}

/** The lock that another process has, or is about to: it says `held`, `lost` and `released`. */
export async function lockOf(other: OtherProcess): Promise<HeldElsewhere> {
  const { fence } = await other.inbox.next('held');
  const lost = new AbortController();
  void other.inbox.next('lost').then(
    () => lost.abort(),
    () => undefined,
  );
  return {
    lock: {
      fence: Number(fence),
      lost: lost.signal,
      async release() {
        other.say('release');
        await other.inbox.next('released');
      },
    },
    // As the system does it.
    pause: () => other.signal('SIGSTOP'),
    resume: () => other.signal('SIGCONT'),
  };
}
