import type { JSONRPCMessage, JSONRPCRequest, JSONRPCResponse, RequestId } from '@modelcontextprotocol/sdk/types.js';
import type { Link } from '../links/link.ts';

interface Question {
  readonly link: Link;
  readonly id: RequestId;
}

/** Questions that are still to be answered, at the most: the oldest are let go. */
const MOST_QUESTIONS = 10_000;

/**
 * The server's own requests (sampling, elicitation, roots). Servers count theirs from 0 in every session, so after a session was
 * lost a late answer could meet the new one's question of the same number. The client sees numbers of ours, and each answer goes
 * back over the link that its question came from, or nowhere.
 */
export class Inbound {
  readonly #questions = new Map<RequestId, Question>();
  /** From 1 on: the SDK does not cancel a request with the id 0. */
  #nextId = 1;

  /** A request or notification of the server, as the client is to see it; `undefined` where it concerns nothing any more. */
  receive(message: JSONRPCMessage, link: Link): JSONRPCMessage | undefined {
    if (!('method' in message)) return message;
    if ('id' in message) return this.#ask(message, link);
    if (message.method !== 'notifications/cancelled') return message;
    const id = this.#find(link, message.params?.['requestId']);
    return id === undefined ? undefined : { ...message, params: { ...message.params, requestId: id } };
  }

  /** Where an answer goes, and under which id. */
  answer(message: JSONRPCResponse): { link: Link; message: JSONRPCResponse } | undefined {
    const id = message.id as RequestId;
    const question = this.#questions.get(id);
    if (!question) return undefined;
    this.#questions.delete(id);
    return { link: question.link, message: { ...message, id: question.id } };
  }

  clear(): void {
    this.#questions.clear();
  }

  #ask(message: JSONRPCRequest, link: Link): JSONRPCMessage {
    const id = this.#nextId++;
    this.#questions.set(id, { link, id: message.id });
    if (this.#questions.size > MOST_QUESTIONS) this.#questions.delete(this.#questions.keys().next().value as RequestId);
    return { ...message, id };
  }

  #find(link: Link, asked: unknown): RequestId | undefined {
    for (const [id, question] of this.#questions) if (question.link === link && question.id === asked) return id;
    return undefined;
  }
}
