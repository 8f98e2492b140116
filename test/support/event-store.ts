import type { EventStore } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import type { JSONRPCMessage } from '@modelcontextprotocol/sdk/types.js';

type Send = (eventId: string, message: JSONRPCMessage) => Promise<void>;

/** Keeps events in order per stream. (The SDK's example sorts random ids and so loses some.) Event ids are `<streamId>::<n>`. */
export class OrderedEventStore implements EventStore {
  readonly #streams = new Map<string, JSONRPCMessage[]>();

  async storeEvent(streamId: string, message: JSONRPCMessage): Promise<string> {
    const events = this.#streams.get(streamId) ?? [];
    this.#streams.set(streamId, events);
    return `${streamId}::${events.push(message)}`;
  }

  async getStreamIdForEventId(eventId: string): Promise<string | undefined> {
    return this.#locate(eventId)?.streamId;
  }

  async replayEventsAfter(lastEventId: string, { send }: { send: Send }): Promise<string> {
    const found = this.#locate(lastEventId);
    if (!found) throw new Error(`Unknown event ${lastEventId}`);
    for (const [offset, message] of found.events.slice(found.n).entries()) {
      // Priming events are stored as empty objects and carry nothing to replay.
      if ('jsonrpc' in message) await send(`${found.streamId}::${found.n + offset + 1}`, message);
    }
    return found.streamId;
  }

  #locate(eventId: string) {
    const at = eventId.lastIndexOf('::');
    const streamId = eventId.slice(0, Math.max(at, 0));
    const n = Number(eventId.slice(at + 2));
    const events = this.#streams.get(streamId);
    return events && Number.isInteger(n) && n >= 1 && n <= events.length ? { streamId, n, events } : undefined;
  }
}
