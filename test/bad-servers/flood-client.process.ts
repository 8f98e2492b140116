import { readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { connect, type RepriseError } from '../../src/index.ts';
import { next, send } from '../support/client-script.ts';

/** A client in a process of its own, for the tests of memory: calls what it is told, and says how much memory that took at the most. */
export type Told = { type: 'flood'; flood: string; url: string; limit: number; overFetch: boolean };
export type Said = { type: 'flooded'; code: unknown; outcome: unknown; message: string; answer: unknown; next: unknown; grown: number; heard: number };

/** The most memory that this process has had, in bytes: Linux knows it, elsewhere the samples must do. */
function peak(): number {
  try {
    const [, kilobytes] = /VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
    if (kilobytes !== undefined) return Number(kilobytes) * 1024;
  } catch {
    // No Linux.
  }
  return process.memoryUsage().rss;
}

const { flood, url, limit, overFetch } = await next<Told>('flood');
const client = await connect(url, {
  listen: false,
  retry: false,
  limits: { responseBytes: limit },
  ...(overFetch ? { fetch: (target: string | URL, init?: RequestInit) => fetch(target, init) } : {}),
});
// What any call needs for the first time is not the flood's.
for (let i = 0; i < 20; i++) await client.callTool({ name: 'echo', arguments: { text: 'x'.repeat(10_000) } });
setFlagsFromString('--expose-gc');
(runInNewContext('gc') as () => void)();
const before = process.memoryUsage().rss;
let most = 0;
const sampling = setInterval(() => (most = Math.max(most, process.memoryUsage().rss)), 5);
let heard = 0;
const outcome = await client.callTool({ name: flood, arguments: { text: 'through it all' } }, undefined, { timeout: 120_000, onprogress: () => heard++ }).then(
  (answer) => ({ answer }),
  (error: unknown) => ({ error: error as RepriseError }),
);
clearInterval(sampling);
const grown = Math.max(most, peak()) - before;
const after = await client.callTool({ name: 'echo', arguments: { text: 'the next one' } });
await client.close();
const { code, outcome: became, message } = 'error' in outcome ? outcome.error : { code: undefined, outcome: undefined, message: '' };
send({ type: 'flooded', code, outcome: became, message, answer: 'answer' in outcome ? outcome.answer : undefined, next: after, grown, heard });
