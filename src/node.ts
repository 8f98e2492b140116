export { fileStore } from './storage/file-store.ts';
