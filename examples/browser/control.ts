/** What is done to the server and the network, and what the server saw: nothing that a page of yours would have. */

/** The server as it sees itself. */
export interface ServerView {
  readonly url: string;
  readonly running: boolean;
  readonly network: boolean;
  /** The last runs of tools that do something, oldest first. */
  readonly runs: readonly { readonly id: string; readonly nonce: string; readonly finished?: boolean | undefined; readonly aborted?: boolean | undefined }[];
  /** How many runs there were, and how many of them were a second run of the same call. */
  readonly ran: number;
  readonly ranTwice: number;
  readonly sessions: number;
  /** Since the server was started the last time. */
  readonly handshakes: number;
  /** For notifications. */
  readonly streams: number;
}

export type Control = 'kill' | 'restart' | 'forget' | 'notify' | 'cut' | 'network-off' | 'network-on';

/** @throws Error with a text for people where it could not be done */
export async function control(what: Control): Promise<void> {
  const response = await fetch(`/control/${what}`, { method: 'POST' });
  if (!response.ok) throw new Error((await response.text()) || `The demo answered ${response.status}.`);
}

/** Tells what the server sees, now and whenever it changes; `undefined` where the demo has ended. Resolves with the first view. */
export function watchServer(onView: (view: ServerView | undefined) => void): Promise<ServerView> {
  return new Promise((resolve) => {
    const source = new EventSource('/control/events');
    source.addEventListener('error', () => onView(undefined));
    source.addEventListener('message', ({ data }: MessageEvent<string>) => {
      const view = JSON.parse(data) as ServerView;
      onView(view);
      resolve(view);
    });
  });
}
