import type { JSONRPCNotification, JSONRPCResponse } from '@modelcontextprotocol/sdk/types.js';
import { OutcomeUnknownError, reasonOf, SessionLostError } from '../errors.ts';
import type { Ending } from '../links/link.ts';
import { DEFAULTS, type SessionOptions } from '../options.ts';
import type { PendingCall } from './correlator.ts';
import type { Lifecycle } from './lifecycle.ts';
import { describeRequest, ensureTaken, errorOf, notSentBecause } from './outcome.ts';
import { Parcels, type Place } from './parcel.ts';
import type { ActiveSession } from './state.ts';
import { readToken, writeToken } from './token.ts';
import { whyNotResumed } from './transmit.ts';
import { limit, type Wire } from './wire.ts';

/** How many sessions a call may meet, counting those that were taken up dead. */
const MOST_SESSIONS = 5;

/** Hears the token by which another process can wait for a call's answer; must not throw. */
type OnToken = (token: string) => void;

/** Brings the client's messages to the server, whatever becomes of its sessions meanwhile. */
export class Delivery {
  /** What goes out together. */
  readonly parcels = new Parcels((calls, session) => this.#send(calls, session));
  readonly #wire: Wire;
  readonly #lifecycle: Lifecycle;
  readonly #options: SessionOptions;

  constructor(wire: Wire, lifecycle: Lifecycle, options: SessionOptions) {
    this.#wire = wire;
    this.#lifecycle = lifecycle;
    this.#options = options;
  }

  /** One call, over as many sessions as it takes. The first time it goes with its parcel, if it has a place in one. */
  async run(call: PendingCall, { onToken, place }: { onToken?: OnToken | undefined; place?: Place | undefined } = {}): Promise<void> {
    try {
      await this.#run(call, onToken, place);
    } finally {
      place?.leave();
    }
  }

  async #run(call: PendingCall, onToken: OnToken | undefined, place: Place | undefined): Promise<void> {
    const what = describeRequest(call.request);
    let refusals = 0;
    for (let sessions = 1; ; sessions++) {
      const session = await this.#lifecycle.ready().catch((error: unknown) => {
        throw notSentBecause(error, what);
      });
      if (call.done) return;
      tellTokens(call, session, onToken);
      const ending = await (place && sessions === 1 ? place.send(call, session) : this.#send([call], session));
      if (ending.type === 'not-sent') this.#lifecycle.unreachable();
      if (call.done) return;
      if (!saysLost(ending)) throw errorOf(ending, what);

      // A session that was taken up, and was dead already, is no new one: the replay is still to come.
      if (!this.#lifecycle.isUnproven(session)) refusals++;
      this.#wire.withdraw(call);
      this.#lose(session, ending);
      if (this.#options.onSessionLost === 'fail') throw errorOf(ending, what);
      if (refusals > 1 || sessions > MOST_SESSIONS) {
        throw new SessionLostError(
          `The server refused ${what} on a new session too, as it had on the one before (${ending.failure.status}).`,
          { advice: 'It did not run. If the server has several replicas, the load balancer is probably not sticky.' },
        );
      }
    }
  }

  /**
   * Waits for the answer to a call that went out before, perhaps from another process: its stream is resumed. Nothing is sent, and so
   * nothing is sent again: where the stream cannot be resumed, nobody knows what became of the call.
   */
  async join(call: PendingCall, token: unknown, onToken: OnToken | undefined): Promise<void> {
    const what = describeRequest(call.request);
    const { createdAt, wireId, cursorOn } = readToken(token);
    // Whatever becomes of this attempt, the call itself was sent.
    call.sent = true;
    const session = await this.#lifecycle.ready().catch((error: Error) => {
      throw cannotJoin(what, `there is no session: ${reasonOf(error).replace(/\.$/, '')}`, error);
    });
    if (call.done) return;
    if (session.createdAt !== createdAt) throw cannotJoin(what, 'the session that it was sent on is not the present one');
    if (!session.link.listen) throw cannotJoin(what, 'streams cannot be resumed over this connection');
    tellTokens(call, session, onToken);
    const ending = await this.#wire.join(call, { wireId, cursor: cursorOn(session) }, session.link, () => this.#lifecycle.accepted(session));
    if (call.done) return;
    if (!ending) throw cannotJoin(what, 'this client waits for its answer already');
    if (saysLost(ending)) this.#lose(session, ending);
    throw cannotJoin(what, whyNotResumed(ending), 'error' in ending ? ending.error : undefined);
  }

  /** Shows that the session is alive by a request on it, and has it replaced where it is not. */
  async prove(): Promise<void> {
    const call = this.#wire.openOwn({ method: 'ping' });
    const stop = limit(call, this.#options.timeout?.connect ?? DEFAULTS.timeout.connect);
    await this.run(call).catch((error: unknown) => call.fail(error as Error));
    stop();
    this.#wire.close(call);
    // An error is an answer too.
    await call.settled;
  }

  async notify(message: JSONRPCNotification): Promise<void> {
    const session = await this.#lifecycle.ready();
    let ending = await this.#wire.post(session.link, message, this.#callTimeout);
    if (saysLost(ending)) {
      this.#lose(session, ending);
      if (this.#options.onSessionLost !== 'fail') ending = await this.#wire.post((await this.#lifecycle.ready()).link, message, this.#callTimeout);
    }
    ensureTaken(ending, message.method);
  }

  /** An answer to a request of the server. If the session is gone by now, so is whoever asked. */
  async answer(message: JSONRPCResponse): Promise<void> {
    const ending = await this.#wire.answer(message, this.#callTimeout);
    if (ending && !saysLost(ending)) ensureTaken(ending, 'an answer to the server');
  }

  #send(calls: readonly PendingCall[], session: ActiveSession): Promise<Ending> {
    return this.#wire.send(calls, session.link, () => this.#lifecycle.accepted(session));
  }

  #lose(session: ActiveSession, { failure }: Lost): void {
    this.#lifecycle.lose(session, `the server forgot the session (it answered ${failure.status})`);
  }

  get #callTimeout(): number {
    return this.#options.timeout?.call ?? DEFAULTS.timeout.call;
  }
}

type Lost = Ending & { type: 'refused' };

function saysLost(ending: Ending): ending is Lost {
  return ending.type === 'refused' && ending.failure.verdict === 'session-lost';
}

function tellTokens(call: PendingCall, session: ActiveSession, onToken: OnToken | undefined): void {
  call.onCursor = onToken && ((eventId) => call.wireId !== undefined && onToken(writeToken(session, call.wireId, eventId)));
}

function cannotJoin(what: string, why: string, cause?: Error): OutcomeUnknownError {
  return new OutcomeUnknownError(`The answer to ${what} cannot be waited for: ${why}.`, { advice: 'It may or may not have run: look before you call it again.', cause });
}
