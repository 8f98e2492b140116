import type { JSONRPCErrorResponse, JSONRPCMessage } from '@modelcontextprotocol/sdk/types.js';
import type { Ending, Exchange, Link } from '../links/link.ts';
import { afterIdle, after, type Backoff, backoffDelay } from '../timers.ts';
import { Abort, type Signal } from '../signals.ts';
import { nap } from '../wake.ts';
import type { Correlator, PendingCall } from './correlator.ts';
import { clampHint } from './hints.ts';

/** What a transmission tells its session while it lasts. */
export interface TransmitHost {
  hear(message: JSONRPCMessage): void;
  /** The server took the request (2xx), or gave an event stream for it. */
  onAccepted(head: { readonly sessionId: string | undefined }): void;
}

/** After its answer a stream should end by itself, so that its connection can be used again; one that does not is cut, after ms. */
const GRACE = 1000;
/** Before a broken stream is resumed; the first time at once. */
const RESUME: Backoff = { min: 100, max: 5000, factor: 2, floor: 0.5 };
/**
 * A resumed stream on which nothing comes for this long (ms, doubled up to the longest) is asked for again: some servers replay
 * what they have and then forget that the stream is being listened to.
 */
const SILENCE = { first: 2000, longest: 30_000 };

/**
 * Sends a call over a link, or several in one array, and stays until all are settled or nothing more can come for them. A broken
 * stream is resumed from its newest event id, under the same request ids, for as long as one of the calls is waited for.
 *
 * @returns how it ended: what that means is for each call to know that is not settled
 */
export async function transmit(calls: readonly PendingCall[], link: Link, correlator: Correlator, host: TransmitHost): Promise<Ending> {
  const messages = calls.map((call) => correlator.dispatch(call));
  const passage = new Passage(calls, link, host);
  try {
    const [first] = messages;
    const ending = await link.send(messages.length === 1 && first ? first : messages, passage.exchange());
    // Only where that is all it said, to the end: otherwise some of it may be running.
    if (passage.refusal && ending.type === 'ended') return refusedArray(passage.refusal);
    if (passage.over || passage.cursor === undefined || !canResume(ending)) return handOver(ending, calls, host);
    const resumed = await resume(passage, link);
    return resumed.type === 'refused' || resumed.type === 'denied' ? cannotResume(resumed) : resumed;
  } finally {
    passage.close();
  }
}

/** The same for a call that went out before, from whatever process: nothing is sent, its stream is resumed from `cursor`. */
export async function rejoin(call: PendingCall, cursor: string, link: Link, host: TransmitHost): Promise<Ending> {
  const passage = new Passage([call], link, host, cursor);
  try {
    return await resume(passage, link);
  } finally {
    passage.close();
  }
}

/** What calls that went out together share: one stream, and its end when nobody waits for anything on it any more. */
class Passage {
  /** From here the stream can be resumed. */
  cursor: string | undefined;
  /** How long the server asks to wait before that, in ms. */
  hint = 0;
  readonly #calls: readonly PendingCall[];
  readonly #link: Link;
  readonly #host: TransmitHost;
  /** A call that travels alone is its passage: what ends the one ends the other. */
  readonly #abort: Abort;
  #dispatched = false;
  #heard = 0;
  #refusal: JSONRPCErrorResponse | undefined;
  #letGo = (): void => {};
  #letCancel = (): void => {};
  readonly #onAbort = (): void => this.#endIfAbandoned(this.#calls.find(({ abort }) => abort.aborted)?.abort.reason);

