import { inspect } from 'node:util';
import { Cluster, Redis } from 'ioredis';
import { createClient, createClientPool, createCluster, createSentinel, RESP_TYPES } from 'redis';
import { describe, expect, it, onTestFinished } from 'vitest';
import { StoreError } from '../../src/errors.ts';
import { type RedisClient, redisStore } from '../../src/redis.ts';
import { waitFor } from '../support/wait.ts';
import { kinds } from './redis-clients.ts';
import { admin, clientOf, failureOf, listed, newPrefix, redisUrl, removeAll, storeOf } from './redis-parts.ts';

const ODD_TEXTS = ['\uD83E', '\uDD89', '\uDD89\uD83E', 'a\uD83Eb', '\uFFFF', '\uFFFFd83e', '\uFFFD', '\uFEFFbom', '\0\uD83E\0', '\x10', '🦉', '\r\n$5\r\n'];

describe.skipIf(!redisUrl).each(kinds)('With a client of %s', (kind) => {
  describe('the Redis store', () => {
    it('gives back every string of JavaScript as it was, as a value and as a key', async () => {
      const store = storeOf(kind);
      for (const text of ODD_TEXTS) await store.set(text, text, null);
      for (const text of ODD_TEXTS) expect((await store.get(text))?.value, JSON.stringify(text)).toBe(text);
      expect(await listed(store)).toEqual([...ODD_TEXTS].sort());
    });

    it('takes a prefix literally, whatever it means in a pattern', async () => {
      const store = storeOf(kind);
      const starts = ['a*', 'a?', '[a]', '[^a]', 'a\\', '\\*', '\uFFFF', '\0'];
      for (const start of starts) await store.set(`${start}x`, 'value');
      await store.set('ax', 'value');
      for (const start of starts) expect(await listed(store, start), start).toEqual([`${start}x`]);
    });

    it('finds a key by a prefix that ends between the halves of a pair', async () => {
      const store = storeOf(kind);
      for (const key of ['🦉', '🦊', '\uD83E', 'a']) await store.set(key, 'value');
      expect(await listed(store, '\uD83E')).toEqual(['\uD83E', '🦉', '🦊'].sort());
    });

    it('lists every key, also while the database grows and shrinks', async () => {
      const store = storeOf(kind);
      const keys = Array.from({ length: 2_000 }, (_, index) => `key/${index}`);
      await Promise.all(keys.map((key) => store.set(key, '')));
      const found: string[] = [];
      for await (const key of store.keys('key/')) {
        found.push(key);
        if (found.length === 500) await Promise.all(keys.map((each) => store.set(`new/${each}`, '')));
        if (found.length === 1_000) await Promise.all(keys.map((each) => store.delete(`new/${each}`)));
      }
      expect(found.sort()).toEqual(keys.sort());
    });

    it('shares the data of its prefix only', async () => {
      const prefix = newPrefix();
      const [store, same, longer] = [storeOf(kind, { prefix }), storeOf(kind, { prefix }), storeOf(kind, { prefix: `${prefix}*` })];
      await store.set('key', 'value');
      expect(await listed(same)).toEqual(['key']);
      expect(await listed(longer)).toEqual([]);
      await longer.set('theirs', 'value');
      expect(await listed(store)).toEqual(['key']);
    });

    it('keeps a value for ever', async () => {
      const prefix = newPrefix();
      const store = storeOf(kind, { prefix });
      await store.set('key', 'value');
      expect(await timesToLive(`${prefix}value:*`)).toEqual([-1]);
    });

    it('with a ttl keeps a value so long after its last write', async () => {
      const prefix = newPrefix();
      const store = storeOf(kind, { prefix, ttl: 1_000 });
      const lasting = storeOf(kind, { prefix, ttl: 60_000 });
      await store.set('key', 'value');
      await lasting.set('key', 'again');
      expect(await timesToLive(`${prefix}value:*`)).toEqual([expect.toSatisfy((left: number) => left > 50_000 && left <= 60_000)]);
      const revision = await store.set('key', 'for a while');
      expect(await store.get('key')).toEqual({ value: 'for a while', revision });
      await waitFor(async () => (await store.get('key')) === undefined, { what: 'a value that expires' });
      expect(await listed(store)).toEqual([]);
      await expect(store.set('key', 'value', revision)).rejects.toMatchObject({ code: 'CONFLICT' });
      await store.set('key', 'value', null);
    });

    it('leaves nothing in Redis that stays, beside its values', async () => {
      const prefix = newPrefix();
      const store = storeOf(kind, { prefix });
      for (const key of ['a', 'b']) await store.set(key, 'value');
      await store.set('a', 'again');
      await store.delete('b');
      const staying = (await timesToLive(`${prefix}*`)).filter((left) => left === -1 || left > 3_000);
      expect(staying).toEqual([-1]);
    });

    it('sends a script once, and again when the server has forgotten it', async () => {
      const sent: string[] = [];
      const store = redisStore(spiedOn(clientOf(kind), (command) => void sent.push(command)), { prefix: newPrefix() });
      const redis = admin();
      await redis.script('FLUSH');
      await store.set('key', 'first');
      expect(sent.splice(0)).toContain('eval');
      await store.set('key', 'second');
      expect(sent.splice(0)).toEqual(['evalsha']);
      await redis.script('FLUSH');
      await store.set('key', 'third');
      expect(sent.splice(0)).toEqual(['evalsha', 'eval']);
      expect((await store.get('key'))?.value).toBe('third');
      await store.delete('key');
    });

    it('fails on what it did not write, and leaves it alone', async () => {
      const prefix = newPrefix();
      const store = storeOf(kind, { prefix });
      const redis = admin();
      await redis.mset(`${prefix}value:text`, 'a value of somebody else, of another library');
      await redis.lpush(`${prefix}value:list`, 'entry');
      for (const key of ['text', 'list']) {
        await expect(store.get(key)).rejects.toBeInstanceOf(StoreError);
        await expect(store.set(key, 'value', null)).rejects.toBeInstanceOf(StoreError);
      }
      expect(await redis.get(`${prefix}value:text`)).toContain('somebody else');
      expect(await redis.llen(`${prefix}value:list`)).toBe(1);
    });

    it('says nothing of keys and values in an error, not even in its cause', async () => {
      const prefix = newPrefix();
      const store = storeOf(kind, { prefix });
      const redis = admin();
      await redis.lpush(`${prefix}value:secret-key`, 'entry');
      const error = await failureOf(store.set('secret-key', 'secret-value'));
      expect(error).toMatchObject({ code: 'STORE', cause: { message: expect.stringContaining('WRONGTYPE') } });
      expect(inspect(error, { depth: 9, showHidden: true })).not.toContain('secret');

      const old = "ERR unknown command 'evalsha', with args beginning with: 'sha' '1' 'secret-key' ";
      const refusing = redisStore(spiedOn(clientOf(kind), () => Promise.reject(Object.assign(new Error(old), { command: { args: ['secret-value'] } }))));
      const refused = await failureOf(refusing.set('secret-key', 'secret-value'));
      expect(refused.cause).toMatchObject({ message: "ERR unknown command 'evalsha'" });
      expect(inspect(refused, { depth: 9, showHidden: true })).not.toContain('secret');
    });

    it('leaves the client as it is when it is closed', async () => {
      const client = clientOf(kind);
      const prefix = newPrefix();
      const store = redisStore(client, { prefix });
      await store.set('key', 'value');
      await store.close();
      const next = redisStore(client, { prefix });
      expect((await next.get('key'))?.value).toBe('value');
      await next.delete('key');
    });
  });
});

