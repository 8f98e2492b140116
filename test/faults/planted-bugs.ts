/** A bug that is put into a copy of the source, to see that a test notices. */
export interface PlantedBug {
  readonly name: string;
  /** Under `src/`. */
  readonly file: string;
  /** Each text stands in the file exactly once, and is replaced. */
  readonly edits: readonly (readonly [find: string, plant: string])[];
  readonly caughtBy: Catch;
}

/** What must fail with the bug and pass without: tests of one or more files, or any other program, run with Node in the copy. */
export type Catch = Tests | { readonly program: readonly string[] };

interface Tests {
  readonly files: readonly string[];
  /** A part of the names of the tests; all of the files where absent. */
  readonly named?: string;
}

const unit = (file: string, named?: string): Catch => tests(`unit/${file}`, named);
const tests = (file: string, named?: string): Catch => ({ files: [`test/${file}.test.ts`], ...(named === undefined ? {} : { named }) });

/** Caught by tests that start no server: quick enough to be looked at each time (planted.test.ts). */
export const QUICK: readonly PlantedBug[] = [
  {
    name: 'ids are not rewritten',
    file: 'session/correlator.ts',
    edits: [['let id = (this.#nextId ??= this.#random());', 'let id = call.request.id as number;']],
    caughtBy: unit('session', 'request ids'),
  },
  {
    name: 'an answer is matched by Number(id)',
    file: 'session/correlator.ts',
    edits: [['this.#byWireId.get(message.id as number)', 'this.#byWireId.get(Number(message.id))']],
    caughtBy: unit('session', 'request ids'),
  },
  {
    name: 'an answer to the server goes to whoever asks now, not to whoever asked',
    file: 'session/inbound.ts',
    edits: [['if (question.link === link && question.id === asked) return id', 'if (question.id === asked) return id']],
    caughtBy: unit('ids', 'own requests'),
  },
  {
    name: 'a call that is not safe is sent again after an attempt of which nothing is known (the row is gone)',
    file: 'calls/verdict.ts',
    edits: [["{ if: (its) => its.outcome === 'unknown' && !its.safe, next: 'fail', because: 'it may have run, and once more is harmless only for what may be repeated' },", '']],
    caughtBy: unit('verdict', 'the verdict table'),
  },
  {
    name: 'a call is sent again when its answer is late',
    file: 'calls/calls.ts',
    edits: [
      ['return retrying(attempt, {', "return retrying(() => within(attempt(), flight.left / 3, () => new UnreachableError('no answer yet')), {"],
      ["import { Alarms, type Backoff, sleep } from '../timers.ts';", "import { Alarms, type Backoff, sleep, within } from '../timers.ts';\nimport { UnreachableError } from '../errors.ts';"],
    ],
    caughtBy: unit('deadline', 'a call whose time is over'),
  },
  {
    name: 'a gateway that gave up (504) is taken for one that did not pass the call on',
    file: 'links/http-failure.ts',
    edits: [["if (status >= 500 || status === 408) return 'unknown';", "if (status >= 500 || status === 408) return 'busy';"]],
    caughtBy: tests('links/http-failure', 'any other refusal'),
  },
  {
    name: 'what was unknown once is known again after a later attempt',
    file: 'calls/flight.ts',
    edits: [["this.mayHaveRun ||= outcome === 'unknown';", "this.mayHaveRun = outcome === 'unknown';"]],
    caughtBy: unit('retry', 'what is unknown'),
  },
  {
    name: 'Retry-After is ignored',
    file: 'calls/retry.ts',
    edits: [['const delay = Math.max(situation.wait, backoffDelay(backoff, situation.attempt - 1));', 'const delay = backoffDelay(backoff, situation.attempt - 1);']],
    caughtBy: unit('retry', 'Retry-After'),
  },
  {
    name: '`retry:` of a server is not clamped',
    file: 'session/hints.ts',
    edits: [['Math.min(Math.max(delay, 0), LONGEST_HINT)', 'Math.max(delay, LONGEST_HINT && 0)']],
    caughtBy: unit('session', 'a hint is made sane'),
  },
  {
    name: 'the listener stays on the caller\'s signal',
    file: 'signals.ts',
    edits: [['if (this.#tasks.delete(task) && this.#tasks.size === 0) this.#end();', 'this.#tasks.delete(task);']],
    caughtBy: unit('deadline', 'listeners on a shared signal'),
  },
  {
    name: 'the timer of a call outlives it',
    file: 'calls/deadline.ts',
    edits: [['this.#over = true;\n    this.#stop();', 'this.#over = true;']],
    caughtBy: unit('deadline', 'a deadline'),
  },
  {
    name: 'pings go on after close()',
    file: 'calls/reachability.ts',
    edits: [['this.#closed = true;\n    this.#stop();', 'this.#closed = true;']],
    caughtBy: unit('limits', 'G9 is at rest once closed'),
  },
  {
    name: 'the key of a session does not say for whom it is',
    file: 'session/key.ts',
    edits: [['`${url}?${query}`, principal, name]', "`${url}?${query}`, principal && '', name]"]],
    caughtBy: unit('key'),
  },
  {
    name: 'a resumption token gives the session id away',
    file: 'session/token.ts',
    edits: [['const parts = secret === undefined ? [eventId] : eventId.split(secret);', 'const parts = secret === undefined ? [eventId] : [eventId];']],
    caughtBy: unit('ids', 'a resumption token'),
  },
  {
    name: 'news from before close() moves the state',
    file: 'session/state.ts',
    edits: [["if (!NEXT[from].includes(next.name)) return false;", 'if (NEXT[from].length === 0) return false;']],
    caughtBy: unit('state'),
  },
  {
    name: 'what is to be redacted is repeated',
    file: 'redact.ts',
    edits: [["return forms ? text.replace(forms, '<secret>') : text;", 'return forms ? text : text;']],
    caughtBy: unit('redact', 'a text'),
  },
  {
    name: 'no compare-and-set in the memory store',
    file: 'storage/memory-store.ts',
    edits: [['expectRevision(this.#entries.get(key)?.revision, expected);\n    const revision', 'const revision']],
    caughtBy: tests('storage/memory-store', 'compare-and-set'),
  },
];

