import type { ActiveSession } from './state.ts';

/** What a resumption token says: which call on which session, and from which event on its answer's stream goes on. */
export interface ResumptionToken {
  /** Names the session without giving it away: whoever has a session id can act as its client. */
  readonly createdAt: number;
  readonly wireId: number;
  cursorOn(session: ActiveSession): string;
}

const SHAPE = /^mcp-reprise:1:(\d{1,16}):(\d{1,16}):(.{1,4096})$/s;

export function writeToken(session: ActiveSession, wireId: number, eventId: string): string {
  return `mcp-reprise:1:${session.createdAt}:${wireId}:${masked(eventId, session.id)}`;
}

/** Reads a token. Throws a `TypeError` where it is none of ours. */
export function readToken(token: unknown): ResumptionToken {
  const [, createdAt, wireId, event = ''] = (typeof token === 'string' && SHAPE.exec(token)) || [];
  if (createdAt === undefined || !Number.isSafeInteger(Number(wireId))) throw new TypeError('resumptionToken must be one that mcp-reprise gave to onresumptiontoken');
  return { createdAt: Number(createdAt), wireId: Number(wireId), cursorOn: ({ id }) => unmasked(event, id) };
}

/** Some servers make their event ids of the session id: `%s` stands for it. */
function masked(eventId: string, secret: string | undefined): string {
  const parts = secret === undefined ? [eventId] : eventId.split(secret);
  return parts.map((part) => part.replaceAll('%', '%25')).join('%s');
}

function unmasked(event: string, secret = ''): string {
  return event
    .split('%s')
    .map((part) => part.replaceAll('%25', '%'))
    .join(secret);
}
