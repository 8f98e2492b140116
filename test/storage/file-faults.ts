import fs from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';

/** File systems that fail, for the tests of the file store. */

/** The functions themselves, for tests that put others in their place. */
export const original = { ...fs };

type Patch = { readonly [K in 'open' | 'rename' | 'mkdir']?: (typeof fs)[K] } & { readonly readFile?: (path: string) => Promise<Buffer> };

/** Puts other functions in the place of some of `node:fs/promises`, until {@link unpatch}. */
export function patch(functions: Patch | Record<string, unknown>): void {
  Object.assign(fs, functions);
  syncBuiltinESMExports();
}

export function unpatch(): void {
  patch(original);
}

/** Makes the step-th call into the file system fail with EIO, in the order in which they are made. `stop` says whether it came to that. */
export function failAtStep(step: number): { stop(): boolean } {
  let calls = 0;
  const failing = (name: string, call: (...args: never[]) => Promise<unknown>) => async (...args: never[]) => {
    const fails = calls++ === step;
    // A close does happen, or its descriptor would be lost.
    if (fails && name !== 'close') throw failure('EIO');
    const result = await call(...args);
    if (fails) throw failure('EIO');
    return result;
  };
  const open = async (...args: Parameters<typeof fs.open>) => {
    const handle = await original.open(...args);
    for (const method of ['writeFile', 'sync', 'close', 'read'] as const) {
      Object.assign(handle, { [method]: failing(method, handle[method].bind(handle)) });
    }
    return handle;
  };
  const names = ['mkdir', 'readFile', 'readdir', 'rename', 'rm', 'rmdir'] as const;
  patch({ open: failing('open', open), ...Object.fromEntries(names.map((name) => [name, failing(name, original[name])])) });
  return {
    stop() {
      unpatch();
      return calls > step;
    },
  };
}

type Call = (...args: never[]) => Promise<unknown>;

/** Every function of the file system that a store uses, each told to `around` when it is called. */
function patchAll(around: (call: () => Promise<unknown>, path: string) => Promise<unknown>): void {
  const names = ['open', 'mkdir', 'opendir', 'readFile', 'readdir', 'rename', 'rm', 'rmdir', 'stat'] as const;
  patch(Object.fromEntries(names.map((name) => [name, (...args: never[]) => around(() => (original[name] as Call)(...args), String(args[0]))])));
}

/** Makes every call about a directory and what is in it wait, as one whose server is gone, until the function that it returns is called. */
export function hangIn(directory: string): () => void {
  let goOn = (): void => undefined;
  const hung = new Promise<void>((resolve) => (goOn = resolve));
  patchAll(async (call, path) => {
    if (path.startsWith(directory)) await hung;
    return call();
  });
  return () => {
    unpatch();
    goOn();
  };
}

/** Makes the step-th call into the file system wait, and none of the others. `reached` resolves when it came to that. */
export function hangAtStep(step: number): { readonly reached: Promise<string>; goOn(): void } {
  let calls = 0;
  let reach = (_: string): void => undefined;
  let goOn = (): void => undefined;
  const reached = new Promise<string>((resolve) => (reach = resolve));
  const hung = new Promise<void>((resolve) => (goOn = resolve));
  patchAll(async (call, path) => {
    if (calls++ === step) {
      reach(path);
      await hung;
    }
    return call();
  });
  return { reached, goOn };
}

/** Makes every change fail, as on a disk that is mounted to be read only. */
export function makeReadOnly(): void {
  const refuse = async (): Promise<never> => {
    throw failure('EROFS');
  };
  const open = async (path: string, flags: string, mode?: number) => (flags === 'r' ? original.open(path, flags, mode) : refuse());
  patch({ open, mkdir: refuse, rename: refuse, rm: refuse, rmdir: refuse });
}

/** Makes the disk full: a file takes the first half of what is written to it, and nothing more. */
export function fillDisk(): void {
  patch({
    open: async (...args) => {
      const handle = await original.open(...args);
      const write = handle.writeFile.bind(handle);
      return Object.assign(handle, {
        async writeFile(content: Buffer) {
          await write(content.subarray(0, content.length / 2));
          throw failure('ENOSPC');
        },
      });
    },
  });
}

export function failure(code: string): Error {
  return Object.assign(new Error(`${code}: the file system says no`), { code });
}