/** Caught by tests with servers, processes or a disk. */
export const SLOW: readonly PlantedBug[] = [
  {
    name: 'idle connections outlive close()',
    file: 'links/pool.node.ts',
    edits: [['    this.agent.destroy();\n', '']],
    caughtBy: tests('leaks/leaks', 'cycles'),
  },
  {
    name: 'a connection that is opened early counts as open before TLS is',
    file: 'links/pool.node.ts',
    edits: [['return !socket.connecting && !socket[OPENING];', 'return !socket.connecting;']],
    caughtBy: tests('links/warm', 'has sent nothing'),
  },
  {
    name: 'a connection that is opened early outlives close()',
    file: 'links/pool.node.ts',
    edits: [['    this.#dropEarly();\n    this.agent.destroy();\n', '    this.agent.destroy();\n']],
    caughtBy: tests('links/warm', 'is closed after'),
  },
  {
    name: 'eight bytes are kept of each call',
    file: 'calls/metrics.ts',
    edits: [
      ['readonly #latency = new Histogram();', 'readonly #latency = new Histogram();\n  readonly #all: number[] = [];'],
      ['const outcomes = this.#outcomes;', 'const outcomes = this.#outcomes;\n    this.#all.push(duration);'],
    ],
    caughtBy: tests('leaks/leaks', 'calls. .by fetch: false'),
  },
  {
    name: 'a listener stays on the signal of the client',
    file: 'client.ts',
    edits: [['    } finally {\n      release();\n    }\n  }\n\n  /** Waits', '    }\n  }\n\n  /** Waits']],
    caughtBy: tests('leaks/leaks', 'cycles'),
  },
  {
    name: 'a lock that comes too late is released after close()',
    file: 'session/shelf.ts',
    edits: [['this.#options.leaveBehind(soon(taking.then((lock) => lock.release())));', 'void soon(taking.then((lock) => lock.release()));']],
    caughtBy: tests('leaks/leaks', 'cycles'),
  },
  {
    name: 'each call that finds its session lost makes a new one',
    file: 'session/lifecycle.ts',
    edits: [["if (this.#renewal) return this.#renewal;\n        if (state.session) return state.session;", "if (this.#renewal) return this.#negotiator.successor(this.#params as Params, this.#scope.signal);\n        if (state.session) return state.session;"]],
    caughtBy: tests('session/reset', 'ten calls that are refused together'),
  },
  {
    name: 'a refused call is replayed for as long as sessions are lost',
    file: 'session/delivery.ts',
    edits: [['if (refusals > 1 || sessions > MOST_SESSIONS) {', 'if (sessions > MOST_SESSIONS) {']],
    caughtBy: tests('session/reset', 'replays a refused call once'),
  },
  {
    name: 'a clean end of the stream resets the backoff',
    file: 'session/server-stream.ts',
    edits: [['if (heard && (performance.now() - openedAt >= LASTED || hint >= LASTED_HINT)) attempt = 0;', "if (ending.type === 'ended' || performance.now() - openedAt >= LASTED || (heard && hint >= LASTED_HINT)) attempt = 0;"]],
    caughtBy: tests('session/stream', 'at most 8 reconnects'),
  },
  {
    name: 'a cancellation is not sent',
    file: 'session/wire.ts',
    edits: [['await this.post(link, { ...message, params: { ...message.params, requestId: wireId } }, CANCEL_TIMEOUT);', 'await Promise.resolve([link, message, wireId, CANCEL_TIMEOUT]);']],
    caughtBy: tests('calls/deadlines', 'is cancelled at the server'),
  },
  {
    name: 'a cancellation names the id of the client',
    file: 'session/wire.ts',
    edits: [['params: { ...message.params, requestId: wireId } }, CANCEL_TIMEOUT', 'params: { ...message.params } }, CANCEL_TIMEOUT']],
    caughtBy: tests('calls/deadlines', 'is cancelled at the server'),
  },
  {
    name: 'any answer may change the session id',
    file: 'links/http-link.ts',
    edits: [["exchange.onAccepted?.({ sessionId: reply.header('mcp-session-id') });", "exchange.onAccepted?.({ sessionId: reply.header('mcp-session-id') });\n    if (this.#session) this.#session = { ...this.#session, id: reply.header('mcp-session-id') ?? this.#session.id };"]],
    caughtBy: tests('links/http-link', 'takes a session id from a good answer to initialize'),
  },
  {
    name: 'the session id follows a redirect to another origin',
    file: 'links/http-link.ts',
    edits: [['|| followed === MOST_REDIRECTS || !staysWithin(url, target)) return', '|| followed === MOST_REDIRECTS) return']],
    caughtBy: tests('links/http-link', 'to another origin'),
  },
  {
    name: 'the cursor moves before the message is handed over',
    file: 'links/http-link.ts',
    edits: [
      ["if (data) readEvent(event || 'message', data, ears);\n", ''],
      ['if (id && isEventId(id) && !exchange.signal.aborted) exchange.onEventId?.(id);', "if (id && isEventId(id) && !exchange.signal.aborted) exchange.onEventId?.(id);\n        if (data) readEvent(event || 'message', data, ears);"],
    ],
    caughtBy: tests('links/http-link', 'tells the id of an event after its message'),
  },
  {
    name: 'an expired session is taken up',
    file: 'session/keeper.ts',
    edits: [['if (isExpired(record, Date.now())) return undefined;\n    // What holds', '// What holds']],
    caughtBy: tests('session/bad-input', 'expired: a fresh start'),
  },
  {
    name: 'a store that fails fails the call',
    file: 'session/shelf.ts',
    edits: [['if (isConflict(error)) throw error;', 'if (isConflict(error) || error) throw error;']],
    caughtBy: tests('session/bad-input', 'rejects: one warning'),
  },
  {
    name: 'a durable call is sent without a claim',
    file: 'calls/durable.ts',
    edits: [['const found = await notSentWithout(page.claim(({ entry }) => safe && !entry));', 'const found = await notSentWithout(page.claim(() => true));']],
    caughtBy: tests('calls/durable', 'the answer of a durable call is kept'),
  },
  {
    name: 'a durable call has no compare-and-set: of two at once both are sent',
    file: 'calls/journal.ts',
    edits: [['store.set(key, text, expected)', 'store.set(key, text)']],
    caughtBy: tests('calls/durable', 'in the very same moment'),
  },
  {
    name: 'the timer that notes the use of a session outlives close()',
    file: 'session/lifecycle.ts',
    edits: [['this.#stopProving();\n    this.#stopBeat();\n    const quiet', 'this.#stopProving();\n    const quiet']],
    caughtBy: tests('session/stream', 'an idle client asks for nothing'),
  },
  {
    name: 'the timer that proves a session outlives close()',
    file: 'session/lifecycle.ts',
    edits: [['this.#stopProving();\n    this.#stopBeat();\n    const quiet', 'this.#stopBeat();\n    const quiet']],
    caughtBy: tests('session/leaving', 'G9'),
  },
  {
    name: 'no compare-and-set in the file store',
    file: 'storage/file-store.ts',
    edits: [['check = async () => expectRevision((await this.#sound(key))?.revision, expected);', 'check = async () => undefined;']],
    caughtBy: tests('storage/file-contract', 'compare-and-set'),
  },
  {
    name: 'the file store does not flush what it writes',
    file: 'storage/file-claim.ts',
    edits: [['await file.writeFile(content);\n    await file.sync();', 'await file.writeFile(content);']],
    caughtBy: tests('storage/file-power', 'has what it promised'),
  },
  {
    name: 'the file store does not flush the directory',
    file: 'storage/file-claim.ts',
    edits: [['if (done) await flushDirectory(directory).finally(() => clearing);', 'if (done) await clearing;']],
    caughtBy: tests('storage/file-power', 'has what it promised'),
  },
  {
    name: 'the file store writes in place (a torn write)',
    file: 'storage/file-claim.ts',
    edits: [['return renamed(entry, join(directory, name));', "await (await import('node:fs/promises')).writeFile(join(directory, name), content);\n      return true;"]],
    caughtBy: tests('storage/file-store', 'flushes the content before it is in place'),
  },
];
