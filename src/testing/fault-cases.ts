import { ConflictError, StoreError } from '../errors.ts';
import type { Store, StoredValue } from '../storage/store.ts';
import { after } from '../timers.ts';
import { equal, ok } from './assert.ts';
import { listed, SOON, times } from './parts.ts';
import type { Contract, Subject } from './store-contract.ts';

/** For locks that may have to be waited for after a failure, in ms. */
const SHORT = 200;
/** More steps than any use takes: who is not through by then is not getting anywhere. */
const MOST_STEPS = 1_000;
const OLD = 'the old value';
/** Long enough that a part of it can be written. */
const NEW = 'the new value, '.repeat(1_000);

/** What a backend's failures may cost: a use, but no value, nothing that is not true, and no room for good. */
export function faultCases({ group, check }: Contract): void {
  group('a step that fails', () => {
    check('in get is an error, or costs nothing', (subject) =>
      atEachStep(subject, async (failing) => {
        const old = await put(subject.store);
        const outcome = await failing(() => subject.store.get('key'));
        if ('value' in outcome) equal(outcome.value, old);
        equal(await subject.store.get('key'), old);
      }), 'failStep');

    check('in a listing is an error, or leaves out no more than what could not be read', async (subject) => {
      await put(subject.store);
      for (const key of ['a', 'b']) await subject.store.set(key, 'value');
      const all = ['a', 'b', 'key'];
      await atEachStep(subject, async (failing) => {
        const outcome = await failing(() => listed(subject.store, ''));
        if ('value' in outcome) {
          equal(outcome.value, all.filter((key) => outcome.value.includes(key)));
          ok(outcome.value.length >= all.length - 1, 'one failure hides no more than one key');
        }
        equal(await listed(subject.store, ''), all);
      });
    }, 'failStep');

    for (const [what, expected] of [['set', () => undefined], ['a compare-and-set', (old: StoredValue) => old.revision]] as const) {
      check(`in ${what} leaves the old value or the new one`, (subject) =>
        atEachStep(subject, async (failing) => {
          const old = await put(subject.store);
          const outcome = await failing(() => subject.store.set('key', NEW, expected(old)));
          const found = await subject.store.get('key');
          if ('value' in outcome) equal(found, { value: NEW, revision: outcome.value });
          else if (found?.value !== NEW) equal(found, old, 'after the failure');
          await expectWorking(subject.store, found);
        }), 'failStep');
    }

    check('in a set of what is new leaves nothing or the value', (subject) =>
      atEachStep(subject, async (failing) => {
        await subject.store.delete('key');
        const outcome = await failing(() => subject.store.set('key', NEW, null));
        const found = await subject.store.get('key');
        if ('value' in outcome) equal(found, { value: NEW, revision: outcome.value });
        else ok(found === undefined || found.value === NEW, 'nothing is there, or the whole value');
        await expectWorking(subject.store, found);
      }), 'failStep');

    check('in delete leaves the old value or none', (subject) =>
      atEachStep(subject, async (failing) => {
        const old = await put(subject.store);
        const outcome = await failing(() => subject.store.delete('key', old.revision));
        const found = await subject.store.get('key');
        if ('value' in outcome) equal([outcome.value, found], [true, undefined]);
        else if (found !== undefined) equal(found, old, 'after the failure');
        await expectWorking(subject.store, found);
      }), 'failStep');

    check('in taking or releasing a lock keeps it from nobody for longer than its ttl', async (subject) => {
      let last = Number.NEGATIVE_INFINITY;
      const take = async (): Promise<void> => {
        const { fence, release } = await subject.store.lock('key', { ttl: SHORT });
        ok(fence > last, `the fencing number ${fence} is above ${last}`);
        last = fence;
        await release();
      };
      await atEachStep(subject, async (failing) => {
        await failing(take);
        await take();
      });
    }, 'failStep');
  });

  group('damage', () => {
    check('to what is stored is an error or leaves nothing, and is never taken for a value', async ({ store, damage }) => {
      const value = '"värdé"';
      await store.set('key', value);
      let ways = 0;
      for await (const what of damage('key')) {
        ways++;
        const keys = await outcomeOf(listed(store, ''));
        if ('value' in keys) ok(keys.value.every((key) => key === 'key'), `${what}: there is a key that never was`);
        const found = await outcomeOf(store.get('key'));
        if ('value' in found && found.value !== undefined) equal(found.value.value, value, what);
        for (const outcome of [keys, found]) if ('error' in outcome) expectStoreError(outcome.error, what);
      }
      ok(ways > 0, 'something was damaged');
      equal((await store.get('key'))?.value, value, 'when all is as it was');
    }, 'damage');
  });

  group('remains', () => {
    check('are none when all is deleted and released', async ({ store, leftovers }) => {
      const revision = await store.set('key', 'value', null);
      await store.set('other', 'value');
      await store.set('key', NEW, revision);
      await Promise.allSettled([store.set('key', 'wrong', revision), store.set('key', 'wrong', null), store.delete('key', revision)]);
      await (await store.lock('key', { ttl: SHORT })).release();
      for (const key of ['key', 'other', 'never']) await store.delete(key);
      await store.close();
      equal(await leftovers(), []);
    }, 'leftovers');

    check('of steps that failed are cleared away by the next store', async (subject) => {
      const { store } = subject;
      await atEachStep(subject, async (failing) => {
        await failing(async () => {
          await store.set('key', NEW);
          await store.delete('key');
          await (await store.lock('key', { ttl: SHORT })).release();
        });
      });
      await store.close();
      await expectCleared(subject);
    }, 'failStep', 'leftovers', 'reopen');

    check('of processes that were killed are cleared away by the next store', async (subject) => {
      const counters = await Promise.all(
        times(3, (index) => {
          let told = 0;
          return subject.spawn('key', Number.MAX_SAFE_INTEGER, () => {
            // In the midst of the next ones, for what is under way then.
            if (++told === 1 + index) after(Math.random() * SOON, () => void counters[index]?.kill());
          });
        }),
      );
      await Promise.all(counters.map((each) => each.run()));
      await subject.store.close();
      await expectCleared(subject);
    }, 'spawn', 'leftovers', 'reopen');
  });
}