describe.skipIf(!redisUrl)('The Redis store', () => {
  it('shares its data between the two kinds of client', async () => {
    const prefix = newPrefix();
    const [one, other] = [storeOf('node-redis', { prefix }), storeOf('ioredis', { prefix })];
    for (const [writer, reader] of [[one, other], [other, one]] as const) {
      for (const text of ODD_TEXTS) {
        const revision = await writer.set(text, text);
        expect(await reader.get(text)).toEqual({ value: text, revision });
      }
      expect(await listed(reader)).toEqual([...ODD_TEXTS].sort());
      for (const text of ODD_TEXTS) expect(await reader.delete(text)).toBe(true);
      expect(await listed(writer)).toEqual([]);
    }
  });

  it('has a prefix of its own', async () => {
    const key = newPrefix();
    const store = redisStore(clientOf('ioredis'));
    await store.set(key, 'value');
    expect(await admin().keys(`mcp-reprise:*${key}`)).toHaveLength(1);
    await store.delete(key);
  });

  it.each<[string, () => Promise<RedisClient>]>([
    ['a pool of node-redis', async () => {
      const pool = createClientPool({ url: redisUrl });
      onTestFinished(() => pool.destroy());
      await pool.connect();
      return pool;
    }],
    ['node-redis with RESP3 and Buffers', async () => {
      const client = createClient({ url: redisUrl, RESP: 3, commandOptions: { typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer } } });
      onTestFinished(() => client.destroy());
      return client.connect();
    }],
    ['node-redis that maps types on the way', async () => {
      const client = createClient({ url: redisUrl });
      onTestFinished(() => client.destroy());
      await client.connect();
      return client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer, [RESP_TYPES.NUMBER]: String });
    }],
    ['ioredis with a prefix of its own', async () => ioredis({ keyPrefix: 'test:prefix*[' })],
    ['ioredis with numbers as strings', async () => ioredis({ stringNumbers: true })],
    ['ioredis that makes pipelines', async () => ioredis({ enableAutoPipelining: true })],
    ['ioredis that resends nothing', async () => ioredis({ autoResendUnfulfilledCommands: false })],
    ['ioredis that connects when it must', async () => ioredis({ lazyConnect: true })],
  ])('works with %s', async (_, connected) => {
    const prefix = newPrefix();
    onTestFinished(() => removeAll(prefix));
    const store = redisStore(await connected(), { prefix, ttl: 60_000 });
    const revision = await store.set('a', 'value', null);
    await Promise.all(['a/1', 'a/2', 'b'].map((key) => store.set(key, key, null)));
    expect(await store.get('a')).toEqual({ value: 'value', revision });
    expect(await listed(store, 'a')).toEqual(['a', 'a/1', 'a/2']);
    await expect(store.set('a', 'value', null)).rejects.toMatchObject({ code: 'CONFLICT' });
    const lock = await store.lock('a', { ttl: 60_000 });
    expect(lock.fence).toBeGreaterThan(0);
    await lock.release();
    for (const key of await listed(store)) expect(await store.delete(key)).toBe(true);
    expect(await listed(store)).toEqual([]);
    await store.close();
  });
});

