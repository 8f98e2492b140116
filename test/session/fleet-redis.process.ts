import { LoggingMessageNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { ResilientClient, type RepriseError } from '../../src/index.ts';
import { redisStore } from '../../src/redis.ts';
import { clients, type Kind } from '../storage/redis-clients.ts';
import { next, send } from '../support/client-script.ts';
import { say } from './say.ts';

/**
 * A worker of a fleet that shares its session through Redis: `<name> <kind of Redis client> <Redis> <prefix> <server>`. From 'go' on it
 * calls without a pause, and tells of each call what became of it; after 'stop' it makes no new ones. Every request of it says its name.
 */
export type Told = { type: 'go' } | { type: 'round' } | { type: 'stop' };

export type Said =
  | { type: 'ready' }
  | { type: 'connected'; id: string | undefined; resumed: boolean }
  | Settled
  | { type: 'heard'; text: string }
  | { type: 'told'; event: string; text: string }
  /** Calls of each kind that were made after so many rounds were asked for are answered. */
  | { type: 'round'; number: number }
  | { type: 'stopped'; asked: number };

/** A call that is over: its answer, or how it failed. */
export type Settled = {
  type: 'settled';
  tool: Tool;
  nonce: string;
  answer?: string;
  code?: string;
  outcome?: string | undefined;
};

/** `work` must not run twice, `look` may. */
type Tool = 'work' | 'look';

const [name = '', kind, redisUrl = '', prefix = '', url = ''] = process.argv.slice(2);
const tell = (said: Said): void => send(said);
const redis = clients[kind as Kind](redisUrl).client;
const client = new ResilientClient(url, { store: redisStore(redis, { prefix }), headers: { 'x-worker': name } });
client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => tell({ type: 'heard', text: String(params.data) }));
client.events.on('reset', ({ adopted }) => tell({ type: 'told', event: 'reset', text: adopted ? 'adopted' : 'made' }));
client.events.on('cursorLost', ({ reason }) => tell({ type: 'told', event: 'cursorLost', text: reason }));
client.events.on('warning', ({ message }) => tell({ type: 'told', event: 'warning', text: message }));

let stopping = false;
let asked = 0;
/** How many rounds were asked for, and for each kind of call the last one with an answer to a call that began in it. */
let round = 0;
const answered = { work: 0, look: 0 };
let roundsTold = 0;

async function callInTurn(tool: Tool): Promise<void> {
  while (!stopping) {
    const nonce = `${name} ${++asked}`;
    const began = round;
    try {
      const answer = await say(client, tool, { nonce, ms: 80 }, tool === 'look' ? { safe: true } : {});
      tell({ type: 'settled', tool, nonce, answer });
      answered[tool] = began;
      while (roundsTold < Math.min(answered.work, answered.look)) tell({ type: 'round', number: ++roundsTold });
    } catch (error) {
      const { message, code = message, outcome } = error as RepriseError;
      tell({ type: 'settled', tool, nonce, code, outcome });
    }
  }
}

tell({ type: 'ready' });
await next<Told>('go');
await client.connect();
tell({ type: 'connected', id: client.session.id, resumed: client.session.resumed });
const lanes = [callInTurn('work'), callInTurn('look')];
while ((await next<Told>()).type === 'round') round++;
stopping = true;
await Promise.all(lanes);
// It stays, and is killed with the others: where many leave at once the server may see who has the stream next before it sees that the
// last one has gone.
tell({ type: 'stopped', asked });