type Outcome<T> = { readonly value: T } | { readonly error: unknown };

async function outcomeOf<T>(promise: Promise<T>): Promise<Outcome<T>> {
  return promise.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  );
}

function expectStoreError(error: unknown, what: string): void {
  if (!(error instanceof StoreError)) throw new Error(`${what}: expected a StoreError, got ${String(error)}`, { cause: error });
}

/**
 * Does the same again and again, each time with another step that fails, until there is none any more. What it runs as `failing` may fail
 * for it: with a StoreError, but not with a conflict, because there was nobody else.
 */
async function atEachStep({ failStep }: Subject, turn: (failing: <T>(use: () => Promise<T>) => Promise<Outcome<T>>) => Promise<void>): Promise<void> {
  for (let step = 1; step <= MOST_STEPS; step++) {
    let reached = false;
    const failing = async <T>(use: () => Promise<T>): Promise<Outcome<T>> => {
      const stop = await failStep(step);
      const outcome = await outcomeOf(use());
      reached = await stop();
      if ('error' in outcome) {
        if (!reached) throw outcome.error;
        expectStoreError(outcome.error, `step ${step}`);
        ok(!(outcome.error instanceof ConflictError), `step ${step}: there is a conflict with nobody`);
      }
      return outcome;
    };
    try {
      await turn(failing);
    } catch (error) {
      throw new Error(`step ${step}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
    }
    if (reached) continue;
    ok(step > 1, 'some step failed');
    return;
  }
  throw new Error(`it is not through after ${MOST_STEPS} steps`);
}

async function put(store: Store): Promise<StoredValue> {
  return { value: OLD, revision: await store.set('key', OLD) };
}

/** Expects that what was found is there to stay, and can be written over. */
async function expectWorking(store: Store, found: StoredValue | undefined): Promise<void> {
  equal(await store.get('key'), found, 'read again');
  const revision = await store.set('key', 'next', found?.revision ?? null);
  equal(await store.get('key'), { value: 'next', revision }, 'written over');
}

/** Expects that nothing remains after another store was used. */
async function expectCleared({ reopen, leftovers }: Subject): Promise<void> {
  // For what it does on the way: now the remains are old.
  await leftovers();
  const next = await reopen();
  await next.set('key', 'value');
  await (await next.lock('key', { ttl: SHORT })).release();
  await next.delete('key');
  await next.close();
  equal(await leftovers(), []);
}
