import { inspect } from 'node:util';
import { onTestFinished, vi } from 'vitest';
import type { ConnectOptions, ResilientClient, SessionEvents } from '../../src/index.ts';

const EVENTS = ['state', 'resumed', 'reset', 'degraded', 'cursorLost', 'warning', 'call', 'circuit', 'retry'] as const satisfies readonly (keyof SessionEvents)[];

/** Hears all that a program could log: events, errors, what goes to the console, and what the process warns of. */
export class Ears {
  readonly #heard: string[] = [];

  constructor() {
    const warned = (warning: Error): void => this.hear('a warning of the process', warning);
    process.on('warning', warned);
    const write = vi.spyOn(process.stderr, 'write').mockImplementation((text) => (this.hear('stderr', String(text)), true));
    const printed = (['log', 'info', 'warn', 'error', 'debug'] as const).map((level) => vi.spyOn(console, level).mockImplementation((...args) => this.hear(`console.${level}`, args)));
    onTestFinished(() => {
      process.off('warning', warned);
      for (const spy of [write, ...printed]) spy.mockRestore();
    });
  }

  /** Listeners for a client's events. `quiet`: nobody listens for warnings, so that the process gets them. */
  on({ quiet = false } = {}): NonNullable<ConnectOptions['on']> {
    const names = EVENTS.filter((name) => !quiet || name !== 'warning');
    return Object.fromEntries(names.map((name) => [name, (info: unknown) => this.hear(`the event ${name}`, info)]));
  }

  hear(where: string, what: unknown): void {
    this.#heard.push(`${where}: ${everythingIn(what)}`);
  }

  /** What a task fails with; what it succeeds with is the caller's. */
  async failure(where: string, task: Promise<unknown>): Promise<Error | undefined> {
    try {
      await task;
      return undefined;
    } catch (error) {
      this.hear(where, error);
      return error as Error;
    }
  }

  /** What a client tells of itself when it is asked. Its session's id is there to be asked for. */
  ask(client: ResilientClient): void {
    this.hear('history()', client.history());
    this.hear('metrics()', client.metrics());
    const { id: _id, metadata: _metadata, ...session } = client.session;
    this.hear('session', session);
    this.hear('its events in a log', client.events);
  }

  get heard(): number {
    return this.#heard.length;
  }

  /** Where each secret was heard, if anywhere. */
  leaks(secrets: Readonly<Record<string, string>>): string[] {
    return Object.entries(secrets).flatMap(([name, secret]) => {
      const forms = [secret, Buffer.from(secret).toString('base64').replace(/=+$/, '').slice(0, -2), Buffer.from(secret).toString('hex')];
      return this.#heard.filter((text) => forms.some((form) => text.toLowerCase().includes(form.toLowerCase()))).map((text) => `${name} in ${text.slice(0, 2_000)}`);
    });
  }
}

/** In each form in which a program may write it down. */
function everythingIn(what: unknown): string {
  const forms = [inspect(what, { depth: null, showHidden: true, maxArrayLength: null, maxStringLength: null }), inspect(what)];
  for (let each = what; each instanceof Error; each = each.cause) {
    forms.push(each.message, String(each), each.stack ?? '', json(each, Object.getOwnPropertyNames(each)));
    for (const name of Object.getOwnPropertyNames(each)) {
      const value = (each as unknown as Record<string, unknown>)[name];
      if (value instanceof Uint8Array) forms.push(Buffer.from(value).toString('latin1'));
    }
  }
  forms.push(json(what));
  return forms.join('\n');
}

function json(what: unknown, names?: string[]): string {
  try {
    return JSON.stringify(what, names) ?? '';
  } catch {
    return '';
  }
}
