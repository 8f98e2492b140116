import { CfWorkerJsonSchemaValidator } from '@modelcontextprotocol/sdk/validation/cfworker';
import { RepriseError, ResilientClient } from '../../src/index.ts';
import { type Campaign, ensure, FuzzFailure, runBlocks, settled } from './campaign.ts';
import { mutateBytes, mutateJson, mutateText, Random, writeJson } from './mutate.ts';
import { PLACES, type Recording, type Reply } from './recorded.ts';
import { type Changed, type Question, rawReply, RecordedServer } from './server.ts';

/** So many answers are changed for one client, one after the other. */
const BLOCK = 20;
/** How long a call waits for an answer that may never come, in ms. */
const PATIENCE = 1000;
/** Each is a turn of its own. */
const MOST_PIECES = 30;
const METHODS = ['tools/call', 'tools/call', 'tools/call', 'tools/list', 'ping', 'resources/subscribe', 'initialize'];
const STATUSES = [200, 201, 202, 204, 206, 300, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 413, 415, 418, 421, 422, 425, 429, 451, 500, 501, 502, 503, 504, 511, 599];
const HEADERS: Readonly<Record<string, readonly string[]>> = {
  'content-type': ['', 'text/event-stream', 'application/json', 'application/json; charset=utf-16', 'TEXT/EVENT-STREAM;x', 'text/html', 'application/json, text/event-stream', ';', 'x'.repeat(5000)],
  'mcp-session-id': ['', ' ', 'spoofed', 'a b', '\u00e9', 'x'.repeat(1025), 'a, b'],
  'retry-after': ['0', '-1', 'NaN', '4294967296', '1e9', 'Fri, 31 Dec 9999 23:59:59 GMT', 'Thu, 01 Jan 1970 00:00:00 GMT', 'soon'],
  'www-authenticate': ['Bearer', 'Bearer error="insufficient_scope", scope="x"', 'Basic realm="x"', '"'],
  'content-encoding': ['gzip', 'identity', 'br', ''],
  location: ['/mcp', '//127.0.0.1:9/x', 'http://127.0.0.1:9/x', 'http://[', '', 'mcp?x'],
};
/** It keeps nothing of a schema that it has seen, unlike the SDK's usual one. */
const validator = new CfWorkerJsonSchemaValidator();

/** Has a client hear changed answers: each call must be settled, truly or with an error that has a type, and the next one must work. */
export async function fuzzReplies(recording: Recording, campaign: Campaign & { readonly overHttp?: boolean }): Promise<void> {
  await runBlocks('replies', campaign, BLOCK, async (from, to, onDone) => {
    const server = new RecordedServer(recording.replies);
    const url = campaign.overHttp ? await server.listen() : recording.url;
    let client = clientOf(server, url, campaign.overHttp);
    try {
      await client.connect();
      for (let index = from; index < to; index++) {
        try {
          client = await change(recording, campaign.overHttp ?? false, server, client, new Random(campaign.seed, index), index, () => clientOf(server, url, campaign.overHttp));
          onDone();
        } catch (error) {
          throw new FuzzFailure('replies', campaign, index, error);
        }
      }
    } finally {
      server.change = undefined;
      await client.close();
      await server.close();
    }
  });
}

function clientOf(server: RecordedServer, url: string, overHttp = false, connect = 20_000): ResilientClient {
  return new ResilientClient(url, {
    ...(overHttp ? {} : { fetch: server.fetch }),
    listen: false,
    timeout: { connect, call: PATIENCE, total: PATIENCE },
    retry: { minTimeout: 1, maxTimeout: 2, budget: false },
    client: { jsonSchemaValidator: validator },
    // Nobody's, rather than printed.
    on: { warning: () => {} },
  });
}

/** One changed answer. Returns the client that goes on. */
async function change(recording: Recording, overHttp: boolean, server: RecordedServer, before: ResilientClient, random: Random, index: number, create: () => ResilientClient): Promise<ResilientClient> {
  const method = random.pick(METHODS);
  const times = random.pick([1, 1, 1, 2, 2, 5]);
  let client = before;
  let left = times;
  let calls = 0;
  server.change = {
    // Also what resumes the stream of the call, ends its session or makes the next one.
    fits: ({ rpc, method: verb }) => rpc.method === method || (times > 1 && (verb === 'GET' || rpc.method === 'initialize')),
    change: (reply, question) => {
      if (question.rpc.method === method) calls++;
      return left-- > 0 ? changed(reply, question, random, recording, overHttp) : reply;
    },
  };
  const nonce = `nonce ${index}`;
  const safe = random.chance(0.3);
  const retry = random.chance(0.5) ? (false as const) : { retries: 3 };
  let asked: Promise<unknown>;
  if (method === 'initialize') {
    await client.close();
    client = create();
    asked = client.connect();
  } else if (method === 'tools/list') asked = client.listTools(undefined, { cache: false, retry });
  else if (method === 'ping') asked = client.ping({ retry });
  else if (method === 'resources/subscribe') asked = client.subscribeResource({ uri: 'test://one' }, { retry });
  else asked = client.callTool({ name: 'echo', arguments: { text: nonce } }, undefined, { safe, retry, onprogress: () => {} });

  const outcome = await settled(asked, method);
  if (outcome.status === 'rejected') ensure(isTyped(outcome.reason), 'an error without a type', outcome.reason);
  // G2. One session's loss is one replay.
  if (method === 'tools/call' && !safe && retry === false) ensure(calls <= 2, `a call that is not safe went out ${calls} times`);
  if (method === 'tools/call' && outcome.status === 'fulfilled') {
    const text = String((outcome.value as { content?: { text?: unknown }[] }).content?.[0]?.text);
    ensure(!/^nonce \d+$/.test(text) || text === nonce || left < times, `the answer to another call: ${text}`);
  }

  server.change = undefined;
  if (method === 'initialize') {
    if (outcome.status === 'rejected') await client.connect().catch((error: unknown) => ensure(false, 'the next connect() failed', error));
  }
  // What a bad list said of the tools holds until the next.
  const good = { timeout: 20_000, maxTotalTimeout: 20_000 };
  if (method === 'tools/list') await client.listTools(undefined, { cache: false, ...good });
  const text = `good ${index}`;
  const again = (): Promise<PromiseSettledResult<unknown>> => settled(client.callTool({ name: 'echo', arguments: { text } }, undefined, { ...good, safe: true }), 'the next call');
  let next = await again();
  // It may have waited for a handshake that was still getting a bad answer.
  if (next.status === 'rejected' && times > 1 && next.reason instanceof RepriseError) next = await again();
  ensure(next.status === 'fulfilled', 'the next call failed', next.status === 'rejected' ? next.reason : undefined);
  ensure((next.value as { content: { text: string }[] }).content[0]?.text === text, `the next call was answered ${JSON.stringify(next.value).slice(0, 200)}`);
  const { calls: counted, inFlight, queueLength } = client.metrics();
  ensure(counted.pending === 0 && inFlight === 0 && queueLength === 0, `something is pending: ${JSON.stringify({ ...counted, inFlight, queueLength })}`);
  return client;
}

