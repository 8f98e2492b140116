import { setImmediate } from 'node:timers/promises';
import { beforeEach, describe, expect, it } from 'vitest';
import { ConflictError, StoreError } from '../../src/errors.ts';
import { encryptedStore } from '../../src/storage/encrypted-store.ts';
import { memoryStore } from '../../src/storage/memory-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { altered, failureOf, newKey, rawValue } from './encrypted-parts.ts';

const KEY = 'key';

let key: CryptoKey;
/** The store below, in the hands of somebody who puts old values back. */
let raw: Store;
let store: Store;
beforeEach(async () => {
  key = await newKey();
  raw = memoryStore();
  store = opened();
});

function opened(): Store {
  return encryptedStore(raw, key);
}

/** Writes one value after another, and says what each looked like in the store below. */
async function written(by: Store, values: readonly string[]): Promise<string[]> {
  const envelopes: string[] = [];
  for (const value of values) {
    await by.set(KEY, value);
    envelopes.push(await rawValue(raw, KEY));
  }
  return envelopes;
}

/** A store whose reads can be held up after they have read. */
function holdable(): { slow: Store; hold: () => () => void } {
  let held: Promise<void> | undefined;
  const slowly = altered(raw, {
    get: async (name) => {
      const found = await raw.get(name);
      await held;
      return found;
    },
  });
  const hold = (): (() => void) => {
    let goOn = (): void => {};
    held = new Promise((resolve) => {
      goOn = () => {
        held = undefined;
        resolve();
      };
    });
    return goOn;
  };
  return { slow: encryptedStore(slowly, key), hold };
}

async function expectReplay(operation: Promise<unknown>): Promise<void> {
  const error = await failureOf(operation);
  expect(error).toMatchObject({ name: 'StoreError', code: 'STORE' });
  expect(error.message).toMatch(/older than one that was here before.*left alone: delete it/);
}

describe('An old value that was put back', () => {
  it('is refused by who wrote the newer one, and by who read it', async () => {
    const reader = opened();
    const [first = '', second = ''] = await written(store, ['1', '2', '3']);
    expect((await reader.get(KEY))?.value).toBe('3');
    for (const old of [first, second]) {
      const revision = await raw.set(KEY, old);
      for (const witness of [store, reader]) {
        await expectReplay(witness.get(KEY));
        await expectReplay(witness.set(KEY, '4'));
        await expectReplay(witness.set(KEY, '4', revision));
      }
      expect(await rawValue(raw, KEY)).toBe(old);
    }
  });

  it('is accepted again once the newest is back', async () => {
    const [first = '', second = ''] = await written(store, ['1', '2']);
    await raw.set(KEY, first);
    await expectReplay(store.get(KEY));
    const revision = await raw.set(KEY, second);
    expect(await store.get(KEY)).toEqual({ value: '2', revision });
    await store.set(KEY, '3', revision);
    expect((await opened().get(KEY))?.value).toBe('3');
  });

  it('can be deleted, and makes room for a new one', async () => {
    const [first = ''] = await written(store, ['1', '2']);
    await raw.set(KEY, first);
    await expectReplay(store.get(KEY));
    expect(await store.delete(KEY)).toBe(true);
    await store.set(KEY, '3', null);
    expect((await store.get(KEY))?.value).toBe('3');
  });

  it('is refused after it was deleted here', async () => {
    const [first = '', second = ''] = await written(store, ['1', '2']);
    await store.delete(KEY);
    for (const old of [first, second]) {
      await raw.set(KEY, old);
      await expectReplay(store.get(KEY));
      await raw.delete(KEY);
    }
    await store.set(KEY, '3');
    await raw.set(KEY, second);
    await expectReplay(store.get(KEY));
  });

  it('is refused where it was deleted by another, and something new was seen since', async () => {
    const [first = ''] = await written(store, ['1']);
    const other = opened();
    await other.delete(KEY);
    await other.set(KEY, '2');
    expect((await store.get(KEY))?.value).toBe('2');
    await raw.set(KEY, first);
    await expectReplay(store.get(KEY));
  });

  it('is refused also where an honest writer that had not seen the newer one has written after it', async () => {
    const [first = ''] = await written(store, ['1', '2', '3', '4']);
    await raw.set(KEY, first);
    await opened().set(KEY, 'in good faith');
    await expectReplay(store.get(KEY));
  });

  it('is refused also where a read that was overtaken has brought an even older one meanwhile', async () => {
    const { slow, hold } = holdable();
    await store.set(KEY, 'old');
    await slow.get(KEY);
    const goOn = hold();
    const reading = slow.get(KEY);
    await setImmediate();
    await store.delete(KEY);
    await slow.set(KEY, '1', null);
    const first = await rawValue(raw, KEY);
    await slow.set(KEY, '2');
    goOn();
    expect((await reading)?.value).toBe('old');
    await raw.set(KEY, first);
    await expectReplay(slow.get(KEY));
  });

  it('is refused where it was never written, but only offered: a compare-and-set that lost', async () => {
    let offered = '';
    const spied = encryptedStore(altered(raw, { set: (name, value, expected) => ((offered = value), raw.set(name, value, expected)) }), key);
    const revision = await store.set(KEY, '1');
    await spied.get(KEY);
    await store.set(KEY, '2', revision);
    expect(await failureOf(spied.set(KEY, 'lost', revision))).toBeInstanceOf(ConflictError);
    await raw.set(KEY, offered);
    await expectReplay(store.get(KEY));
  });

  it('is no obstacle to other keys', async () => {
    await store.set('other', 'value');
    const [first = ''] = await written(store, ['1', '2']);
    await raw.set(KEY, first);
    await expectReplay(store.get(KEY));
    expect((await store.get('other'))?.value).toBe('value');
  });

  it('is taken, as the documentation says, by an instance that has seen no newer one', async () => {
    const [first = ''] = await written(store, ['1', '2']);
    await raw.set(KEY, first);
    expect((await opened().get(KEY))?.value).toBe('1');
    // And where it was deleted by another.
    const late = opened();
    await raw.delete(KEY);
    await raw.set(KEY, first);
    expect((await late.get(KEY))?.value).toBe('1');
  });

  it('is refused for the 1,000 keys that were used last', async () => {
    const old = new Map<string, string>();
    for (let i = 0; i < 1_000; i++) {
      await store.set(`${i}`, 'old');
      old.set(`${i}`, await rawValue(raw, `${i}`));
      await store.set(`${i}`, 'new');
    }
    for (const name of ['0', '500', '999']) await raw.set(name, old.get(name) as string);
    await expectReplay(store.get('0'));
    await store.set('one more', 'value');
    for (const name of ['0', '500', '999']) await expectReplay(store.get(name));
  });
});

