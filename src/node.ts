export { type DamagedFile, fileStore, type FileStoreOptions } from './storage/file-store.ts';
export { presets } from './registry/presets.ts';
