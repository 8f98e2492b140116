import type { Connector } from './link.ts';
import { fetchRequester } from './requester.fetch.ts';
import type { Requester } from './requester.ts';
import type { CommandTarget } from './target.ts';

export function platformRequester(): Requester {
  return fetchRequester();
}

/** Where the tabs and workers of an origin hear of each other. */
export function openChannel(name: string): BroadcastChannel | undefined {
  try {
    return new BroadcastChannel(name);
  } catch {
    // There is none, or the page may not have it.
    return undefined;
  }
}

/** A browser tells no page why. */
export function hintOf(_error: Error): string {
  return '';
}

export function commandConnector({ command }: CommandTarget): Connector {
  throw new TypeError(`a command ("${command}") can be started on Node only; here the target must be a URL or a function that makes a transport`);
}
