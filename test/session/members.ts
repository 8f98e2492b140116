import { onTestFinished } from 'vitest';
import type { ConnectOptions, Lock, Store } from '../../src/index.ts';
import { type ClientProcess, runScript } from '../support/client-process.ts';
import type { WireEntry } from '../support/contract.ts';
import type { FixtureProcess } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { altered, wireOf } from './clients.ts';
import type { Said, Told } from './member.process.ts';

/** A process with one client (see `member.process.ts`), and all that it has said so far. It is killed when the test is over. */
export class Member {
  readonly name: string;
  readonly said: Said[] = [];
  /** The process has ended, and all that it said has been heard. */
  ended = false;
  readonly #process: ClientProcess<Said, Told>;

  constructor(name: string, server: FixtureProcess, directory: string, options: ConnectOptions = {}) {
    this.name = name;
    this.#process = runScript<Said, Told>(new URL('./member.process.ts', import.meta.url), [name, server.url.href, directory, JSON.stringify(options)]);
    onTestFinished(async () => void (await this.#process.kill()));
    void this.#hear();
  }

  get exit(): ClientProcess<Said, Told>['exit'] {
    return this.#process.exit;
  }

  get heard(): string[] {
    return this.all('heard').map(({ text }) => text);
  }

  toldOf(event: string): string[] {
    return this.all('told').filter((each) => each.event === event).map(({ text }) => text);
  }

  all<T extends Said['type']>(type: T): Extract<Said, { type: T }>[] {
    return this.said.filter((each): each is Extract<Said, { type: T }> => each.type === type);
  }

  /** How often it has asked for a lock, or had it, or lost it. */
  times(what: 'asks' | 'has' | 'lost', lock: 'handshake' | 'stream'): number {
    return this.all(what).filter((each) => each.lock.startsWith(`${lock}/`)).length;
  }

  /** Waits until it has asked for a lock so many times, or had it, or lost it. */
  async until(what: 'asks' | 'has' | 'lost', lock: 'handshake' | 'stream', times = 1): Promise<void> {
    await this.#told(() => this.times(what, lock) >= times, `${this.name} ${what} ${lock}`);
  }

  /** The answer to what it is told to do. */
  async does(type: 'connect' | 'echo'): Promise<string | undefined> {
    const answer = type === 'connect' ? 'connected' : 'echoed';
    const before = this.all(answer).length;
    this.#process.send({ type });
    await this.#told(() => this.all(answer).length > before, `${this.name} ${answer}`);
    return this.all(answer).at(-1)?.id;
  }

  send(type: Told['type']): void {
    this.#process.send({ type });
  }

  async ready(): Promise<this> {
    await this.#told(() => this.all('ready').length > 0, `${this.name} ready`);
    return this;
  }

  async close(): Promise<void> {
    this.#process.send({ type: 'close' });
    await waitFor(() => this.ended, { timeout: 20_000, what: `the end of ${this.name}` });
  }

  /** SIGKILL and SIGSTOP come without a warning. */
  async signal(signal: 'SIGKILL' | 'SIGSTOP' | 'SIGCONT'): Promise<void> {
    process.kill(this.#process.pid as number, signal);
    if (signal === 'SIGKILL') await waitFor(() => this.ended, { what: `the end of ${this.name}` });
  }

  async #told(predicate: () => boolean, what: string): Promise<void> {
    await waitFor(() => {
      if (!predicate() && this.ended) throw new Error(`${this.name} has ended: ${this.#process.stderr}`);
      return predicate();
    }, { timeout: 20_000, what });
  }

  async #hear(): Promise<void> {
    try {
      for (;;) this.said.push(await this.#process.next());
    } catch {
      this.ended = true;
    }
  }
}

/** Processes that have begun and do nothing yet. */
export async function members(count: number, server: FixtureProcess, directory: string, options: ConnectOptions = {}): Promise<Member[]> {
  return Promise.all(Array.from({ length: count }, (_, i) => new Member(`member ${i + 1}`, server, directory, options).ready()));
}

/** Whose streams stand at the server now. Every client of a test says its name. */
export async function streamsOf(server: FixtureProcess): Promise<WireEntry[]> {
  return (await wireOf(server, 'GET')).filter(({ status, endedBy }) => status === 200 && !endedBy);
}

/** Who wants and who has a lock of a store. */
export interface Watched {
  readonly store: Store;
  /** Every lock that was asked for, in order. */
  readonly asked: string[];
  /** Every lock that was given. */
  readonly given: Lock[];
}

export function watched(base: Store): Watched {
  const asked: string[] = [];
  const given: Lock[] = [];
  const store = altered(base, {
    async lock(key, options) {
      asked.push(key);
      const lock = await base.lock(key, options);
      given.push(lock);
      return lock;
    },
  });
  return { store, asked, given };
}
