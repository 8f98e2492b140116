import { ConflictError } from '../errors.ts';
import type { Store } from '../storage/store.ts';
import { sleep } from '../timers.ts';
import { equal, ok, rejects } from './assert.ts';
import { listed, ODD_KEYS } from './parts.ts';
import type { Contract } from './store-contract.ts';

const VALUES: readonly (readonly [what: string, value: string])[] = [
  ['plain text', 'value'],
  ['an empty value', ''],
  ['JSON', '{"a":[1,2,{"b":"\\n"}]}'],
  ['line ends and NUL', 'a\nb\r\nc\0d'],
  ['Unicode', '\uFEFFhéllo – 漢字 – 🦉 – \u202Ertl'],
  ['1 MB', '0123456789abcdé\n'.repeat(65_536)],
];
/** Half a character each: an encoding as UTF-8 makes them all the same. */
const HALVES = ['\uD83E', '\uDD89', '\uFFFD'];

/** What a store gives back, and which keys it has. */
export function valueCases({ group, check }: Contract): void {
  group('values', () => {
    check('has nothing under a key that was never set', async ({ store }) => {
      equal(await store.get('key'), undefined);
      equal(await listed(store, ''), []);
    });

    for (const [what, value] of VALUES) {
      check(`gives back ${what} as it was`, async ({ store }) => {
        const revision = await store.set('key', value);
        equal(await store.get('key'), { value, revision });
      });
    }

    check('gives back halves of characters as they were, or refuses them', async ({ store }) => {
      for (const half of HALVES) {
        const set = async (key: string, value: string): Promise<void> => {
          const error: unknown = await store.set(key, value, null).then(
            () => undefined,
            (reason: unknown) => reason,
          );
          if (error === undefined) equal((await store.get(key))?.value, value);
          else ok(error instanceof TypeError && half !== '\uFFFD', 'what cannot be kept is refused with a TypeError');
        };
        await set(`key ${half}`, 'value');
        await set(`value ${HALVES.indexOf(half)}`, half);
      }
    });

    check('gives back the newest value', async ({ store }) => {
      await store.set('key', 'a longer first value');
      const revision = await store.set('key', 'second');
      equal(await store.get('key'), { value: 'second', revision });
    });

    check('keeps keys apart', async ({ store }) => {
      await store.set('a', '1');
      await store.set('b', '2');
      await store.set('a', '3');
      await store.delete('b');
      await store.set('ab', '4');
      equal(await contents(store), [['a', '3'], ['ab', '4']]);
    });

    check('cannot be changed through what it gave out', async ({ store }) => {
      await store.set('key', 'value');
      const given = (await store.get('key')) as { value: string };
      try {
        given.value = 'changed';
      } catch {
        // Frozen is as good.
      }
      equal((await store.get('key'))?.value, 'value');
    });

    check('shows a reader the old value or the new one, never a part', async ({ store }) => {
      const written = new Map<string, string>();
      const seen: { value: string; revision: string }[] = [];
      let writing = true;
      const write = async (): Promise<void> => {
        for (const digit of '0123456789') {
          const value = digit.repeat(50_000 + Number(digit) * 10_000);
          written.set(await store.set('key', value), value);
        }
        writing = false;
      };
      const read = async (): Promise<void> => {
        while (writing) {
          const found = await store.get('key');
          if (found) seen.push(found);
          // Lets the writer go on, should reading be nothing but promises.
          await sleep(0);
        }
      };
      await Promise.all([write(), read(), read()]);
      for (const { value, revision } of seen) ok(written.get(revision) === value, 'a value and its revision belong together');
    });

    check('is still there for the next store', async ({ store, reopen }) => {
      const revision = await store.set('key', 'value');
      await store.close();
      const next = await reopen();
      equal(await next.get('key'), { value: 'value', revision });
      equal(await listed(next, ''), ['key']);
    }, 'reopen');

    check('is seen at once by another store over the same data', async ({ store, reopen }) => {
      const other = await reopen();
      const revision = await store.set('key', 'value');
      equal(await other.get('key'), { value: 'value', revision });
      await rejects(other.set('key', 'theirs', null), ConflictError);
      equal(await other.delete('key', revision), true);
      equal(await store.get('key'), undefined);
    }, 'reopen');
  });

  group('keys', () => {
    check('keeps odd keys, and keeps them apart', async ({ store }) => {
      for (const [index, key] of ODD_KEYS.entries()) await store.set(key, `${index}`, null);
      for (const [index, key] of ODD_KEYS.entries()) equal((await store.get(key))?.value, `${index}`, JSON.stringify(key));
      equal(await listed(store, ''), [...ODD_KEYS].sort());
      for (const key of ODD_KEYS) equal(await store.delete(key), true, JSON.stringify(key));
      equal(await listed(store, ''), []);
    });

    for (const key of ['__proto__', 'constructor', 'toString', 'hasOwnProperty']) {
      check(`finds nothing under ${key} before it is set`, async ({ store }) => {
        equal(await store.get(key), undefined);
        equal(await store.delete(key), false);
        await store.set(key, 'value', null);
        equal((await store.get(key))?.value, 'value');
        equal(({} as Record<string, unknown>)['value'], undefined);
      });
    }

    check('lists the keys that start with a prefix', async ({ store }) => {
      for (const key of ['a', 'a/1', 'a/2', 'a/2/x', 'A/1', 'b', 'ba/1', '*', '']) await store.set(key, 'value');
      equal(await listed(store, 'a/'), ['a/1', 'a/2', 'a/2/x']);
      equal(await listed(store, 'a'), ['a', 'a/1', 'a/2', 'a/2/x']);
      equal(await listed(store, 'c'), []);
      equal(await listed(store, ''), ['', '*', 'A/1', 'a', 'a/1', 'a/2', 'a/2/x', 'b', 'ba/1']);
    });

    check('takes a prefix by its letters, not for a pattern', async ({ store }) => {
      for (const key of ['*', '?', '[a]', '[a]b', 'a', 'ab', '\\*', '%', '_', '.', '^a', 'a$']) await store.set(key, 'value');
      for (const prefix of ['*', '?', '\\*', '%', '_', '.', '^', 'a$']) equal((await listed(store, prefix)).length, 1, prefix);
      equal(await listed(store, '[a]'), ['[a]', '[a]b']);
      equal(await listed(store, '[^b]'), []);
    });

    check('lists a key no more once it is deleted', async ({ store }) => {
      await store.set('a', 'value');
      await store.set('b', 'value');
      await store.delete('a');
      equal(await listed(store, ''), ['b']);
    });

    check('can be changed while its keys are listed', async ({ store }) => {
      for (const key of ['a', 'b', 'c']) await store.set(key, 'value');
      for await (const key of store.keys('')) await store.delete(key);
      equal(await listed(store, ''), []);
    });
  });
}

/** Not an object: a store that loses `__proto__` must not find a helper that does the same. */
async function contents(store: Store): Promise<(readonly [key: string, value: string | undefined])[]> {
  const keys = await listed(store, '');
  return Promise.all(keys.map(async (key) => [key, (await store.get(key))?.value] as const));
}
