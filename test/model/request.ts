/** One message of a client. */
export interface Message {
  readonly id?: number | string;
  readonly method?: string;
  readonly params?: { readonly name?: string; readonly uri?: string; readonly requestId?: number | string; readonly arguments?: { readonly nonce: string; readonly held?: boolean } };
}

/** One request, as it came. */
export interface Request {
  readonly method: string;
  readonly from: string;
  readonly sessionId: string | undefined;
  readonly lastEventId: string | undefined;
  readonly messages: readonly Message[];
  /** In a JSON array. */
  readonly together: boolean;
}

export function readRequest({ method = 'GET', headers, body }: RequestInit): Request {
  const given = headers as Record<string, string>;
  const parsed = typeof body === 'string' ? (JSON.parse(body) as Message | Message[]) : [];
  return {
    method,
    from: given['x-from'] ?? 'somebody',
    sessionId: given['mcp-session-id'],
    lastEventId: given['last-event-id'],
    messages: Array.isArray(parsed) ? parsed : [parsed],
    together: Array.isArray(parsed) && typeof body === 'string',
  };
}

export function nonceOf({ params }: Message): string {
  return String(params?.arguments?.nonce);
}

export function nameOfMessage(message: Message): string {
  return message.method === 'tools/call' ? nonceOf(message) : (message.method ?? 'an answer');
}

export function nameOf({ method, lastEventId, messages }: Request): string {
  if (method !== 'POST') return lastEventId === undefined ? method : `${method} from ${lastEventId}`;
  return messages.map(nameOfMessage).join(' + ');
}
