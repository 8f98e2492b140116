import type { JSONRPCErrorResponse, JSONRPCMessage, JSONRPCRequest, JSONRPCResultResponse, ProgressToken, RequestId } from '@modelcontextprotocol/sdk/types.js';
import type { Link } from '../links/link.ts';
import { Abort } from '../signals.ts';

export type Answer = JSONRPCResultResponse | JSONRPCErrorResponse;

/** One request of the client, from the moment it is made until it is settled, however often it goes over the wire. */
export class PendingCall {
  readonly request: JSONRPCRequest;
  /** Ends what is on the wire for this call. */
  readonly abort = new Abort();
  /** `undefined`: the client gave the call up and waits for nothing. */
  readonly settled: Promise<Answer | undefined>;
  /** What carries it now. */
  link: Link | undefined;
  /** The id under which it went out last; `undefined` until then, and once a lost session has refused it. */
  wireId: number | undefined;
  /** Hears from which event on its answer's stream can be resumed, each time that this moves while the answer has not come. */
  onCursor: ((eventId: string) => void) | undefined;
  /** Until this settles the server must not be told that the call is cancelled; `undefined`: it may be told at once. */
  cancellable: Promise<void> | undefined;
  readonly #onAnswer: ((answer: Answer) => void) | undefined;
  #resolve!: (answer: Answer | undefined) => void;
  #reject!: (error: Error) => void;
  #done = false;
  #onDone: (() => void) | undefined;

  /** @param onAnswer - hears the answer in the order in which the server's messages came, before anyone who awaits it */
  constructor(request: JSONRPCRequest, onAnswer?: (answer: Answer) => void) {
    this.request = request;
    this.#onAnswer = onAnswer;
    this.settled = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Whoever waits hears of it; an internal call that nobody waits for must not end the process (G11).
    this.settled.catch(() => {});
  }

  get done(): boolean {
    return this.#done;
  }

  /** Whether the server may have it. */
  sent = false;

