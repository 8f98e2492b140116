import { EventBody, Line, refusedConnection, type Step } from './line.ts';
import { type Message, nameOf, nameOfMessage, nonceOf, readRequest, type Request } from './request.ts';
import { StreamLog } from './stream-log.ts';

/** How a server answers. */
export interface Traits {
  /** Keeps events, so that streams can be resumed. */
  readonly events: boolean;
  /** Answers calls in JSON instead of streams. */
  readonly json: boolean;
  readonly version: string;
}

/** What happens to the next call, once. */
export type Fault = 'cut before' | 'cut after' | 'busy' | 'unavailable' | 'failed after' | 'stream ends';

interface Reply {
  readonly status: number;
  readonly headers?: Record<string, string>;
  readonly body?: string | EventBody;
  /** Called when whoever asked has it. */
  onHeard?(): void;
}

export interface Session {
  readonly id: string;
  readonly by: string;
  /** The ids of requests, and whose they were. */
  readonly ids: Map<string, string>;
  readonly logs: Map<string, StreamLog>;
  readonly standalone: StreamLog;
  readonly uris: Set<string>;
  streamOf?: string;
}

/** One run of the tool. */
interface Run {
  readonly nonce: string;
  readonly session: Session;
  readonly id: number | string;
  answer(): void;
}

const TOOLS = { tools: [{ name: 'work', inputSchema: { type: 'object' } }] };
/** For how long `busy` asks to wait, in ms. */
const BUSY = 1000;

let servers = 0;

/** A server of Streamable HTTP in memory. Whatever goes over its lines takes its turn; what it does itself takes no time. */
export class ModelServer {
  readonly traits: Traits;
  readonly sessions = new Map<string, Session>();
  /** Each run of each call, by its nonce. */
  readonly runs = new Map<string, number>();
  /** Calls whose caller has heard something on their stream. */
  readonly heard = new Set<string>();
  /** Calls whose answer is held back. */
  readonly held = new Set<Run>();
  /** Each request that arrived: who, and what. */
  readonly arrivals: { readonly from: string; readonly what: string; readonly at: number }[] = [];
  /** What no client may do. */
  readonly wrongs: string[] = [];
  readonly faults: Fault[] = [];
  /** From now on nothing is held back. */
  prompt = false;
  #down = false;
  wasDown = false;
  /** Whether a connection ever broke: what a client sent may not have arrived. */
  broke = false;
  /** Sessions that it forgot, and those that a client ended. */
  forgotten = 0;
  deleted = 0;
  /** Handshakes that broke off halfway, through no fault of the client. */
  wasted = 0;
  #count = 0;
  /** The library counts calls by session for its whole process: no two worlds may have the same ids, or one would go on in the next. */
  readonly #serial = ++servers;
  readonly #step: Step;
  readonly #now: () => number;
  readonly #goesAlone: (name: string) => boolean;
  /** What is open, and who opened it. */
  readonly #lines = new Map<Line, string>();
  /** Who sent which request, whether it arrived or not. */
  readonly #sent = new Map<string, string>();
  /** Until when whose call must not come again. */
  readonly #notBefore = new Map<string, number>();

  /** @param goesAlone - whether a client cannot know what others have, and so may ask for a stream that one of them hears, and hear one that another asks for */
  constructor(traits: Traits, step: Step, now: () => number, goesAlone: (name: string) => boolean) {
    this.traits = traits;
    this.#goesAlone = goesAlone;
    this.#step = step;
    this.#now = now;
  }

