export { indexedDbStore } from './storage/indexeddb-store.ts';
