import { connectorFor } from '../links/connector.ts';
import { DEFAULTS, type SessionOptions } from '../options.ts';
import { expiring } from '../timers.ts';
import { END_TIMEOUT } from './negotiator.ts';
import type { SessionRecord } from './record.ts';

/** What the server of a session asks of whoever comes for it. */
export type SessionAccess = Pick<SessionOptions, 'headers' | 'fetch' | 'requestInit' | 'authProvider'>;

/**
 * Ends a session that nobody here is connected to on its server (DELETE), in 2 s at the most. Best effort: what the server says to it is
 * not our concern. Resolves to whether it said anything in time.
 */
export async function endSession({ url, id, initialized }: SessionRecord, access: SessionAccess): Promise<boolean> {
  const connector = connectorFor(url, { ...access, responseLimit: DEFAULTS.responseBytes });
  const link = connector.connect();
  const limit = expiring(END_TIMEOUT);
  link.adopt({ id, protocolVersion: initialized.protocolVersion });
  try {
    await link.end(limit);
    await link.close();
  } finally {
    connector.close();
  }
  return !limit.aborted;
}