  readonly fetch = async (_target: string | URL, init: RequestInit = {}): Promise<Response> => {
    const request = readRequest(init);
    const line = new Line(init.signal ?? new AbortController().signal);
    this.#lines.set(line, request.from);
    line.onEnd(() => this.#lines.delete(line));
    const name = `${request.from}'s ${nameOf(request)}`;
    for (const { id, method } of request.messages) if (method !== undefined && id !== undefined) this.#sent.set(String(id), request.from);
    let arrived = false;
    try {
      await line.or(this.#step(`${name} arrives`));
      // What was given up before it came is not there.
      if (line.ended) return await line.broken;
      if (this.down) {
        line.cut(refusedConnection());
        return await line.broken;
      }
      arrived = true;
      this.arrivals.push({ from: request.from, what: nameOf(request), at: this.#now() });
      const { status, headers = {}, body, onHeard } = await line.or(this.#answer(request, line, name));
      await line.or(this.#step(`${status} to ${name}`));
      onHeard?.();
      if (!(body instanceof EventBody)) line.end();
      return new Response(body instanceof EventBody ? body.open() : (body ?? null), { status, headers });
    } catch (error) {
      // A client that did not hear that the second half came cannot tell whether it did.
      if (nameOf(request) === 'notifications/initialized' || (arrived && nameOf(request) === 'initialize')) this.wasted++;
      throw error;
    }
  };

  get down(): boolean {
    return this.#down;
  }

  set down(down: boolean) {
    this.#down = down;
    this.wasDown ||= down;
  }

  /** Every connection breaks. */
  cut(): void {
    this.broke = true;
    for (const line of [...this.#lines.keys()]) line.cut();
  }

  /** The connections of one client break. */
  hangUp(from: string): void {
    for (const [line, who] of [...this.#lines]) if (who === from) line.cut();
  }

  /** The sessions are gone; with a `restart` the connections and all that was under way too. */
  forget(restart: boolean): void {
    this.forgotten += this.sessions.size;
    this.sessions.clear();
    if (!restart) return;
    this.cut();
    this.held.clear();
  }

  notify(text: string): void {
    for (const { standalone } of this.sessions.values()) {
      standalone.say({ jsonrpc: '2.0', method: 'notifications/message', params: { level: 'info', data: text } }, text);
    }
  }

  /** Ends the streams on which it speaks of its own accord. */
  closeStreams(): void {
    for (const { standalone } of this.sessions.values()) standalone.release();
  }

  release(run: Run): void {
    if (this.held.delete(run)) run.answer();
  }

  releaseAll(): void {
    this.prompt = true;
    for (const run of [...this.held]) this.release(run);
  }

  async #answer(request: Request, line: Line, name: string): Promise<Reply> {
    const [first] = request.messages;
    if (first?.method === 'initialize') return this.#initialize(request, first);
    const session = request.sessionId === undefined ? undefined : this.sessions.get(request.sessionId);
    if (request.sessionId === undefined) return { status: 400, body: 'Bad Request: no session id' };
    if (!session) return { status: 404, headers: JSON_TYPE, body: JSON.stringify({ jsonrpc: '2.0', id: null, error: { code: -32001, message: 'Session not found' } }) };
    if (request.method === 'DELETE') {
      this.sessions.delete(session.id);
      this.deleted++;
      return { status: 200 };
    }
    if (request.method === 'GET') return this.#listen(session, request, line, name);
    for (const message of request.messages) this.#check(session, request.from, message);
    const asked = request.messages.filter((message) => message.method !== undefined && message.id !== undefined);
    if (asked.length === 0) {
      for (const { method, params } of request.messages) if (method === 'notifications/cancelled') this.#cancel(session, params?.requestId);
      return { status: 202 };
    }
    return this.#run(session, request, asked, line, name);
  }

  #initialize({ from, sessionId }: Request, { id }: Message): Reply {
    if (sessionId !== undefined) this.wrongs.push(`${from} sent a session id with initialize`);
    const session: Session = { id: `session-${this.#serial}-${++this.#count}`, by: from, ids: new Map(), logs: new Map(), standalone: new StreamLog('own', this.traits.events), uris: new Set() };
    session.logs.set('own', session.standalone);
    this.sessions.set(session.id, session);
    const { version } = this.traits;
    const capabilities = { tools: { listChanged: true }, resources: { subscribe: true }, logging: {} };
    const result = { protocolVersion: version, capabilities, serverInfo: { name: 'model', version: '1' } };
    return { status: 200, headers: { ...JSON_TYPE, 'mcp-session-id': session.id }, body: JSON.stringify({ jsonrpc: '2.0', id, result }) };
  }

  #check(session: Session, from: string, { id, method, params }: Message): void {
    if (method === 'notifications/cancelled') {
      // It may have overtaken the call, or the call may have got lost on its way.
      const sender = this.#sent.get(String(params?.requestId));
      if (sender === undefined) this.wrongs.push(`${from} cancelled ${String(params?.requestId)}, which never was`);
      else if (sender !== from) this.wrongs.push(`${from} cancelled a call of ${sender}`);
    }
    if (method === undefined || id === undefined) return;
    if (typeof id !== 'number') this.wrongs.push(`${from} sent the id ${String(id)}, which is no number`);
    if (session.ids.has(String(id))) this.wrongs.push(`${from} used the id ${id} of ${session.ids.get(String(id))} again`);
    session.ids.set(String(id), from);
  }

  #listen(session: Session, { from, lastEventId }: Request, line: Line, name: string): Reply {
    const log = lastEventId === undefined || !this.traits.events ? session.standalone : [...session.logs.values()].find((each) => each.after(lastEventId) !== undefined);
    if (!log) return { status: 400, body: 'Bad Request: unknown event' };
    if (log.heard) {
      const { streamOf = from } = session;
      if (log === session.standalone && streamOf !== from && ![from, streamOf].some(this.#goesAlone)) this.wrongs.push(`${from} asked for the stream of ${streamOf}`);
      return { status: 409, body: 'Conflict: the stream is open' };
    }
    if (log === session.standalone) session.streamOf = from;
    const body = new EventBody(line, this.#step, name);
    const isNew = lastEventId === undefined;
    log.attach(body, line, lastEventId === undefined ? undefined : log.after(lastEventId));
    if (isNew) log.prime();
    return { status: 200, headers: EVENTS_TYPE, body };
  }

  async #run(session: Session, request: Request, asked: readonly Message[], line: Line, name: string): Promise<Reply> {
    const calls = asked.filter(({ method }) => method === 'tools/call');
    const fault = calls.length > 0 ? this.faults.shift() : undefined;
    for (const nonce of calls.map(nonceOf)) this.#checkPatience(`${request.from} ${nonce}`);
    if (fault === 'cut before') line.cut();
    if (fault === 'busy') {
      const onHeard = (): void => calls.forEach((call) => this.#notBefore.set(`${request.from} ${nonceOf(call)}`, this.#now() + BUSY));
      return { status: 429, headers: { 'retry-after': String(BUSY / 1000) }, body: 'Too Many Requests', onHeard };
    }
    if (fault === 'unavailable') return { status: 503, body: 'Service Unavailable' };
    if (line.ended) return line.broken;

    const log = new StreamLog(`s${++this.#count}`, this.traits.events);
    session.logs.set(log.id, log);
    const answers: object[] = [];
    let settle!: (answers: readonly object[]) => void;
    const complete = new Promise<readonly object[]>((resolve) => (settle = resolve));
    const answer = (message: Message, result: object): void => {
      const said = { jsonrpc: '2.0', id: message.id, result };
      answers.push(said);
      log.say(said, `answer to ${nameOfMessage(message)}`);
      if (answers.length < asked.length) return;
      log.finish();
      settle(answers);
    };
    const streams = this.traits.events || !this.traits.json;
    const body = streams ? new EventBody(line, this.#step, name, () => calls.forEach((call) => this.heard.add(nonceOf(call)))) : undefined;
    if (body) log.attach(body, line);
    log.prime();
    for (const message of asked) this.#execute(session, message, (result) => answer(message, result));
    if (fault === 'failed after') return { status: 503, body: 'Service Unavailable' };
    if (fault === 'cut after') line.cut();
    if (fault === 'stream ends') log.release();
    if (body) return { status: 200, headers: EVENTS_TYPE, body };
    const all = await line.or(complete);
    return { status: 200, headers: JSON_TYPE, body: JSON.stringify(request.together ? all : all[0]) };
  }

  #execute(session: Session, message: Message, answer: (result: object) => void): void {
    const { id, method, params } = message;
    if (method === 'resources/subscribe') session.uris.add(String(params?.uri));
    if (method === 'tools/list') return answer(TOOLS);
    if (method !== 'tools/call' || id === undefined) return answer({});
    const nonce = nonceOf(message);
    const run = (this.runs.get(nonce) ?? 0) + 1;
    this.runs.set(nonce, run);
    const held: Run = { nonce, session, id, answer: () => answer({ content: [{ type: 'text', text: `${nonce} run ${run}` }] }) };
    if (params?.arguments?.held && !this.prompt) this.held.add(held);
    else held.answer();
  }

  /** What is cancelled gives no answer (2025-11-25, Cancellation). */
  #cancel(session: Session, id: number | string | undefined): void {
    for (const run of this.held) if (run.session === session && run.id === id) this.held.delete(run);
  }

  #checkPatience(call: string): void {
    const early = (this.#notBefore.get(call) ?? 0) - this.#now();
    if (early > 0) this.wrongs.push(`${call} came ${early} ms before the Retry-After was over`);
  }
}

const JSON_TYPE = { 'content-type': 'application/json' };
const EVENTS_TYPE = { 'content-type': 'text/event-stream' };
