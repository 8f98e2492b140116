import type { EventBody, Line } from './line.ts';

/** Everything that was ever said on one stream of a session, and who hears it now. */
export class StreamLog {
  readonly id: string;
  readonly #keeps: boolean;
  readonly #events: { readonly text: string; readonly what: string }[] = [];
  #listener: { readonly body: EventBody; readonly line: Line } | undefined;
  #done = false;

  /** @param keeps - events have ids, and are told again to whoever goes on from one */
  constructor(id: string, keeps: boolean) {
    this.id = id;
    this.#keeps = keeps;
  }

  get heard(): boolean {
    return this.#listener !== undefined && !this.#listener.line.ended;
  }

  /** Somebody listens, from an event on, or from now on. */
  attach(body: EventBody, line: Line, from = this.#events.length): void {
    this.#listener = { body, line };
    for (const { text, what } of this.#events.slice(from)) body.write(text, what);
    if (this.#done) body.finish();
  }

  /** The number of events so far; whoever goes on after `id` goes on from the one that this returns, or not at all. */
  after(eventId: string): number | undefined {
    const [stream, n] = eventId.split('::');
    const at = Number(n);
    return stream === this.id && Number.isInteger(at) && at >= 0 && at < this.#events.length ? at + 1 : undefined;
  }

  /** Something to go on from, before anything is said; `retry` is in ms. */
  prime(retry?: number): void {
    if (this.#keeps) this.#say(`${retry === undefined ? '' : `retry: ${retry}\n`}id: ${this.id}::${this.#events.length}\ndata: \n\n`, 'a first event');
  }

  say(message: object, what: string): void {
    const id = this.#keeps ? `id: ${this.id}::${this.#events.length}\n` : '';
    this.#say(`event: message\n${id}data: ${JSON.stringify(message)}\n\n`, what);
  }

  /** The server lets go of its listener, as servers do that want to be polled. */
  release(): void {
    if (this.heard) this.#listener?.body.finish();
    this.#listener = undefined;
  }

  finish(): void {
    this.#done = true;
    this.release();
  }

  cut(): void {
    this.#listener?.line.cut();
    this.#listener = undefined;
  }

  #say(text: string, what: string): void {
    if (this.#keeps) this.#events.push({ text, what });
    if (this.heard) this.#listener?.body.write(text, what);
  }
}
