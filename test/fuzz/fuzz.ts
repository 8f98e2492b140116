import { parseArgs } from 'node:util';
import type { Campaign } from './campaign.ts';
import { record } from './recorded.ts';
import { fuzzRecords } from './records.ts';
import { fuzzReplies } from './replies.ts';

/**
 * Any number of mutations, by command:
 *
 *     npm run fuzz -- --count 1000000 --seed 7 [--what records|replies|http]
 *
 * `http`: changed answers over a real network. What fails is printed with its seed and index, and runs again by `--seed X --only I`.
 */
const { values } = parseArgs({
  options: { count: { type: 'string', default: '20000' }, seed: { type: 'string', default: String(Date.now() % 1_000_000) }, what: { type: 'string' }, only: { type: 'string' } },
});
const count = Number(values.count);
const seed = Number(values.seed);
const only = values.only === undefined ? undefined : Number(values.only);

const CAMPAIGNS = {
  records: fuzzRecords,
  replies: fuzzReplies,
  http: (recording, campaign) => fuzzReplies(recording, { ...campaign, overHttp: true }),
} satisfies Record<string, (recording: Awaited<ReturnType<typeof record>>, campaign: Campaign) => Promise<unknown>>;

const chosen = Object.entries(CAMPAIGNS).filter(([name]) => (values.what === undefined ? name !== 'http' : name === values.what));
if (chosen.length === 0 || !Number.isSafeInteger(count) || !Number.isSafeInteger(seed)) throw new TypeError('usage: npm run fuzz -- --count 1000000 --seed 7 [--what records|replies|http] [--only index]');

const recording = await record();
for (const [name, run] of chosen) {
  const start = performance.now();
  const before = process.cpuUsage();
  let toldAt = start;
  const onProgress = (done: number): void => {
    if (performance.now() - toldAt < 5000) return;
    toldAt = performance.now();
    const { user, system } = process.cpuUsage(before);
    console.log(`${name}: ${done} of ${count}, ${Math.round((done * 1000) / (toldAt - start))} per second, ${Math.round((done * 1e6) / (user + system))} per second of this process's own time`);
  };
  const tally: unknown = await run(recording, { count, seed, only, onProgress });
  const seconds = (performance.now() - start) / 1000;
  console.log(only === undefined ? `${name}: ${count} with seed ${seed} held, in ${seconds.toFixed(1)} s${tally ? `: ${JSON.stringify(tally)}` : ''}` : `${name}: index ${only} of seed ${seed} held`);
}
