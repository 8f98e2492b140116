/**
 * The main job in half a minute: `npm run demo`.
 *
 * A real server in its own process, and two clients side by side: mcp-reprise and the bare SDK. Everything that is claimed is read
 * from what the server itself saw. Exits with 0 only if all of it held.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { connect, memoryStore, OutcomeUnknownError } from 'mcp-reprise';
import { runScript } from '../test/support/client-process.ts';
import type { WireEntry } from '../test/support/contract.ts';
import { type FixtureProcess, startServer } from '../test/support/server.ts';
import { waitFor } from '../test/support/wait.ts';
import { act, check, finish, note, requests, seconds, verdict } from './demo/timeline.ts';

type Said = { type: 'connected'; resumed: boolean; capabilities: boolean } | { type: 'answer'; content: unknown };

const directory = mkdtempSync(join(tmpdir(), 'mcp-reprise-demo-'));
try {
  await restartOfTheProgram();
  await restartOfTheServer();
  await cutConnection();
  await cutWithoutEvents();
  await durableCall();
} finally {
  rmSync(directory, { recursive: true, force: true });
}
finish();

async function restartOfTheProgram(): Promise<void> {
  act('1. The program is killed in the middle of its work, and started again', 'Look at the first request of the second process, and at what it knows without asking.');
  for (const [who, script, store] of [
    ['mcp-reprise', 'program.ts', join(directory, 'sessions')],
    ['bare SDK', 'bare-program.ts', join(directory, 'session-id')],
  ] as const) {
    await using server = await startServer();
    const file = new URL(`./demo/${script}`, import.meta.url);
    const first = runScript<Said>(file, [server.url.href, store]);
    await first.next('answer');
    await waitFor(async () => (await server.executions()).some(({ nonce }) => nonce === 'long work'));
    await first.kill('SIGKILL');
    note(who, `process ${first.pid} is killed (SIGKILL) while a call is running; the server saw`);
    requests(await server.requests());
    await server.clearRequests();

    const startedAt = performance.now();
    const second = runScript<Said>(file, [server.url.href, store]);
    const connected = await second.next('connected');
    const answer = await Promise.race([second.next('answer'), second.exit.then(() => undefined)]);
    const seen = await server.requests();
    note(who, `process ${second.pid} takes over; ${answer ? `its first answer came ${seconds(performance.now() - startedAt)} after its start` : 'it got no answer'}; the server saw`);
    requests(seen);
    await second.kill('SIGKILL');

    const [head] = seen;
    const direct = head?.rpc[0]?.method === 'tools/call' && head.sessionId !== undefined;
    if (who === 'mcp-reprise') {
      check('the first request on the wire was the program\'s own, with the session id', direct);
      check('it carried the protocol version, and no initialize was sent', head?.protocolVersion === '2025-11-25' && !has(seen, 'initialize'));
      check('the second process knew the server\'s capabilities without asking', connected.resumed && connected.capabilities);
      check('it got its own answer', answer !== undefined);
    } else {
      verdict(
        `was handed the session id by the program, but: capabilities known: ${yes(connected.capabilities)}, protocol version sent: ${yes(head?.protocolVersion !== undefined)}, notifications heard: ${yes(has(seen, 'GET'))}`,
      );
    }
  }
}

async function restartOfTheServer(): Promise<void> {
  act('2. The server restarts and forgets its sessions; ten calls are made at once', 'Look at how many of them are answered, and at how many handshakes that takes.');
  const calls = (client: Client) => Promise.allSettled(Array.from({ length: 10 }, (_, i) => client.callTool({ name: 'echo', arguments: { text: `call ${i}` } })));

  await using server = await startServer();
  await using client = await connect(server.url, { store: memoryStore() });
  let resets = 0;
  client.events.on('reset', ({ reason }) => {
    resets++;
    note('mcp-reprise', `reset: ${reason}`);
  });
  await client.subscribeResource({ uri: 'test://one' });
  await server.restart();
  const answers = await calls(client);
  note('mcp-reprise', `${fulfilled(answers)} of 10 calls answered; the new server process saw`);
  const seen = await server.requests();
  requests(seen);
  check('all ten calls succeeded', fulfilled(answers) === 10);
  check('one initialize and one reset for all of them', count(seen, 'initialize') === 1 && resets === 1);
  check('the subscription was restored', (await server.subscriptions())[0]?.uris.includes('test://one') === true);

  const bare = await bareClient(server);
  await server.restart();
  const bareAnswers = await calls(bare);
  const failure = bareAnswers.find((answer) => answer.status === 'rejected');
  verdict(`${fulfilled(bareAnswers)} of 10 calls answered: ${failure ? String(failure.reason).slice(0, 110) : ''}…`);
  await bare.close();
}

async function cutConnection(): Promise<void> {
  act('3. The connection is cut in the middle of a call; the server keeps its events', 'Both are answered. Look at how soon, and at how often the tool ran.');
  await using server = await startServer({ eventStore: true });
  await using client = await connect(server.url);
  const startedAt = performance.now();
  await client.callTool({ name: 'cutme', arguments: { nonce: 'ours', ms: 200 } });
  note('mcp-reprise', `answered after ${seconds(performance.now() - startedAt)}; the server saw`);
  const seen = await server.requests();
  requests(seen.slice(-3));
  check('the call was answered, and the tool ran once', (await ran(server, 'ours')) === 1);
  check('it was resumed by its event id', seen.some(({ lastEventId }) => lastEventId !== undefined));

  const bare = await bareClient(server);
  const bareStartedAt = performance.now();
  const outcome = await within(5000, bare.callTool({ name: 'cutme', arguments: { nonce: 'bare', ms: 200 } }));
  verdict(`${outcome} after ${seconds(performance.now() - bareStartedAt)}; the tool ran ${await ran(server, 'bare')} time(s)`);
  await bare.close();
}

async function cutWithoutEvents(): Promise<void> {
  act('4. The same on a server that keeps nothing: nobody can know what became of the call', 'Look at when the caller learns of it.');
  await using server = await startServer();
  await using client = await connect(server.url);
  const startedAt = performance.now();
  const failure: unknown = await client.callTool({ name: 'cutme', arguments: { nonce: 'ours', ms: 200 } }).catch((error: unknown) => error);
  note('mcp-reprise', `failed after ${seconds(performance.now() - startedAt)}, with`);
  note('', String(failure));
  check('the caller is told that the outcome is unknown', failure instanceof OutcomeUnknownError);
  check('and the tool was not run again', (await ran(server, 'ours')) === 1);
  await client.callTool({ name: 'work', arguments: { nonce: 'safe' } }, undefined, { safe: true });
  check('the same client goes on working', (await ran(server, 'safe')) === 1);

  const bare = await bareClient(server);
  const outcome = await within(3000, bare.callTool({ name: 'cutme', arguments: { nonce: 'bare', ms: 200 } }));
  verdict(`${outcome} (the SDK waits for its timeout of 60 s)`);
  await bare.close();
}

async function durableCall(): Promise<void> {
  act('5. The program is killed in the middle of a long call, which has a callId', 'Look at what the second process sends, and at how often the tool ran.');
  await using server = await startServer({ eventStore: true });
  const file = new URL('./demo/durable-program.ts', import.meta.url);
  const args = [server.url.href, join(directory, 'durable')];
  const first = runScript<Said>(file, args);
  await waitFor(async () => (await ran(server, 'import')) === 1);
  // Until the first event of its answer is noted: from then on the call can be joined.
  await waitFor(() => canBeJoined(join(directory, 'durable')));
  await first.kill('SIGKILL');
  note('mcp-reprise', `process ${first.pid} is killed (SIGKILL); the next one makes the same call, and the server sees`);
  await server.clearRequests();
  const second = runScript<Said>(file, args);
  const answer = await Promise.race([second.next('answer'), second.exit.then(() => undefined)]);
  const seen = await server.requests();
  requests(seen);
  await second.exit;
  check('the second process got the answer of the first one\'s call', JSON.stringify(answer).includes('done:import'));
  check('it only took up the stream: nothing was sent again', !has(seen, 'tools/call') && !has(seen, 'initialize'));
  check('the tool ran once', (await ran(server, 'import')) === 1);
}

function canBeJoined(store: string): boolean {
  const files = readdirSync(store, { withFileTypes: true }).filter((each) => each.isFile());
  return files.some(({ name }) => readFileSync(join(store, name), 'utf8').includes('\\"token\\":'));
}

async function bareClient(server: FixtureProcess): Promise<Client> {
  const client = new Client({ name: 'bare', version: '1.0.0' });
  await client.connect(new StreamableHTTPClientTransport(server.url) as Transport);
  return client;
}

/** What became of a call in that time. */
async function within(time: number, call: Promise<unknown>): Promise<string> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => (timer = setTimeout(resolve, time, `still pending after ${seconds(time)}`)));
  const outcome = await Promise.race([call.then(() => 'answered', (error: unknown) => `failed: ${String(error)}`), late]);
  clearTimeout(timer);
  return outcome;
}

async function ran(server: FixtureProcess, nonce: string): Promise<number> {
  return (await server.executions()).filter((execution) => execution.nonce === nonce).length;
}

function yes(holds: boolean): string {
  return holds ? 'yes' : 'no';
}

function fulfilled(results: readonly PromiseSettledResult<unknown>[]): number {
  return results.filter(({ status }) => status === 'fulfilled').length;
}

function count(entries: readonly WireEntry[], method: string): number {
  return entries.filter(({ http, rpc }) => http === method || rpc[0]?.method === method).length;
}

function has(entries: readonly WireEntry[], method: string): boolean {
  return count(entries, method) > 0;
}
