export { storeContract, type HeldElsewhere, type StoreAdapter, type TestFramework } from './testing/store-contract.ts';
