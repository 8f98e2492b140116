import type { JSONRPCMessage } from '@modelcontextprotocol/sdk/types.js';
import type { Ending, Exchange, Link } from '../links/link.ts';
import { afterIdle, after, type Backoff, backoffDelay, sleep } from '../timers.ts';
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
 * Sends a call over a link and stays with it until it is settled or nothing more can come for it. A broken stream is resumed
 * from its newest event id, under the same request id, for as long as the call is waited for.
 *
 * @returns how it ended; of no interest when the call is settled
 */
export async function transmit(call: PendingCall, link: Link, correlator: Correlator, host: TransmitHost): Promise<Ending> {
  const message = correlator.dispatch(call);
  let letGo = (): void => {};
  const end = (): void => call.abort.abort(new Error('the call is settled'));
  call.onDone(() => {
    // A pipe has no stream of this call's own that could end by itself.
    if (link.kind === 'pipe') end();
    else letGo = afterIdle(GRACE, end);
  });
  try {
    let hint = 0;
    const exchange: Exchange = {
      signal: call.abort.signal,
      onDispatched: () => (call.sent = true),
      hear: host.hear,
      onAccepted: host.onAccepted,
      onEventId: (id) => (call.cursor = id),
      onRetryHint: (delay) => (hint = clampHint(delay)),
    };
    const ending = await link.send(message, exchange);
    if (call.done || call.cursor === undefined || !canResume(ending)) return handOver(ending, call, host);
    return await resume(call, link, host, ending, hint);
  } finally {
    call.onDone(undefined);
    letGo();
  }
}

async function resume(call: PendingCall, link: Link, host: TransmitHost, broken: Ending, firstHint: number): Promise<Ending> {
  if (!link.listen) return broken;
  const { signal } = call.abort;
  let hint = firstHint;
  let silence = SILENCE.first;
  for (let attempt = 0; ; attempt++) {
    const delay = Math.max(hint, attempt === 0 ? 0 : backoffDelay(RESUME, attempt - 1));
    if (delay > 0) await sleep(delay, signal).catch(() => {});
    if (call.done || signal.aborted) return { type: 'aborted' };

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
      signal: round.signal,
      hear: (message) => {
        silent = false;
        waitForMore();
        host.hear(message);
      },
      onAccepted: (head) => {
        waitForMore();
        host.onAccepted(head);
      },
      onEventId: (id) => (call.cursor = id),
      onRetryHint: (next) => (hint = clampHint(next)),
    };
    const ending = await link.listen(exchange, call.cursor);
    stopWaiting();
    signal.removeEventListener('abort', stopRound);
    if (call.done || signal.aborted) return { type: 'aborted' };

    if (!silent) {
      attempt = 0;
      silence = SILENCE.first;
    } else if (ending.type === 'aborted') {
      attempt = 0;
      silence = Math.min(silence * 2, SILENCE.longest);
    }
    if (ending.type === 'refused') {
      const { status, verdict, retryAfter } = ending.failure;
      // 409: the server has not noticed yet that the old stream is gone.
      if (status !== 409 && verdict !== 'busy' && verdict !== 'unknown') return cannotResume(ending);
      hint = Math.max(hint, clampHint(retryAfter ?? 0));
    } else if (ending.type === 'denied') return cannotResume(ending);
  }
}

function canResume(ending: Ending): boolean {
  return ending.type === 'ended' || ending.type === 'cut';
}

/** The call was sent, so a refusal to resume says nothing of what became of it. */
function cannotResume(ending: Ending & { type: 'refused' | 'denied' }): Ending {
  const why = ending.type === 'refused' ? `the server refused to resume its stream with ${ending.failure.status}${ending.failure.text ? ` (${ending.failure.text})` : ''}` : ending.error.message;
  return { type: 'cut', error: new Error(why) };
}

/** A JSON-RPC error for this very request is its answer, whatever HTTP status it came under. */
function handOver(ending: Ending, call: PendingCall, host: TransmitHost): Ending {
  if (ending.type !== 'refused') return ending;
  const { status, verdict, error } = ending.failure;
  if (!error || error.id !== call.wireId) return ending;
  // What says "not now", "not you" or "no such session" is for us to deal with.
  if (verdict !== 'session-lost' && status !== 401 && status !== 429) host.hear(error);
  return ending;
}
