import type { JSONRPCMessage, JSONRPCRequest, JSONRPCResponse, RequestId } from '@modelcontextprotocol/sdk/types.js';
import type { Link } from '../links/link.ts';

interface Question {
  readonly link: Link;
  readonly id: RequestId;
}

/**
 * Questions that wait for their answer, or whose answer is on its way, at the most. What a server asks beyond that is dropped: each
 * answer is a request of its own, and a server that asks without end would have us make them without end.
 */
const MOST_QUESTIONS = 256;

/**
 * The server's own requests (sampling, elicitation, roots). Servers count theirs from 0 in every session, so after a session was
 * lost a late answer could meet the new one's question of the same number. The client sees numbers of ours, and each answer goes
 * back over the link that its question came from, or nowhere.
 */
export class Inbound {
  readonly #questions = new Map<RequestId, Question>();
  /** From 1 on: the SDK does not cancel a request with the id 0. */
  #nextId = 1;
  /** Answers that are on their way. */
  #underWay = 0;
  #dropped = 0;

  get dropped(): number {
    return this.#dropped;
  }

  /** A request or notification of the server, as the client is to see it; `undefined` where it concerns nothing any more. */
  receive(message: JSONRPCMessage, link: Link): JSONRPCMessage | undefined {
    if (!('method' in message)) return message;
    if ('id' in message) return this.#ask(message, link);
    if (message.method !== 'notifications/cancelled') return message;
    const id = this.#find(link, message.params?.['requestId']);
    return id === undefined ? undefined : { ...message, params: { ...message.params, requestId: id } };
  }

  /** Brings an answer to where its question came from, under the id that it has there; `undefined` where nobody waits for it any more. */
  async answer<T>(message: JSONRPCResponse, bring: (link: Link, message: JSONRPCResponse) => Promise<T>): Promise<T | undefined> {
    const id = message.id as RequestId;
    const question = this.#questions.get(id);
    if (!question) return undefined;
    this.#questions.delete(id);
    this.#underWay++;
    try {
      return await bring(question.link, { ...message, id: question.id });
    } finally {
      this.#underWay--;
    }
  }

  clear(): void {
    this.#questions.clear();
  }

  #ask(message: JSONRPCRequest, link: Link): JSONRPCMessage | undefined {
    if (this.#questions.size + this.#underWay >= MOST_QUESTIONS) {
      this.#dropped++;
      return undefined;
    }
    const id = this.#nextId++;
    this.#questions.set(id, { link, id: message.id });
    return { ...message, id };
  }

  #find(link: Link, asked: unknown): RequestId | undefined {
    for (const [id, question] of this.#questions) if (question.link === link && question.id === asked) return id;
    return undefined;
  }
}
