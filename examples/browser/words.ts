import type { StateName } from 'mcp-reprise';
import type { MarkKind, Outcome } from './chronicle.ts';

/** Names, signs and colours of all that the picture shows. What a colour says, a sign or a word says too. */

/** A colour of style.css. */
export type Tone = 'good' | 'busy' | 'warn' | 'bad' | 'note' | 'off';

export const STATES: Readonly<Record<StateName, { readonly tone: Tone; readonly text: string }>> = {
  idle: { tone: 'off', text: 'Nothing has been done yet.' },
  loading: { tone: 'busy', text: 'The store is asked for a session.' },
  negotiating: { tone: 'busy', text: 'A handshake with the server is under way.' },
  resuming: { tone: 'busy', text: 'A stored session is in use; the first answer will prove it.' },
  ready: { tone: 'good', text: 'Calls go out, and notifications are heard.' },
  degraded: { tone: 'warn', text: 'Calls go out; the notification stream is down and will be opened again.' },
  lost: { tone: 'bad', text: 'The server has forgotten the session; the next call gets a new one.' },
  backoff: { tone: 'warn', text: 'The lost session could not be replaced yet; it will be tried again.' },
  authorizing: { tone: 'warn', text: 'You have to sign in first.' },
  failed: { tone: 'bad', text: 'There is no connection.' },
  closing: { tone: 'off', text: 'The client is leaving.' },
  closed: { tone: 'off', text: 'The client has left; the session is kept.' },
};

export const OUTCOMES: Readonly<Record<Outcome, { readonly tone: Tone; readonly sign: string; readonly text: string }>> = {
  pending: { tone: 'busy', sign: '…', text: 'under way' },
  answered: { tone: 'good', sign: '✓', text: 'answered' },
  error: { tone: 'bad', sign: '!', text: 'answered with an error' },
  unknown: { tone: 'bad', sign: '?', text: 'outcome unknown' },
  refused: { tone: 'warn', sign: '✕', text: 'refused: it did not run' },
  'not-sent': { tone: 'warn', sign: '✕', text: 'not sent: it did not run' },
  left: { tone: 'off', sign: '↷', text: 'the page left' },
};

/** A shape around (0, 0), at most 14 across; `line`: drawn by its outline only. */
export const MARKS: Readonly<Record<MarkKind, { readonly tone: Tone; readonly text: string; readonly path: string; readonly line?: true }>> = {
  retry: { tone: 'warn', text: 'sent again', path: 'M4.3-2.6A5 5 0 1 0 5 1.2M5.2-6.2V-2.2H1.2', line: true },
  resumed: { tone: 'good', text: 'session resumed', path: 'M-4-5.5 6 0-4 5.5Z' },
  reset: { tone: 'bad', text: 'session reset', path: 'M0-6.8 6.8 0 0 6.8-6.8 0Z' },
  degraded: { tone: 'warn', text: 'stream down', path: 'M-6.3-4.8H6.3L0 6Z' },
  cursorLost: { tone: 'bad', text: 'something may be missed', path: 'M-7 0H-3.4M3.4 0H7M-.2-5-2.4 5M2.4-5 .2 5', line: true },
  warning: { tone: 'warn', text: 'warning', path: 'M0-6.3 6.8 5.5H-6.8Z', line: true },
  reload: { tone: 'off', text: 'page reloaded', path: 'M-5-6H2L5-3V6H-5Z', line: true },
  notification: { tone: 'note', text: 'notification', path: 'M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0' },
};

export const clock = (time: number): string => new Date(time).toLocaleTimeString('en-GB');

export const lasted = (ms: number): string => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
