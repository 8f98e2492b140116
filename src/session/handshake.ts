import type { InitializeRequest, InitializeResult } from '@modelcontextprotocol/sdk/types.js';
import { DeadlineError } from '../errors.ts';
import type { Connector, Ending, Link } from '../links/link.ts';
import type { Signal } from '../signals.ts';
import type { PendingCall } from './correlator.ts';
import { isPermanent } from '../links/requester.ts';
import { badServer, handshakeError } from './outcome.ts';
import { isInitializeResult, isSessionId } from './record.ts';
import { limit, resultOf, type Wire } from './wire.ts';

export interface HandshakeOptions {
  readonly params: InitializeRequest['params'];
  readonly wire: Wire;
  /** In ms. */
  readonly timeout: number;
  /** Prepares each link that is made. */
  readonly openLink: (connector: Connector) => Link;
  /** Gives the handshake up. */
  readonly signal?: AbortSignal | undefined;
}

/** What a handshake came to. */
export interface Handshake {
  readonly link: Link;
  readonly id: string | undefined;
  readonly initialized: InitializeResult;
  /** What the link was made by: the one that was given, or its fallback. */
  readonly connector: Connector;
}

/**
 * `initialize` on the wire, on a link of its own and without any session id: some servers refuse one that carries a dead id. It is
 * never cancelled on the server (2025-11-25, Lifecycle); `notifications/initialized` is left to the caller.
 */
export async function shakeHands(connector: Connector, options: HandshakeOptions): Promise<Handshake> {
  const { params, wire, timeout, signal } = options;
  const call = wire.openOwn({ method: 'initialize', params });
  const giveUp = (): void => call.abort.abort(signal?.reason);
  const stop = limit(call, timeout);
  signal?.addEventListener('abort', giveUp, { once: true });
  try {
    return await attempt(call, connector, options);
  } finally {
    stop();
    signal?.removeEventListener('abort', giveUp);
    wire.close(call);
  }
}

async function attempt(call: PendingCall, connector: Connector, options: HandshakeOptions): Promise<Handshake> {
  const link = options.openLink(connector);
  let sessionId: string | undefined;
  try {
    const ending = await sendOver(link);
    if (call.done) return judge(link, sessionId, await resultOf(call), connector);
    const fallback = ending.type === 'refused' ? connector.fallback?.(ending.failure) : undefined;
    const failed = (): Error => handshakeError(ending, connector.address?.url ?? 'the server', link.kind === 'pipe');
    if (!fallback) throw failed();
    void link.close().catch(() => {});
    const handshake = await attempt(call, fallback, options).catch((error: unknown) => {
      // Two transports failed: the first one's word is the better explanation.
      throw error instanceof DeadlineError ? error : failed();
    });
    connector.close();
    return handshake;
  } catch (error) {
    void link.close().catch(() => {});
    throw error;
  }

  async function sendOver(over: Link): Promise<Ending> {
    try {
      await Promise.race([over.open(), aborted(call.abort.signal)]);
    } catch (error) {
      return { type: 'not-sent', error: error as Error, permanent: isPermanent(error) };
    }
    return options.wire.send([call], over, (head) => (sessionId = head.sessionId));
  }
}

/** Rejects when the signal aborts: a pipe may never open. */
function aborted(signal: Signal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason as Error);
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
  });
}

function judge(link: Link, id: string | undefined, initialized: unknown, connector: Connector): Handshake {
  if (!isInitializeResult(initialized)) throw badServer('The server answered initialize with something that is not an InitializeResult');
  if (id !== undefined && !isSessionId(id)) throw badServer('The server gave a session id that the protocol does not allow (1 to 1024 visible ASCII characters)');
  link.adopt({ id, protocolVersion: initialized.protocolVersion });
  return { link, id, initialized, connector };
}
