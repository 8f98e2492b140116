/**
 * What the stores cost: `npm run bench:stores`.
 *
 * On the record of a real session, with its list of tools: a read, a compare-and-set, and taking the session up, which is `connect()` with
 * a stored session (no request) and the way from there to the first answer. All stores take turns in one run; the figures are medians.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { chromium } from 'playwright';
import { createClient } from 'redis';
import { connect, encryptedStore, memoryStore, type Store } from '../../src/index.ts';
import { fileStore } from '../../src/node.ts';
import { redisStore } from '../../src/redis.ts';
import type { PageApi } from '../browser/page.ts';
import { CHROMIUM_ARGS, findChromium } from '../support/chromium.ts';
import { startEverything } from '../support/everything.ts';
import { startRedis } from '../support/redis.ts';
import { startSite } from '../support/site.ts';

const IN_BROWSER = 'indexedDbStore(), in Chromium';
const ROUNDS = 20;
const SETS = 20;
const MEASURES = ['get', 'set', 'connect', 'first answer'] as const;
type Measure = (typeof MEASURES)[number];

await using server = await startEverything();
const redis = await startRedis();
const directory = await mkdtemp(join(tmpdir(), 'reprise-bench-'));
const nodeRedis = await createClient({ url: redis.url }).connect();
const ioRedis = new Redis(redis.url);
const prefix = `bench-${process.pid}:`;
const key = await crypto.subtle.generateKey({ name: 'AES-GCM', length: 256 }, false, ['encrypt', 'decrypt']);
const stores: Record<string, Store> = {
  'memoryStore()': memoryStore(),
  'fileStore()': fileStore(join(directory, 'plain')),
  'redisStore(), node-redis': redisStore(nodeRedis, { prefix: `${prefix}a:` }),
  'redisStore(), ioredis': redisStore(ioRedis, { prefix: `${prefix}b:` }),
  'encryptedStore(fileStore())': encryptedStore(fileStore(join(directory, 'encrypted')), key),
};
declare global {
  var api: PageApi;
}

const samples = new Map<string, number[]>();
let size = 0;

/** Without a store: what a first answer costs with a handshake. */
async function withoutStore(): Promise<void> {
  const started = performance.now();
  const client = await connect(server.url, { listen: false });
  note('none', 'connect', started);
  await client.ping();
  note('none', 'first answer', started);
  await client.close();
}

async function withStore(name: string, store: Store): Promise<void> {
  const started = performance.now();
  const client = await connect(server.url, { store, listen: false });
  note(name, 'connect', started);
  await client.ping();
  note(name, 'first answer', started);
  const at = client.session.key ?? '';
  await client.close();
  for (let i = 0; i < SETS; i++) {
    const read = performance.now();
    const there = await store.get(at);
    note(name, 'get', read);
    if (!there) throw new Error(`${name} has lost the session`);
    size = there.value.length;
    const write = performance.now();
    await store.set(at, there.value, there.revision);
    note(name, 'set', write);
  }
}

/** In a page of its own: its connections to the server are those of a browser, and so is its clock, which counts in steps of 0.1 ms. */
async function inBrowser(): Promise<void> {
  const executablePath = await findChromium();
  if (executablePath === undefined) return;
  await using site = await startSite();
  const browser = await chromium.launch({ executablePath, args: CHROMIUM_ARGS });
  try {
    const page = await browser.newPage();
    await page.goto(site.url.href);
    await page.waitForFunction(() => 'api' in globalThis);
    const taken = await page.evaluate(([url, rounds]) => globalThis.api.measure(url, rounds), [server.url.href, ROUNDS] as const);
    for (const [measure, times] of Object.entries(taken)) samples.set(`${IN_BROWSER}/${measure}`, times);
  } finally {
    await browser.close();
  }
}

function note(name: string, measure: Measure, since: number): void {
  const id = `${name}/${measure}`;
  samples.set(id, [...(samples.get(id) ?? []), performance.now() - since]);
}

function median(name: string, measure: Measure): string {
  const sorted = (samples.get(`${name}/${measure}`) ?? []).sort((a, b) => a - b);
  return sorted.length === 0 ? '' : (sorted[sorted.length >> 1] as number).toFixed(2);
}

try {
  // Each session is made, with the list of tools in its record, and each store is warm, before anything counts.
  for (const store of Object.values(stores)) {
    await using client = await connect(server.url, { store, listen: false });
    await client.listTools();
  }
  for (const [name, store] of Object.entries(stores)) await withStore(name, store);
  await withoutStore();
  samples.clear();
  for (let round = 0; round < ROUNDS; round++) {
    const turns = [withoutStore, ...Object.entries(stores).map(([name, store]) => () => withStore(name, store))];
    for (const turn of turns.sort(() => Math.random() - 0.5)) await turn();
  }
  await inBrowser();
  console.log(`ms, medians of ${ROUNDS} rounds, a record of ${(size / 1000).toFixed(1)} kB, Node ${process.versions.node}\n`);
  console.log(`| store | ${MEASURES.join(' | ')} |\n|---|---|---|---|---|`);
  for (const name of ['none', ...Object.keys(stores), IN_BROWSER]) console.log(`| ${name} | ${MEASURES.map((measure) => median(name, measure)).join(' | ')} |`);
} finally {
  for (const store of Object.values(stores)) await store.close();
  for await (const each of nodeRedis.scanIterator({ MATCH: `${prefix}*` })) if (each.length > 0) await nodeRedis.del(each);
  nodeRedis.destroy();
  ioRedis.disconnect();
  await redis.stop();
  await rm(directory, { recursive: true, force: true });
}