/** Ours, the server's own, that of a schema which the answer does not fit, and what the SDK says of a version that it does not speak. */
function isTyped(error: unknown): boolean {
  if (error instanceof RepriseError) return true;
  if (!(error instanceof Error)) return false;
  return typeof (error as { code?: unknown }).code === 'number' || 'issues' in error || /protocol version is not supported/.test(error.message);
}

function changed(good: Reply, question: Question, random: Random, recording: Recording, overHttp: boolean): Changed {
  let reply: Changed = question.method === 'GET' ? resumed(question, random) : random.chance(0.1) ? failed(good, question, recording) : good;
  const changes = 1 + random.below(3);
  for (let i = 0; i < changes; i++) reply = changedOnce(reply, random);
  if (random.chance(0.3)) reply = { ...reply, pieces: Math.max(random.pick([1, 7, 100]), Math.ceil(reply.body.length / MOST_PIECES)), breaksOff: random.chance(0.5) };
  return !overHttp || random.chance(0.5) ? reply : { ...reply, raw: mutateBytes(rawReply(reply, random), random) };
}

/** A real server's error, for this question. */
function failed(good: Reply, { rpc }: Question, { replies }: Recording): Reply {
  const [error = good] = replies.get('resources/read') ?? [];
  return { ...error, body: error.body.replaceAll(PLACES.id, String(rpc.id)) };
}

/** An answer on a stream that is resumed, for no call of ours or for nobody. */
function resumed({ rpc }: Question, random: Random): Reply {
  const body = random.chance(0.5) ? 'id: 9\ndata:\n\n' : `id: 9\ndata: {"jsonrpc":"2.0","id":${rpc.id ?? 7},"result":{"content":[]}}\n\n`;
  return random.chance(0.3) ? { status: random.pick(STATUSES), headers: {}, body: '' } : { status: 200, headers: { 'content-type': 'text/event-stream' }, body };
}

function changedOnce(reply: Changed, random: Random): Changed {
  const { headers, body } = reply;
  switch (random.below(10)) {
    case 0:
      return { ...reply, status: random.pick(STATUSES) };
    case 1: {
      const name = random.pick(Object.keys(HEADERS));
      return { ...reply, headers: { ...headers, [name]: random.pick(HEADERS[name] ?? ['']) } };
    }
    case 2:
      return { ...reply, headers: Object.fromEntries(Object.entries(headers).filter(() => random.chance(0.5))) };
    case 3:
    case 4:
      return { ...reply, body: mutateText(body, random) };
    case 5: {
      const events = body.split('\n\n');
      const at = random.below(events.length);
      if (random.chance(0.5)) events.splice(at, 1);
      else events.splice(random.below(events.length + 1), 0, random.chance(0.5) ? (events[at] ?? '') : random.pick(['retry: 0', 'retry: 4294967296', 'id: x', 'event: error\ndata: x', ': ', 'data:']));
      return { ...reply, body: events.join('\n\n') };
    }
    default:
      return { ...reply, body: withMessages(body, random) };
  }
}

/** One of the JSON messages in a body, of JSON or of events, is changed in its structure. */
function withMessages(body: string, random: Random): string {
  const lines = body.split('\n');
  const at = lines.map((line, i) => (/^(data: ?)?[{[]/.test(line) ? i : -1)).filter((i) => i >= 0);
  if (at.length === 0) return mutateText(body, random);
  const line = random.pick(at);
  const [, prefix = '', json = ''] = /^(data: ?)?(.*)$/s.exec(lines[line] ?? '') ?? [];
  try {
    const value: unknown = JSON.parse(json);
    const next = random.chance(0.1) ? [value, mutateJson(value, random)] : mutateJson(value, random);
    lines[line] = prefix + writeJson(next);
  } catch {
    lines[line] = prefix + mutateText(json, random);
  }
  return lines.join('\n');
}