  constructor(calls: readonly PendingCall[], link: Link, host: TransmitHost, cursor?: string) {
    this.#calls = calls;
    this.#link = link;
    this.#host = host;
    this.cursor = cursor;
    const [first] = calls;
    const alone = calls.length === 1 ? first : undefined;
    this.#abort = alone?.abort ?? new Abort();
    if (!alone) this.#travelTogether();
    for (const call of calls) {
      call.onDone(() => this.#settle());
      if (!alone) call.abort.signal.addEventListener('abort', this.#onAbort, { once: true });
    }
    this.#endIfAbandoned(first?.abort.signal.reason);
  }

  get signal(): Signal {
    return this.#abort.signal;
  }

  /** Nobody waits for anything any more. */
  get over(): boolean {
    return this.#calls.every(({ done }) => done);
  }

  /** The server refused the array as such: an error that is for no request of it is all that came. */
  get refusal(): JSONRPCErrorResponse | undefined {
    return this.#heard === 1 ? this.#refusal : undefined;
  }

  /** What the link is to know of it. */
  exchange(): Exchange {
    return {
      signal: this.signal,
      onDispatched: () => {
        this.#dispatched = true;
        for (const call of this.#calls) call.sent = true;
      },
      hear: (message) => this.hear(message),
      onAccepted: (head) => this.accepted(head),
      onEventId: (id) => this.move(id),
      onRetryHint: (delay) => (this.hint = clampHint(delay)),
    };
  }

  hear(message: JSONRPCMessage): void {
    this.#heard++;
    if (this.#calls.length > 1 && refusesRequest(message)) this.#refusal = message;
    this.#host.hear(message);
  }

  accepted(head: { readonly sessionId: string | undefined }): void {
    this.#letCancel();
    this.#host.onAccepted(head);
  }

  move(eventId: string): void {
    this.cursor = eventId;
    for (const call of this.#calls) call.moved(eventId);
  }

  /** Lets go of its calls: each may go on by itself. */
  close(): void {
    for (const call of this.#calls) {
      call.onDone(undefined);
      call.abort.signal.removeEventListener('abort', this.#onAbort);
      call.cancellable = undefined;
      if (this.#calls.length > 1 && !this.#dispatched) call.sent = false;
    }
    this.#letGo();
    this.#letCancel();
  }

  /**
   * In an array a call that is given up goes out, and runs, with the others all the same: from here on it counts as sent. And some
   * servers answer an array only when they have all its answers, of which a cancelled call gives none (the SDK's in JSON mode):
   * until one is known to answer each for itself, by the head of its stream, it is told of no cancellation.
   */
  #travelTogether(): void {
    const cancellable = new Promise<void>((resolve) => (this.#letCancel = resolve));
    for (const call of this.#calls) {
      call.sent = true;
      call.cancellable = cancellable;
    }
  }

  #settle(): void {
    if (!this.over) return;
    // A pipe has no stream of these calls' own that could end by itself.
    if (this.#link.kind === 'pipe') this.#end();
    else this.#endSoon();
  }

  #endSoon(): void {
    this.#letGo();
    this.#letGo = afterIdle(GRACE, () => this.#end());
  }

  #endIfAbandoned(reason: unknown): void {
    if (this.#calls.every(({ done, abort }) => done || abort.signal.aborted)) this.#end(reason);
  }

  #end(reason: unknown = new Error('the call is settled')): void {
    this.#letGo();
    this.#abort.abort(reason);
  }
}

async function resume(passage: Passage, link: Link): Promise<Ending> {
  if (!link.listen) return { type: 'cut', error: new Error('its stream cannot be resumed over this connection') };
  const { signal } = passage;
  let silence = SILENCE.first;
  for (let attempt = 0; ; attempt++) {
    const delay = Math.max(passage.hint, attempt === 0 ? 0 : backoffDelay(RESUME, attempt - 1));
    if (delay > 0) await nap(delay, signal, passage.hint).catch(() => {});
    if (passage.over || signal.aborted) return { type: 'aborted' };

    const round = new AbortController();
    const stopRound = (): void => round.abort(signal.reason);
    signal.addEventListener('abort', stopRound, { once: true });
    let silent = true;
    let stopWaiting = (): void => {};
    const waitForMore = (): void => {
      stopWaiting();
      stopWaiting = after(silence, () => round.abort(new Error('nothing came on the resumed stream')));
    };
    const exchange: Exchange = {
      ...passage.exchange(),
      signal: round.signal,
      hear: (message) => {
        silent = false;
        waitForMore();
        passage.hear(message);
      },
      onAccepted: (head) => {
        waitForMore();
        passage.accepted(head);
      },
    };
    const ending = await link.listen(exchange, passage.cursor);
    stopWaiting();
    signal.removeEventListener('abort', stopRound);
    if (passage.over || signal.aborted) return { type: 'aborted' };

    if (!silent) {
      attempt = 0;
      silence = SILENCE.first;
    } else if (ending.type === 'aborted') {
      attempt = 0;
      silence = Math.min(silence * 2, SILENCE.longest);
    }
    if (ending.type === 'refused') {
      const { status, verdict, retryAfter } = ending.failure;
      // 409: the server has not noticed yet that the old stream is gone, or another process still has it.
      if (status !== 409 && verdict !== 'busy' && verdict !== 'unknown') return ending;
      passage.hint = Math.max(passage.hint, clampHint(retryAfter ?? 0));
    } else if (ending.type === 'denied') return ending;
  }
}

function canResume(ending: Ending): boolean {
  return ending.type === 'ended' || ending.type === 'cut';
}

/** The call was sent, so a refusal to resume says nothing of what became of it. */
function cannotResume(ending: Ending & { type: 'refused' | 'denied' }): Ending {
  return { type: 'cut', error: new Error(whyNotResumed(ending)) };
}

/** The server's, or the authorization's, reason for not resuming a stream. */
export function whyNotResumed(ending: Ending): string {
  if (ending.type === 'denied') return ending.error.message;
  if (ending.type !== 'refused') return 'error' in ending ? ending.error.message : 'its stream was given up';
  const { status, text } = ending.failure;
  return `the server refused to resume its stream with ${status}${text ? ` (${text})` : ''}`;
}

/** "Invalid Request", said of nothing in particular (JSON-RPC 2.0, 5.1). */
function refusesRequest(message: JSONRPCMessage): message is JSONRPCErrorResponse {
  return 'error' in message && (message.id ?? null) === null && message.error.code === -32600;
}

/** A refusal under HTTP 200, as the refusal that it is. */
function refusedArray(error: JSONRPCErrorResponse): Ending {
  return { type: 'refused', failure: { status: 200, verdict: 'refused', retryAfter: undefined, error, text: error.error.message } };
}

/** A JSON-RPC error for one of these very requests is its answer, whatever HTTP status it came under. */
function handOver(ending: Ending, calls: readonly PendingCall[], host: TransmitHost): Ending {
  if (ending.type !== 'refused') return ending;
  const { status, verdict, error } = ending.failure;
  if (!error || !calls.some(({ wireId }) => wireId !== undefined && wireId === error.id)) return ending;
  // An array that was refused as a whole: each call will have its own answer when it goes out alone.
  if (calls.length > 1 && verdict === 'refused') return ending;
  // What says "not now", "not you" or "no such session" is for us to deal with.
  if (verdict !== 'session-lost' && status !== 401 && status !== 429) host.hear(error);
  return ending;
}
