import { expect, it } from 'vitest';
import { memoryStore } from '../../src/storage/memory-store.ts';
import { describeStore } from './contract.ts';

describeStore('The memory store', async () => {
  const store = memoryStore();
  return { store, destroy: () => store.close() };
});

it('shares nothing with another memory store', async () => {
  const one = memoryStore();
  const other = memoryStore();
  await one.set('key', 'value');
  expect(await other.get('key')).toBeUndefined();
});
