import type { CallRecord, ResilientClient, StateName } from 'mcp-reprise';
import type { ServerView } from './control.ts';
import { svg } from './svg.ts';
import { clock, lasted, MARKS, OUTCOMES, STATES, type Tone } from './words.ts';

/** Puts things on the page. Texts only ever go in as texts. */

const LOG_LINES = 100;

export function part(name: string): HTMLElement {
  const element = document.querySelector<HTMLElement>(`[data-testid="${name}"], #${name}`);
  if (!element) throw new Error(`The page has no ${name}.`);
  return element;
}

function element(name: string, content: string | readonly Node[], kind = ''): HTMLElement {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (typeof content === 'string') made.textContent = content;
  else made.append(...content);
  return made;
}

export function showState(name: StateName): void {
  const { tone, text } = STATES[name];
  Object.assign(part('state'), { textContent: name, className: `pill ${tone}` });
  part('explained').textContent = text;
}

export function showHow(text: string): void {
  Object.assign(part('how'), { textContent: text, hidden: text === '' });
}

export function showClient(client: ResilientClient, heard: number): void {
  const { calls, retries, resets, openStreams } = client.metrics();
  const { createdAt, protocolVersion } = client.session;
  facts('facts', {
    'made at': createdAt === undefined ? '–' : clock(createdAt),
    protocol: protocolVersion ?? '–',
    'calls answered': calls.answered,
    'sent again': retries,
    resets,
    'notifications heard': heard,
    'streams of this tab': openStreams,
  });
  part('history').replaceChildren(...client.history().slice(-7).reverse().map(row));
}

function row({ call, name, method, outcome, attempts, duration, isError, error }: CallRecord): Node {
  const failed = outcome === 'answered' && (isError === true || error !== undefined);
  const { tone, sign, text } = OUTCOMES[failed ? 'error' : outcome];
  const said = element('span', `${sign} ${text.split(':')[0]}`, `tag ${tone}`);
  return element('tr', [element('td', `${call}. ${name ?? method}`), element('td', [said]), element('td', `${attempts}×`), element('td', lasted(duration))]);
}

export function showResult(tone: Tone, title: string, text = ''): void {
  const result = part('result');
  result.className = `card result ${tone}`;
  result.replaceChildren(element('strong', title), element('span', text));
}

export function say(tone: Tone, text: string): void {
  const log = part('log');
  const line = element('li', [element('time', clock(Date.now())), element('span', text)], tone);
  log.prepend(line);
  while (log.childElementCount > LOG_LINES) log.lastElementChild?.remove();
}

export function showServer(view: ServerView | undefined): void {
  chip('server-chip', view === undefined ? 'Demo ended' : `Server ${view.running ? 'running' : 'killed'}`, view?.running ? 'good' : 'bad');
  chip('network-chip', `Network ${view?.network ? 'on' : 'off'}`, view?.network ? 'good' : 'bad');
  if (!view) return;
  const { running, network, sessions, handshakes, streams, ran, ranTwice, runs } = view;
  for (const name of ['kill', 'forget', 'notify', 'cut']) control(name).disabled = !running;
  control('restart').disabled = false;
  const toggle = part('network') as HTMLButtonElement;
  toggle.dataset['control'] = network ? 'network-off' : 'network-on';
  toggle.replaceChildren(element('b', network ? 'Switch off' : 'Switch on'), element('small', network ? 'until switched on' : 'it is off now'));
  facts('server-facts', { sessions, handshakes, 'notification streams': streams, 'tools ran': ran, 'ran twice': ranTwice });
  part('runs').replaceChildren(
    ...[...runs].reverse().map(({ nonce, finished, aborted }) => {
      const [tone, text] = finished ? (['good', '✓ ran to its end'] as const) : aborted ? (['bad', '✕ was ended'] as const) : running ? (['busy', '… is running'] as const) : (['bad', '✕ died with the server'] as const);
      return element('li', [element('span', nonce), element('span', text, `tag ${tone}`)]);
    }),
  );
}

/** The signs of the picture, with their meaning. */
export function showLegend(): void {
  const bars = Object.values(OUTCOMES).map(({ tone, sign, text }) => element('li', [element('span', sign, `tag ${tone}`), new Text(text.split(':')[0])]));
  const marks = Object.values(MARKS).map(({ tone, path, line, text }) => {
    const picture = svg('svg', { viewBox: '-9 -9 18 18', width: 18, height: 18, class: `mark ${tone}${line ? ' outline' : ''}`, 'aria-hidden': 'true' });
    picture.append(svg('path', { d: path }));
    return element('li', [picture, new Text(text)]);
  });
  part('legend').replaceChildren(...bars, ...marks);
}

function control(name: string): HTMLButtonElement {
  return document.querySelector(`[data-control="${name}"]`) as HTMLButtonElement;
}

function chip(name: string, text: string, tone: Tone): void {
  Object.assign(part(name), { textContent: text, className: `chip dot ${tone}` });
}

function facts(name: string, values: Readonly<Record<string, string | number>>): void {
  const list = part(name);
  const pairs = Object.entries(values).map(([term, value]) => {
    const pair = element('div', [element('dt', term), element('dd', String(value))]);
    pair.dataset['fact'] = term;
    return pair;
  });
  list.replaceChildren(...pairs);
}
