import type { WireEntry } from '../../test/support/contract.ts';

const startedAt = performance.now();
const paint = process.stdout.isTTY ? (code: number, text: string) => `\u001b[${code}m${text}\u001b[0m` : (_code: number, text: string) => text;
let held = 0;
let failed = 0;

export const seconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s`;

export function act(title: string, lookAt: string): void {
  console.log(`\n${paint(1, title)}\n   ${paint(2, lookAt)}`);
}

export function note(who: string, what: string): void {
  line(who, what);
}

/** What the bare SDK does in the same situation. It proves nothing of ours. */
export function verdict(what: string): void {
  line('bare SDK', what);
}

export function check(claim: string, holds: boolean): void {
  if (holds) held++;
  else failed++;
  console.log(`${' '.repeat(22)}${holds ? paint(32, '✓') : paint(31, '✗')} ${claim}`);
}

/** The requests that the server saw, one a line; the same ones in a row are counted. */
export function requests(entries: readonly WireEntry[]): void {
  const lines = entries.map(describe);
  for (let i = 0; i < lines.length; ) {
    let same = 1;
    while (lines[i + same] === lines[i]) same++;
    console.log(`${' '.repeat(22)}  ${paint(2, `│ ${lines[i]}${same > 1 ? `  ×${same}` : ''}`)}`);
    i += same;
  }
}

export function finish(): void {
  console.log(`\n${failed === 0 ? paint(32, 'Everything held.') : paint(31, 'Not everything held.')} ${held} passed, ${failed} failed, in ${seconds(performance.now() - startedAt)}`);
  process.exitCode = failed === 0 ? 0 : 1;
}

function line(who: string, what: string): void {
  const [first = '', ...rest] = wrap(what);
  console.log(`${(who ? seconds(performance.now() - startedAt) : '').padStart(8)}  ${paint(36, who.padEnd(11))} ${first}`);
  for (const each of rest) console.log(`${' '.repeat(22)}${each}`);
}

/** Lines that fit into a terminal of 100 columns. */
function wrap(text: string): string[] {
  return text.match(/.{1,76}(?:\s|$)/g) ?? [text];
}

function describe({ http, rpc, sessionId, protocolVersion, lastEventId, status }: WireEntry): string {
  const what = http === 'POST' ? `${rpc[0]?.method ?? 'answer'}${rpc[0]?.toolName ? ` ${rpc[0].toolName}` : ''}` : '';
  const session = sessionId ? `session ${sessionId.slice(0, 4)}…` : 'no session';
  const version = protocolVersion ? `, version ${protocolVersion}` : '';
  return `${`${http} ${what}`.padEnd(32)} ${session}${version}${lastEventId ? ', Last-Event-ID' : ''} → ${status ?? '(open)'}`;
}
