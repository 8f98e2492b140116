/** A page that uses the library as an app would: one session for all its tabs, kept in IndexedDB, whatever happens to server and network. */
import { LoggingMessageNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { type CallOptions, connect, type ResilientClient, RepriseError } from 'mcp-reprise';
import { indexedDbStore } from 'mcp-reprise/browser';
import { type Bar, Chronicle, type MarkKind } from './chronicle.ts';
import { type Control, control, watchServer } from './control.ts';
import { Timeline } from './timeline.ts';
import { part, say, showClient, showHow, showLegend, showResult, showServer, showState } from './view.ts';
import { lasted, MARKS, OUTCOMES, type Tone } from './words.ts';

interface Job {
  readonly id: string;
  readonly ms: number;
}

const SECONDS = Number(new URLSearchParams(location.search).get('job') ?? 20);

const chronicle = new Chronicle();
const picture = new Timeline(document.querySelector('#timeline') as SVGSVGElement, chronicle);
showLegend();
const { url } = await watchServer(showServer);
const client = await open();
let heard = 0;
let calls = 0;
client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => {
  heard++;
  happened('notification', String(params.data));
});
showHow(client.session.resumed ? 'taken up from the store' : 'new');
(part('calls') as HTMLFieldSetElement).disabled = false;
setInterval(() => showClient(client, heard), 500);
// The job that was under way when the page went, in this tab or in another one.
const { job } = client.session.data as { readonly job?: Job };
if (job) {
  say('busy', 'A job is under way: it is joined, not started again.');
  follow(job).catch((error: unknown) => failed('job', error));
}

async function open(): Promise<ResilientClient> {
  for (;;) {
    try {
      return await connect(url, {
        store: indexedDbStore(),
        on: {
          state: ({ to }) => {
            chronicle.state(to);
            showState(to);
            say('off', `Session: ${to}`);
          },
          resumed: ({ age }) => {
            showHow('resumed: the server still knows it');
            happened('resumed', `The session goes on: it is ${lasted(age)} old, and no handshake was needed.`);
          },
          reset: ({ reason, adopted }) => {
            showHow(adopted ? 'new, made by another tab' : 'new, in the place of a lost one');
            happened('reset', `There is a new session${adopted ? ', made by another tab' : ''}: ${reason}`);
          },
          degraded: ({ reason }) => happened('degraded', `The notification stream is down: ${reason}`),
          cursorLost: ({ reason }) => happened('cursorLost', `Notifications may have been missed: ${reason}`),
          retry: ({ call, attempt, delay, reason }) =>
            happened('retry', `Attempt ${attempt} failed, again ${delay === Infinity ? 'when the server is heard of' : `in ${lasted(delay)}`}: ${reason}`, call),
          warning: (error) => happened('warning', error.message),
          call: (record) => chronicle.settle(record),
        },
      });
    } catch (error) {
      showResult('bad', 'There is no session yet.', `${messageOf(error)} It is tried again.`);
    }
  }
}

const actions: Readonly<Record<string, () => unknown>> = {
  // It may be repeated, so it waits for a server that is down.
  echo: () => call('echo', { name: 'echo', arguments: { text: `Hello ${++calls}` } }, { safe: true }),
  work: () => call('work', { name: 'work', arguments: { nonce: `work ${nonce()}`, ms: 3000, steps: 6 } }),
  async job() {
    const job: Job = { id: nonce(), ms: SECONDS * 1000 };
    // Kept with the session, so that every tab and every later page knows of it.
    await client.update(({ data }) => ({ data: { ...data, job } }));
    await follow(job);
  },
  reload: () => location.reload(),
  tab: () => window.open(location.href, '_blank', 'noopener'),
};

/** Starts the job, or joins it: which of both, the library knows by the `callId`. */
async function follow({ id, ms }: Job): Promise<void> {
  const button = document.querySelector<HTMLButtonElement>('[data-do="job"]');
  button?.toggleAttribute('disabled', true);
  await call('job', { name: 'work', arguments: { nonce: `job ${id}`, ms, steps: ms / 500 } }, { callId: id });
  await client.update(({ data: { job, ...data } }) => ({ data: (job as Job | undefined)?.id === id ? data : { ...data, job } }));
  button?.toggleAttribute('disabled', false);
}

/** Makes a call, and shows it. */
async function call(label: string, params: Parameters<ResilientClient['callTool']>[0], options: CallOptions = {}): Promise<void> {
  const bar: Bar = chronicle.begin(params.name, label);
  const onprogress: CallOptions['onprogress'] = ({ progress, total }) => (bar.progress = `${progress} of ${total}`);
  try {
    const { content } = await client.callTool(params, undefined, { ...options, onprogress });
    answered(label, (content as { text?: string }[])[0]?.text ?? '');
  } catch (error) {
    failed(label, error);
  }
}

function answered(label: string, text: string): void {
  say('good', `${label}: ${text}`);
  showResult('good', `✓ ${label}`, text);
}

function failed(label: string, error: unknown): void {
  const outcome = (error instanceof RepriseError ? error.outcome : undefined) ?? 'error';
  const { tone, text, sign } = OUTCOMES[outcome];
  say(tone, `${label}: ${messageOf(error)}`);
  // Nobody can know: "What the server saw" is where to look, as an app would look at what the tool does.
  showResult(tone, `${sign} ${label}: ${text}`, messageOf(error));
}

function happened(kind: MarkKind, text: string, call?: number): void {
  chronicle.mark(kind, text, call);
  say(MARKS[kind].tone, text);
  picture.draw();
}

async function run(button: HTMLElement): Promise<void> {
  const { control: what, do: action } = button.dataset;
  try {
    if (what) await control(what as Control);
    else if (action) await actions[action]?.();
  } catch (error) {
    const tone: Tone = 'bad';
    showResult(tone, 'That did not work.', messageOf(error));
  }
}

for (const button of document.querySelectorAll<HTMLButtonElement>('button')) button.addEventListener('click', () => void run(button));

function nonce(): string {
  return crypto.randomUUID().slice(0, 4);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
