export { type Counter, type HeldElsewhere, storeContract, type StoreAdapter, type TestFramework } from './testing/store-contract.ts';
