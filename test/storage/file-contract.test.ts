import { describe, it } from 'vitest';
import { fileStore } from '../../src/storage/file-store.ts';
import { storeContract } from '../../src/testing.ts';
import { adapterOfFiles } from './file-contract-parts.ts';

describe.concurrent('The file store', () => {
  // Hundreds of kinds of damage need no warning each.
  storeContract({ describe, it }, adapterOfFiles((directory) => fileStore(directory, { onDamaged: () => {} })));
});
