import { ConflictError } from '../errors.ts';
import type { Store } from '../storage/store.ts';

/** What several files of cases need. */

/** Who is not killed as soon as it has said something is killed within that time, in ms: anywhere in its next turns. */
export const SOON = 10;

export async function listed(store: Store, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const key of store.keys(prefix)) keys.push(key);
  return keys.sort();
}

/** Adds one to the number under a key, trying again until nobody was in between. */
export async function increment(store: Store, key: string): Promise<void> {
  for (;;) {
    const current = await store.get(key);
    try {
      await store.set(key, `${Number(current?.value ?? 0) + 1}`, current?.revision ?? null);
      return;
    } catch (error) {
      if (!(error instanceof ConflictError)) throw error;
    }
  }
}

/** A promise that is looked at later: should the case fail before, nobody is to look at it at all. */
export function pending<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}

export function times<T>(count: number, make: (index: number) => T): T[] {
  return Array.from({ length: count }, (_, index) => make(index));
}

/** For what a file system, a pattern, an object or an encoding could take for something else. */
export const ODD_KEYS: readonly string[] = [
  '',
  ' ',
  '.',
  '..',
  '../',
  '../../etc/passwd',
  '/absolute',
  'C:\\windows',
  'CON',
  'locks',
  'a/b',
  'a\\b',
  'a:b*c?"<>|%2F%00',
  'nul\0byte',
  'nul\0bytf',
  'line\nend',
  'trailing ',
  'trailing.',
  'case',
  'CASE',
  'Case',
  'é'.normalize('NFC'),
  'é'.normalize('NFD'),
  'ﬁ',
  'fi',
  'ß',
  'ss',
  '🦉',
  '__proto__',
  'constructor',
  'toString',
  'k'.repeat(4_096),
  `${'k'.repeat(4_095)}l`,
  '\0'.repeat(4_096),
  '漢'.repeat(4_096),
];