describe('There is no false alarm', () => {
  it('where a value is removed and made anew, by whomever', async () => {
    const other = opened();
    for (let i = 0; i < 30; i++) {
      const [one, two] = i % 2 ? [store, other] : [other, store];
      await one.set(KEY, `${i}`);
      expect((await two.get(KEY))?.value).toBe(`${i}`);
      if (i % 3) await two.delete(KEY);
    }
  });

  it('where a read is overtaken by a write or a removal of this instance', async () => {
    const { slow, hold } = holdable();
    const overtakers: (() => Promise<unknown>)[] = [
      () => slow.set(KEY, 'newer'),
      async () => slow.set(KEY, 'newer', (await raw.get(KEY))?.revision),
      () => slow.delete(KEY),
    ];
    for (const overtake of overtakers) {
      const [old = ''] = await written(opened(), ['old']);
      await slow.get(KEY);
      const goOn = hold();
      const reading = slow.get(KEY);
      await overtake();
      goOn();
      expect((await reading)?.value).toBe('old');
      // Nor does what it read count for the newest.
      const revision = await raw.set(KEY, old);
      await expectReplay(slow.get(KEY));
      await raw.delete(KEY, revision);
    }
  });

  it('where many instances read, write and remove at the same time, each at its own pace', async () => {
    const pause = async (): Promise<void> => {
      for (let turns = Math.floor(Math.random() * 4); turns > 0; turns--) await setImmediate();
    };
    const paced = <T>(work: () => Promise<T>): Promise<T> => pause().then(work).then(async (result) => (await pause(), result));
    const uneven = altered(raw, {
      get: (name) => paced(() => raw.get(name)),
      set: (name, value, expected) => paced(() => raw.set(name, value, expected)),
      delete: (name, expected) => paced(() => raw.delete(name, expected)),
    });
    const stores = Array.from({ length: 4 }, () => encryptedStore(uneven, key));
    const kinds = new Set<string>();
    const step = async (each: Store): Promise<void> => {
      const dice = Math.random();
      try {
        if (dice < 0.4) await each.get(KEY);
        else if (dice < 0.5) await each.set(KEY, 'blind');
        else if (dice < 0.6) await each.set(KEY, 'first', null);
        else if (dice < 0.8) await each.set(KEY, 'next', (await each.get(KEY))?.revision ?? null);
        else await each.delete(KEY, dice < 0.9 ? (await each.get(KEY))?.revision : undefined);
        kinds.add('done');
      } catch (error) {
        // Whatever is not a conflict is a false alarm.
        if (!(error instanceof ConflictError)) throw error;
        kinds.add('conflict');
      }
    };
    for (let round = 0; round < 60; round++) await Promise.all(stores.flatMap((each) => [step(each), step(each), step(each)]));
    expect([...kinds].sort()).toEqual(['conflict', 'done']);
  });

  it('where a write happened although it failed', async () => {
    let failing = false;
    const unsure = encryptedStore(
      altered(raw, {
        set: async (name, value, expected) => {
          const revision = await raw.set(name, value, expected);
          if (failing) throw new StoreError('The connection was lost.');
          return revision;
        },
      }),
      key,
    );
    await unsure.set(KEY, '1');
    failing = true;
    await failureOf(unsure.set(KEY, '2'));
    failing = false;
    expect((await unsure.get(KEY))?.value).toBe('2');
    await unsure.set(KEY, '3');
    expect((await unsure.get(KEY))?.value).toBe('3');
  });
});
