import { inspect } from 'node:util';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ConflictError, StoreError } from '../../src/errors.ts';
import { seal } from '../../src/storage/encrypted-envelope.ts';
import { type EncryptionKey, Keyring } from '../../src/storage/encrypted-keys.ts';
import { encryptedStore, type EncryptedStoreOptions } from '../../src/storage/encrypted-store.ts';
import { memoryStore } from '../../src/storage/memory-store.ts';
import type { Store } from '../../src/storage/store.ts';
import { failureOf, keysOf, newKey, QUICK, rawValue } from './encrypted-parts.ts';

const VALUE = 'the session id is canary-7f3a';
const KEY = 'session/https%3A%2F%2Fexample.com/alice/default';

let key: CryptoKey;
/** The store below, as somebody sees it who has no key. */
let raw: Store;
beforeEach(async () => {
  key = await newKey();
  raw = memoryStore();
});
afterEach(() => vi.restoreAllMocks());

/** An encrypted store over the same data: another process, or the next one. */
function opened(keys: EncryptionKey | readonly EncryptionKey[] = key, options?: EncryptedStoreOptions): Store {
  return encryptedStore(raw, keys, options);
}

describe('What was tampered with', () => {
  it.each<[string, () => EncryptionKey]>([
    ['a key', () => key],
    ['a passphrase', () => QUICK],
  ])('is refused, whichever of its characters was changed or cut off (%s)', async (_, its) => {
    const store = opened(its());
    await store.set(KEY, VALUE);
    const sound = await rawValue(raw, KEY);
    for (let at = 0; at < sound.length; at++) {
      const changed = `${sound.slice(0, at)}${String.fromCharCode(sound.charCodeAt(at) ^ 1)}${sound.slice(at + 1)}`;
      for (const bad of [changed, sound.slice(0, at)]) {
        await raw.set(KEY, bad);
        expect(await failureOf(store.get(KEY)), bad).toMatchObject({ name: 'StoreError', code: 'STORE' });
      }
    }
    await raw.set(KEY, sound);
    expect((await store.get(KEY))?.value).toBe(VALUE);
  });

  it('is refused where base64 has another spelling for the same bytes', async () => {
    // A length after which the last letter has bits that say nothing.
    for (const value of ['', 'x', 'xx']) {
      await opened().set(KEY, value);
      const sound = await rawValue(raw, KEY);
      const padding = /=*$/.exec(sound)?.[0] ?? '';
      const letter = sound.at(-1 - padding.length) as string;
      const others = [
        `${sound.slice(0, -1 - padding.length)}${String.fromCharCode(letter.charCodeAt(0) + 1)}${padding}`,
        sound.slice(0, sound.length - padding.length),
        `${sound}=`,
        `${sound}\n`,
        ` ${sound}`,
        sound.replace(/(.{4})$/, ' $1'),
      ].filter((each) => each !== sound);
      for (const other of others) {
        await raw.set(KEY, other);
        expect(await failureOf(opened().get(KEY)), JSON.stringify(other)).toBeInstanceOf(StoreError);
      }
      await raw.delete(KEY);
    }
  });

  it.each<[string, (sound: string) => string]>([
    ['what was never encrypted', () => VALUE],
    ['a session in plain text', () => '{"v":1,"id":"canary"}'],
    ['an empty value', () => ''],
    ['a head without a text', (sound) => sound.slice(0, sound.lastIndexOf(':') + 1)],
    ['a later format', (sound) => sound.replace(':1:', ':2:')],
    ['a format that never was', (sound) => sound.replace(':1:', ':0:')],
    ['a salt where there was none', (sound) => sound.replace('::', `600000:${'A'.repeat(24)}:`)],
    ['rounds without a salt', (sound) => sound.replace('::', ':600000:')],
    ['the text of another envelope', (sound) => sound.replace(/[^:]*$/, btoa('x'.repeat(60)))],
  ])('is refused: %s', async (_, tamper) => {
    const store = opened();
    await store.set(KEY, VALUE);
    await raw.set(KEY, tamper(await rawValue(raw, KEY)));
    const error = await failureOf(store.get(KEY));
    expect(error).toMatchObject({ name: 'StoreError', code: 'STORE', outcome: undefined });
    expect(error.message).not.toContain('canary');
  });

  it('is refused, and not repeated, where somebody else has encrypted something with the same key', async () => {
    for (const text of ['canary', '{"canary":1}', 'null', '["canary"]', '["canary",1]', '["canary","1","2"]', '["canary",1,"2",3]']) {
      await raw.set(KEY, (await seal(new Keyring([key]), KEY, text, undefined)).envelope);
      expect(inspect(await failureOf(opened().get(KEY)), { depth: 10 }), text).toMatch(/^StoreError: (?!.*canary)/s);
    }
  });

  it('is refused where a number is spelled in another way', async () => {
    await opened(QUICK).set(KEY, VALUE);
    await raw.set(KEY, (await rawValue(raw, KEY)).replace(':100000:', ':0100000:'));
    expect(await failureOf(opened(QUICK).get(KEY))).toBeInstanceOf(StoreError);
  });

  it('is told from what a later version wrote', async () => {
    await opened().set(KEY, VALUE);
    await raw.set(KEY, (await rawValue(raw, KEY)).replace(':1:', ':2:'));
    expect((await failureOf(opened().get(KEY))).message).toMatch(/format 2, of a later version/);
  });

  it('does not keep us busy with more rounds than anybody would ask for', async () => {
    const store = opened(QUICK);
    await store.set(KEY, VALUE);
    await raw.set(KEY, (await rawValue(raw, KEY)).replace(':100000:', ':4000000000:'));
    const derive = vi.spyOn(crypto.subtle, 'deriveKey');
    expect(await failureOf(store.get(KEY))).toBeInstanceOf(StoreError);
    expect(derive).not.toHaveBeenCalled();
  });

  it('is refused under another key, whoever wrote both', async () => {
    const store = opened();
    await store.set('session/alice', 'of alice');
    await store.set('session/bob', 'of bob');
    const [alice, bob] = [await rawValue(raw, 'session/alice'), await rawValue(raw, 'session/bob')];
    await raw.set('session/alice', bob);
    await raw.set('session/bob', alice);
    await raw.set('session/carol', alice);
    for (const reader of [store, opened()]) {
      for (const place of ['session/alice', 'session/bob', 'session/carol']) expect(await failureOf(reader.get(place))).toBeInstanceOf(StoreError);
    }
  });

  it('tells apart keys that plain UTF-8 makes the same', async () => {
    await opened().set('\uD83E', VALUE);
    await raw.set('\uDD89', await rawValue(raw, '\uD83E'));
    expect(await failureOf(opened().get('\uDD89'))).toBeInstanceOf(StoreError);
  });

  it('is not written over, neither with nor without its revision, and can be deleted', async () => {
    const store = opened();
    await store.set(KEY, VALUE);
    const revision = await raw.set(KEY, 'tampered');
    for (const operation of [() => store.set(KEY, 'new'), () => store.set(KEY, 'new', revision), () => opened().set(KEY, 'new')]) {
      expect(await failureOf(operation())).toMatchObject({ code: 'STORE' });
    }
    expect(await failureOf(store.set(KEY, 'new', null))).toBeInstanceOf(ConflictError);
    expect(await rawValue(raw, KEY)).toBe('tampered');
    expect(await store.delete(KEY)).toBe(true);
    await store.set(KEY, 'new');
    expect((await store.get(KEY))?.value).toBe('new');
  });

  it('is no obstacle to other keys', async () => {
    const store = opened();
    await store.set(KEY, VALUE);
    await raw.set('tampered', 'with');
    await failureOf(store.get('tampered'));
    expect((await store.get(KEY))?.value).toBe(VALUE);
    expect(await keysOf(store)).toEqual([KEY, 'tampered']);
  });
});
