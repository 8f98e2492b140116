import type { JSONRPCMessage, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse } from '@modelcontextprotocol/sdk/types.js';
import { ClosedError } from '../errors.ts';
import type { Ending, Link } from '../links/link.ts';
import { after } from '../timers.ts';
import { type Answer, Correlator, type PendingCall } from './correlator.ts';
import { Inbound } from './inbound.ts';
import { answeredByError, describeRequest, errorOf, late } from './outcome.ts';
import { rejoin, transmit, type TransmitHost } from './transmit.ts';

/** A request of our own that is not the client's: `initialize`, `ping`, what restores a session. */
export interface OwnRequest {
  readonly method: string;
  readonly params?: Record<string, unknown> | undefined;
}

/**
 * What goes over a session's links and what comes back: the ids, the calls in flight, and everything the server says. It knows
 * which call a message is for, and nothing of sessions.
 */
export class Wire {
  readonly #correlator = new Correlator();
  readonly #inbound = new Inbound();
  readonly #toClient: (message: JSONRPCMessage) => void;
  #ownIds = 0;
  /** What had become of the call that was cancelled last, at that moment. */
  #lastCancelled: 'sent' | 'not-sent' | undefined;
  #cancelHow: CancelHow = 'tell';
  /** Aborted by {@link shut}. */
  #scope = new AbortController();
  /** Calls whose exchange is under way: it outlasts the answer where the server holds its stream open. */
  readonly #travelling = new Set<PendingCall>();
  /** What ends the exchanges that no call owns: those of notifications and answers. */
  readonly #posts = new Set<AbortController>();

  /** @param toClient - hears what is meant for the client, under the ids that the client knows; must not throw */
  constructor(toClient: (message: JSONRPCMessage) => void) {
    this.#toClient = toClient;
  }

  get dropped(): number {
    return this.#correlator.dropped + this.#inbound.dropped;
  }

  /** Takes up a request of the client. */
  open(request: JSONRPCRequest, onAnswer: (answer: Answer) => void): PendingCall {
    return this.#correlator.open(request, onAnswer);
  }

  openOwn({ method, params }: OwnRequest): PendingCall {
    return this.#correlator.open({ jsonrpc: '2.0', id: `reprise-${++this.#ownIds}`, method, ...(params ? { params } : {}) });
  }

  /** Nothing that still comes for the call is handed over. */
  close(call: PendingCall): void {
    this.#correlator.close(call);
  }

  /** The call was refused with its session: until it is sent again it counts as not sent. */
  withdraw(call: PendingCall): void {
    this.#correlator.withdraw(call);
  }

