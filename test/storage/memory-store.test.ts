import { describe, expect, it } from 'vitest';
import { memoryStore } from '../../src/storage/memory-store.ts';
import { storeContract } from '../../src/testing.ts';

describe('The memory store', () => {
  // None of the other hooks: it has no backend that could fail, hang, be damaged or be littered, and no other process can see it.
  storeContract({ describe, it }, { create: memoryStore });

  it('shares nothing with another memory store', async () => {
    const one = memoryStore();
    const other = memoryStore();
    await one.set('key', 'value');
    expect(await other.get('key')).toBeUndefined();
    await one.lock('key', { ttl: 60_000 });
    await other.lock('key', { ttl: 60_000 });
  });
});