  /** The stream moved on. Never told once the answer was heard: a cursor that is past the answer would miss it. */
  moved(eventId: string): void {
    if (!this.#done) this.onCursor?.(eventId);
  }

  answer(answer: Answer): void {
    if (!this.#finish()) return;
    this.#onAnswer?.(answer);
    this.#resolve(answer);
  }

  fail(error: Error): void {
    if (this.#finish()) this.#reject(error);
  }

  /** The client no longer wants it. */
  drop(): void {
    if (this.#finish()) this.#resolve(undefined);
  }

  /** Calls `task` when the call is settled, or at once if it is. One task at a time. */
  onDone(task: (() => void) | undefined): void {
    this.#onDone = task;
    if (this.#done) task?.();
  }

  #finish(): boolean {
    if (this.#done) return false;
    this.#done = true;
    this.#onDone?.();
    return true;
  }
}

/**
 * Puts ids on what goes out and finds whom an answer is for.
 *
 * The SDK counts its ids from 0, so two processes on one session would get each other's answers. On the wire every request gets
 * a number of its own, counted from a random start: of all processes that ever attach to a session no two meet (among 1,000
 * processes of a million calls each the chance is 1 in 9,000). A request that is sent again gets a new one, as the spec demands
 * (2025-11-25, Basic Protocol, Requests).
 */
export class Correlator {
  readonly #byWireId = new Map<number, PendingCall>();
  readonly #byClientId = new Map<RequestId, PendingCall>();
  /** Progress tokens that outlive their call: those of tasks. Bounded; the oldest go first. */
  readonly #taskTokens = new Map<number, ProgressToken>();
  readonly #random: () => number;
  /** Known with the first request: what random numbers take is loaded while that waits for its connection. */
  #nextId: number | undefined;
  #dropped = 0;

  constructor(random: () => number = randomStart) {
    this.#random = random;
  }

  /** Messages of the server that belong to no request of ours: foreign, late, repeated or wrongly typed ids. */
  get dropped(): number {
    return this.#dropped;
  }

  get pending(): readonly PendingCall[] {
    return [...this.#byClientId.values()];
  }

  get isIdle(): boolean {
    return this.#byClientId.size === 0;
  }

  /** Takes up a request of the client, so that it can be cancelled by the id that the client knows. */
  open(request: JSONRPCRequest, onAnswer?: (answer: Answer) => void): PendingCall {
    const call = new PendingCall(request, onAnswer);
    this.#byClientId.set(request.id, call);
    return call;
  }

  find(clientId: RequestId): PendingCall | undefined {
    return this.#byClientId.get(clientId);
  }

  /** Forgets a call: nothing that still comes for it is handed over. */
  close(call: PendingCall): void {
    this.#byWireId.delete(call.wireId as number);
    if (this.#byClientId.get(call.request.id) === call) this.#byClientId.delete(call.request.id);
  }

  /** The server has nothing of the call any more: there is no answer to expect and nothing to cancel. */
  withdraw(call: PendingCall): void {
    this.#byWireId.delete(call.wireId as number);
    call.wireId = undefined;
    call.sent = false;
  }

  /** The message to send for a call, under an id that was never used before. */
  dispatch(call: PendingCall): JSONRPCRequest {
    this.withdraw(call);
    // The id of a call that was joined may be any.
    let id = (this.#nextId ??= this.#random());
    while (this.#byWireId.has(id)) id++;
    this.#nextId = id + 1;
    this.#register(call, id);
    const { params } = call.request;
    if (params?._meta?.progressToken === undefined) return { ...call.request, id };
    return { ...call.request, id, params: { ...params, _meta: { ...params._meta, progressToken: id } } };
  }

  /** Waits for the answer to a call that went out before, from whatever process. Returns false where one of ours waits for it already. */
  join(call: PendingCall, wireId: number): boolean {
    if (this.#byWireId.has(wireId)) return false;
    this.#register(call, wireId);
    return true;
  }

  /**
   * Takes in a message of the server. Answers settle their call; what remains for the client is returned, with the ids that the
   * client knows.
   */
  receive(message: JSONRPCMessage): JSONRPCMessage | undefined {
    if (!('method' in message)) {
      // An id of another type is found nowhere: to a map '5' is not 5.
      const call = this.#byWireId.get(message.id as number);
      if (!call) {
        this.#dropped++;
        return undefined;
      }
      this.#keepTaskToken(call, message);
      this.close(call);
      call.answer({ ...message, id: call.request.id });
      return undefined;
    }
    if (message.method !== 'notifications/progress') return message;
    const original = this.#originalToken(message.params?.['progressToken'] as number);
    if (original === undefined) {
      this.#dropped++;
      return undefined;
    }
    return { ...message, params: { ...message.params, progressToken: original } };
  }

  #register(call: PendingCall, wireId: number): void {
    call.wireId = wireId;
    this.#byWireId.set(wireId, call);
  }

  #originalToken(wireToken: number): ProgressToken | undefined {
    return this.#byWireId.get(wireToken)?.request.params?._meta?.progressToken ?? this.#taskTokens.get(wireToken);
  }

  #keepTaskToken(call: PendingCall, message: Answer): void {
    const token = call.request.params?._meta?.progressToken;
    if (token === undefined || !('result' in message) || message.result['task'] === undefined) return;
    this.#taskTokens.set(message.id as number, token);
    if (this.#taskTokens.size > MOST_TASK_TOKENS) this.#taskTokens.delete(this.#taskTokens.keys().next().value as number);
  }
}

const MOST_TASK_TOKENS = 1000;
/** Room above the highest start, so that ids stay exact integers however long the process lives. */
const ROOM = 2 ** 40;

function randomStart(): number {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2)) as unknown as [number, number];
  const fraction = ((high % 2 ** 21) * 2 ** 32 + low) / 2 ** 53;
  return 1 + Math.floor(fraction * (Number.MAX_SAFE_INTEGER - ROOM));
}