it('lists a key once that Redis tells of twice', async () => {
  const pages: Record<string, [string, string[]]> = { 0: ['7', ['p:value:a', 'p:value:b']], 7: ['0', ['p:value:b', 'p:value:c']] };
  const store = redisStore({ call: async (_, cursor = '') => pages[cursor] }, { prefix: 'p:' });
  expect(await listed(store)).toEqual(['a', 'b', 'c']);
});

it('gives each write its time by the clock of the server, also after that was set or is another server\'s', async () => {
  let now = 0;
  let late = 0;
  const times: number[] = [];
  const store = redisStore({
    async call(_command, _sha, keys = '', ...rest) {
      const last = Number(rest[Number(keys)]);
      if (now >= last && ++late > 10) throw new Error('It goes on asking.');
      if (now >= last) return ['late', now];
      times.push(last - now);
      return ['done', now];
    },
  });
  const hour = 3_600_000;
  for (now of [100 * hour, 101 * hour, 99 * hour, 99 * hour]) await store.set('key', 'value');
  expect(times[0]).toBeLessThanOrEqual(2_500);
  expect(times[1]).toBeLessThanOrEqual(2_500);
  // What was set back could not be known before the first reply.
  expect(times[2]).toBeGreaterThan(hour);
  expect(times[3]).toBeLessThanOrEqual(2_500);
});

describe('The Redis store refuses', () => {
  const client = { call: async () => null };

  it.each<[string, unknown]>([
    ['nothing', undefined],
    ['a URL', 'redis://localhost'],
    ['what is no client', { get: async () => null }],
    ['a cluster of node-redis', createCluster({ rootNodes: [{ url: 'redis://localhost' }] })],
    ['a sentinel of node-redis', createSentinel({ name: 'name', sentinelRootNodes: [{ host: 'localhost', port: 1 }] })],
    ['a cluster of ioredis', new Cluster([{ host: 'localhost' }], { lazyConnect: true })],
  ])('%s as its client', (_, bad) => {
    expect(() => redisStore(bad as RedisClient)).toThrow(TypeError);
  });

  it('options that make no sense', () => {
    const make = (options: object) => () => redisStore(client, options);
    expect(make({ keyPrefix: 'x' })).toThrow(TypeError);
    expect(make({ prefix: 1 })).toThrow(TypeError);
    expect(make({ ttl: '1' })).toThrow(TypeError);
    for (const ttl of [0, -1, Number.NaN]) expect(make({ ttl })).toThrow(RangeError);
    for (const ttl of [undefined, 0.5, 1, Number.POSITIVE_INFINITY]) expect(make({ ttl })).not.toThrow();
  });

  it('an answer that makes no sense', async () => {
    const store = redisStore(client);
    await expect(store.set('key', 'value')).rejects.toBeInstanceOf(StoreError);
    await expect(listed(store)).rejects.toBeInstanceOf(StoreError);
  });
});

function ioredis(options: object): Redis {
  const client = new Redis(redisUrl, options);
  onTestFinished(() => client.disconnect());
  return client;
}

/** The client, with each of its commands told before. */
function spiedOn(client: RedisClient, tell: (command: string) => void | Promise<unknown>): RedisClient {
  if ('call' in client) return { call: async (...command) => (await tell(command[0])) ?? client.call(...command) };
  return { sendCommand: async (command, options) => (await tell(command[0] ?? '')) ?? client.sendCommand(command, options) };
}

/** How long the keys in Redis that fit a pattern stay, in ms; -1: for ever. */
async function timesToLive(pattern: string): Promise<number[]> {
  const redis = admin();
  return Promise.all((await redis.keys(pattern)).map((key) => redis.pttl(key)));
}
