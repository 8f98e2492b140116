import { CfWorkerJsonSchemaValidator } from '@modelcontextprotocol/sdk/validation/cfworker';
import { LoggingMessageNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { type CallRecord, type ConnectOptions, connect, type ResilientClient, type SessionEvents } from '../../src/index.ts';
import { indexedDbStore } from '../../src/browser.ts';

export type PageOptions = Pick<ConnectOptions, 'retry' | 'timeout' | 'listen' | 'session' | 'principal'> & {
  /** The SDK's validator that needs no `unsafe-eval`. */
  readonly cfworker?: boolean;
};

/** What a page of the tests has at hand: one client, and what it has told. Only what can be cloned goes to the test. */
export interface PageApi {
  open(url: string, options?: PageOptions): Promise<{ readonly resumed: boolean; readonly id: string | undefined }>;
  setLevel(level: 'info'): Promise<void>;
  listTools(): Promise<number>;
  call(name: string, args?: Record<string, unknown>, options?: { readonly callId?: string; readonly safe?: boolean; readonly timeout?: number }): Promise<unknown>;
  /** How long each `connect()` with the stored session takes, and each read and compare-and-set of its record, in ms. */
  measure(url: string, rounds: number): Promise<Record<'connect' | 'first answer' | 'get' | 'set', number[]>>;
  /** Whether a durable call can be joined by the next page: its first event is in the store. */
  isNoted(): Promise<boolean>;
  close(): Promise<void>;
  end(): Promise<void>;
  state(): string;
  history(): readonly CallRecord[];
  /** The texts of the server's log messages, in the order in which they came. */
  readonly heard: string[];
  readonly told: { readonly event: keyof SessionEvents; readonly text: string }[];
}

let client: ResilientClient | undefined;
const the = (): ResilientClient => {
  if (!client) throw new Error('open() first');
  return client;
};

const api: PageApi = {
  heard: [],
  told: [],
  async open(url, { cfworker, ...options } = {}) {
    const tell = (event: keyof SessionEvents) => (info: unknown) => {
      const { reason, message, to } = info as { reason?: string; message?: string; to?: string };
      api.told.push({ event, text: reason ?? message ?? to ?? '' });
    };
    const events = ['state', 'reset', 'resumed', 'degraded', 'cursorLost', 'warning', 'retry'] as const;
    const on = Object.fromEntries(events.map((event) => [event, tell(event)]));
    client = await connect(url, { ...options, ...(cfworker ? { client: { jsonSchemaValidator: new CfWorkerJsonSchemaValidator() } } : {}), store: indexedDbStore(), on });
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => void api.heard.push(String(params.data)));
    const { resumed, id } = client.session;
    return { resumed, id };
  },
  setLevel: async (level) => void (await the().setLoggingLevel(level)),
  listTools: async () => (await the().listTools()).tools.length,
  call: async (name, args = {}, options = {}) => (await the().callTool({ name, arguments: args }, undefined, options)).content,
  async measure(url, rounds) {
    const taken: Awaited<ReturnType<PageApi['measure']>> = { connect: [], 'first answer': [], get: [], set: [] };
    const timed = async <T>(name: keyof typeof taken, since: number, task: Promise<T>): Promise<T> => {
      const result = await task;
      taken[name].push(performance.now() - since);
      return result;
    };
    const store = indexedDbStore();
    for (let round = 0; round <= rounds; round++) {
      const started = performance.now();
      const each = await timed('connect', started, connect(url, { store, listen: false }));
      await timed('first answer', started, each.ping());
      // The first one makes the session, with its list of tools.
      if (round === 0) await each.listTools();
      const key = each.session.key ?? '';
      await each.close();
      for (let i = 0; i < 20; i++) {
        const there = await timed('get', performance.now(), store.get(key));
        await timed('set', performance.now(), store.set(key, there?.value ?? '', there?.revision));
      }
      if (round === 0) for (const list of Object.values(taken)) list.length = 0;
    }
    return taken;
  },
  async isNoted() {
    const store = indexedDbStore();
    for await (const key of store.keys('call/')) if ((await store.get(key))?.value.includes('"token"')) return true;
    return false;
  },
  close: () => the().close(),
  end: () => the().end(),
  state: () => the().session.state,
  history: () => the().history(),
};
Object.assign(globalThis, { api });


// As a worker it is told what to do, and answers.
if (typeof document === 'undefined') {
  globalThis.onmessage = async ({ data }: MessageEvent<{ method: 'open' | 'call' | 'close'; args: unknown[] }>) => {
    try {
      globalThis.postMessage({ result: await (api[data.method] as (...args: unknown[]) => unknown)(...data.args), heard: api.heard });
    } catch (error) {
      globalThis.postMessage({ error: String(error) });
    }
  };
}
