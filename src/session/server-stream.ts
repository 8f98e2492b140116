import type { JSONRPCMessage } from '@modelcontextprotocol/sdk/types.js';
import type { Ending, Link } from '../links/link.ts';
import { after, type Backoff, backoffDelay } from '../timers.ts';
import { nap } from '../wake.ts';
import { clampHint } from './hints.ts';

/** What the stream tells its session. */
export interface StreamHost {
  hear(message: JSONRPCMessage): void;
  /** The stream is open. */
  onUp(): void;
  onDown(reason: string, retrying: boolean): void;
  onCursor(eventId: string): void;
  onCursorLost(reason: string): void;
  /** Proves the session by a request of its own. Rejects, or renews the session, where it is lost. */
  prove(): Promise<void>;
}

/**
 * Half of each delay stays, and the delay grows until a message has come: a server that closes the stream at once sees at most 8
 * attempts in the first minute (0.25 + 0.5 + 1 + 2 + 4 + 8 + 15 + 15 s at the least), whatever the jitter.
 */
const RECONNECT: Backoff = { min: 500, max: 30_000, factor: 2, floor: 0.5 };

/**
 * The stream of a session on which the server speaks of its own accord (the GET of Streamable HTTP). It is optional for both sides:
 * whatever happens to it, calls go on.
 */
export class ServerStream {
  readonly #host: StreamHost;
  readonly #stop = new AbortController();

  /**
   * Opens the stream and keeps it open until {@link stop}.
   *
   * @param from - `cursor`: the event to go on from; `first`: it is the first stream of its session, so that there is nothing to miss
   */
  constructor(link: Link, host: StreamHost, from: { readonly cursor: string | undefined; readonly first: boolean }) {
    this.#host = host;
    void this.#run(link, from.cursor, from.first).catch(() => {});
  }

  stop(): void {
    this.#stop.abort(new Error('the stream was stopped'));
  }

  async #run(link: Link, firstCursor: string | undefined, first: boolean): Promise<void> {
    const host = this.#host;
    const { signal } = this.#stop;
    let cursor = firstCursor;
    let opened = !first;
    let attempt = 0;
    for (;;) {
      let heard = false;
      let hint = 0;
      const openedAt = performance.now();
      const resuming = cursor;
      const ending = await this.#open(link, cursor, {
        up: () => {
          if (opened && resuming === undefined) host.onCursorLost('the stream was opened again, and the server gave no event id to go on from');
          opened = true;
          host.onUp();
        },
        hear: (message) => {
          heard = true;
          host.hear(message);
        },
        cursor: (id) => {
          cursor = id;
          host.onCursor(id);
        },
        hint: (delay) => (hint = clampHint(delay)),
      });
      if (signal.aborted) return;

      if (ending.type === 'refused') {
        const { status, verdict, retryAfter, text } = ending.failure;
        const reason = `the server refused the stream with ${status}${text ? ` (${text})` : ''}`;
        if (status === 405) {
          host.onDown('the server offers no stream (405)', false);
          return;
        }
        const final = status !== 409 && (verdict === 'session-lost' || verdict === 'refused' || verdict === 'unauthorized');
        // The event may be too old, or the server may not replay at all (an SDK server answers 500 for both): go on from now.
        if (resuming !== undefined && (final || (status === 500 && attempt > 0))) {
          cursor = undefined;
          if (final) continue;
        } else if (final) {
          // Whether the session is gone or only this stream is not offered, a request of our own will tell.
          const proven = await host.prove().then(
            () => true,
            () => false,
          );
          if (signal.aborted) return;
          if (proven) {
            host.onDown(reason, false);
            return;
          }
        }
        hint = Math.max(hint, clampHint(retryAfter ?? 0));
        host.onDown(reason, true);
      } else {
        host.onDown(describeEnding(ending), true);
      }
      // Only a stream that lasted, or that the server itself ends at its own pace, begins anew: one that says a thing and closes would
      // have us come back for ever at once.
      if (heard && (performance.now() - openedAt >= LASTED || hint >= LASTED_HINT)) attempt = 0;
      await nap(Math.max(hint, backoffDelay(RECONNECT, attempt)), signal, hint);
      attempt++;
    }
  }

  /**
   * One attempt. With a cursor two streams are asked for, the old one to catch up and then a plain one: a server that registers the
   * old one as it should refuses the second (409), but some replay it and then never use it again (server-everything 2026.8.31), so
   * that only the second hears what comes next. The first to end ends both.
   */
  async #open(link: Link, cursor: string | undefined, on: StreamListener): Promise<Ending> {
    const listen = link.listen?.bind(link);
    if (!listen || this.#stop.signal.aborted) return { type: 'aborted' };
    const round = new AbortController();
    const abort = (): void => round.abort(this.#stop.signal.reason);
    this.#stop.signal.addEventListener('abort', abort, { once: true });
    let dismiss = (): void => {};
    const exchange = (onAccepted: () => void) => ({ signal: round.signal, hear: on.hear, onAccepted, onEventId: on.cursor, onRetryHint: on.hint });
    try {
      return await new Promise<Ending>((resolve) => {
        const openSecond = (): void => {
          void listen(exchange(() => {})).then((ending) => {
            if (ending.type !== 'refused') resolve(ending);
          });
        };
        const onAccepted = (): void => {
          on.up();
          if (cursor !== undefined) dismiss = after(SETTLING, openSecond);
        };
        void listen(exchange(onAccepted), cursor).then(resolve);
      });
    } finally {
      dismiss();
      this.#stop.signal.removeEventListener('abort', abort);
      round.abort(new Error('the stream ended'));
    }
  }
}

/** How long a stream must have stood to count as one that worked, and the least pace of a server that counts as one, in ms. */
const LASTED = 10_000;
const LASTED_HINT = 1000;

/** How long a resumed stream must have lasted before the second one is asked for, in ms. */
const SETTLING = 250;

interface StreamListener {
  up(): void;
  hear(message: JSONRPCMessage): void;
  cursor(eventId: string): void;
  hint(delay: number): void;
}

function describeEnding(ending: Ending): string {
  switch (ending.type) {
    case 'ended':
    case 'accepted':
      return 'the server closed the stream';
    case 'unreadable':
      return `what came on the stream cannot be read: ${ending.error.message}`;
    case 'cut':
      return `the stream broke off: ${ending.error.message}`;
    case 'not-sent':
      return `the server cannot be reached: ${ending.error.message}`;
    case 'denied':
      return `the stream needs authorization: ${ending.error.message}`;
    default:
      return 'the stream was stopped';
  }
}