  /** Sends a call over a link, or several in one array, and stays until they are settled, or nothing more can come for them. */
  async send(calls: readonly PendingCall[], link: Link, onAccepted?: TransmitHost['onAccepted']): Promise<Ending> {
    for (const call of calls) {
      call.link = link;
      this.#travelling.add(call);
    }
    try {
      return await transmit(calls, link, this.#correlator, this.#hostOn(link, onAccepted));
    } finally {
      for (const call of calls) this.#travelling.delete(call);
    }
  }

  /** Waits for the answer to a call that went out before under `wireId`; `undefined` where another call of ours waits for it. */
  async join(call: PendingCall, at: { readonly wireId: number; readonly cursor: string }, link: Link, onAccepted?: TransmitHost['onAccepted']): Promise<Ending | undefined> {
    if (!this.#correlator.join(call, at.wireId)) return undefined;
    call.link = link;
    this.#travelling.add(call);
    try {
      return await rejoin(call, at.cursor, link, this.#hostOn(link, onAccepted));
    } finally {
      this.#travelling.delete(call);
    }
  }

  /** Sends a request of our own over a link and returns its result. `timeout` in ms. */
  async ask(link: Link, request: OwnRequest, timeout: number): Promise<unknown> {
    const call = this.openOwn(request);
    const stop = limit(call, timeout);
    try {
      const ending = await this.send([call], link);
      if (!call.done) throw errorOf(ending, request.method);
      return await resultOf(call);
    } finally {
      stop();
      this.close(call);
    }
  }

  /** Sends a notification, or an answer. One that is not taken within `timeout` ms ends as `aborted`. */
  async post(link: Link, message: JSONRPCNotification | JSONRPCResponse, timeout: number): Promise<Ending> {
    const abort = new AbortController();
    this.#posts.add(abort);
    const stop = after(timeout, () => abort.abort(new Error('it was not taken in time')));
    try {
      return await link.send(message, { signal: abort.signal, hear: this.hearOn(link) });
    } finally {
      stop();
      this.#posts.delete(abort);
    }
  }

  /** Sends the client's answer to where the question came from; `undefined` where nobody waits for it any more. */
  async answer(message: JSONRPCResponse, timeout: number): Promise<Ending | undefined> {
    return this.#inbound.answer(message, (link, reply) => this.post(link, reply, timeout));
  }

  /** Runs what makes the client give a request up, and says what had become of that; `undefined` where it gave none up. */
  cancelling(cancel: () => void, how: CancelHow): 'sent' | 'not-sent' | undefined {
    this.#lastCancelled = undefined;
    this.#cancelHow = how;
    try {
      cancel();
    } finally {
      this.#cancelHow = 'tell';
    }
    return this.#lastCancelled;
  }

  /** The client gives a request up: the server is told, and its connection is closed. */
  async cancel(message: JSONRPCNotification): Promise<void> {
    const call = this.#correlator.find(message.params?.['requestId'] as string | number);
    if (!call) return;
    const { link, wireId, sent, cancellable } = call;
    const { signal } = this.#scope;
    const told = this.#cancelHow === 'tell';
    this.#lastCancelled = sent ? 'sent' : 'not-sent';
    this.close(call);
    call.drop();
    call.abort.abort(new Error('the call was cancelled'));
    // The spec forbids to cancel initialize (2025-11-25, Lifecycle); a request that never went out needs no cancelling.
    if (!told || !link || wireId === undefined || !sent || call.request.method === 'initialize') return;
    if (cancellable) {
      await cancellable;
      if (signal.aborted || !call.sent) return;
    }
    await this.post(link, { ...message, params: { ...message.params, requestId: wireId } }, CANCEL_TIMEOUT);
  }

  /** Takes in the server's messages, from whatever stream of a link they come. */
  hearOn(link: Link): (message: JSONRPCMessage) => void {
    return (message) => {
      const remaining = this.#correlator.receive(message);
      const forClient = remaining && this.#inbound.receive(remaining, link);
      if (forClient) this.#toClient(forClient);
    };
  }

  #hostOn(link: Link, onAccepted: TransmitHost['onAccepted'] = () => {}): TransmitHost {
    return { hear: this.hearOn(link), onAccepted };
  }

  /** Whether nothing is in flight. */
  get isIdle(): boolean {
    return this.#correlator.isIdle;
  }

  /** Ends everything in flight. Calls fail with `ClosedError`. */
  shut(): void {
    const closed = new Error('the client was closed');
    this.#scope.abort(closed);
    this.#scope = new AbortController();
    for (const call of this.#correlator.pending) {
      const became = call.sent ? 'It was sent and may or may not have run.' : 'It was not sent.';
      this.close(call);
      call.fail(new ClosedError(`The client was closed before ${describeRequest(call.request)} was answered.`, { advice: became, outcome: call.sent ? 'unknown' : 'not-sent' }));
      call.abort.abort(closed);
    }
    for (const call of this.#travelling) call.abort.abort(closed);
    this.#inbound.clear();
    for (const abort of this.#posts) abort.abort(closed);
  }
}

/** `'detach'`: the server is not told, so the call goes on there, for somebody to join it later. */
export type CancelHow = 'tell' | 'detach';

/** How long a cancellation may take, in ms: where the server takes nothing, as many would wait as there are calls. */
const CANCEL_TIMEOUT = 5000;

/** Fails a request of our own after `timeout` ms. Returns a function that lifts the limit. */
export function limit(call: PendingCall, timeout: number): () => void {
  return after(timeout, () => {
    const error = late(call.request.method, timeout);
    call.fail(error);
    call.abort.abort(error);
  });
}

/** The result of a settled request of our own. */
export async function resultOf(call: PendingCall): Promise<unknown> {
  const answer = await call.settled;
  if (!answer) throw new Error('the request was dropped');
  if ('error' in answer) throw answeredByError(call.request.method, answer.error);
  return answer.result;
}
