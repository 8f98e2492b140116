import { mkdir, writeFile } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import { original, patch } from './file-faults.ts';

/**
 * A disk that remembers in which order things came to it, and says what may be left of them after a power failure.
 *
 * POSIX promises little: the content of a file is there once the file was synced, its name once the directory was. Of everything else
 * the disk may have kept all, nothing, or some.
 */

type Step =
  | { readonly do: 'directory' | 'remove' | 'sync directory'; readonly path: string }
  | { readonly do: 'file'; readonly path: string; readonly file: File }
  | { readonly do: 'rename'; readonly path: string; readonly to: string };

/** A file under whatever name: its content as it was written last, and as it was synced last, each by the number of steps before. */
interface File {
  readonly contents: { readonly at: number; readonly bytes: Buffer; readonly synced: boolean }[];
}

interface Directory {
  readonly entries: Map<string, Directory | File>;
  /** The entries when it was synced last. */
  synced: Map<string, Directory | File>;
}

/** What is on a disk, by its path: the bytes of a file, or `undefined` for a directory. */
export type Image = ReadonlyMap<string, Buffer | undefined>;

export class Disk {
  readonly #root: string;
  readonly #steps: Step[] = [];
  readonly #marks: { readonly at: number; readonly mark: string }[] = [];

  /** Records what happens below `root`, which is empty, from now on and until `unpatch`. */
  constructor(root: string) {
    this.#root = root;
    const { open, mkdir, rename, rm, rmdir } = original;
    patch({
      open: async (...args: Parameters<typeof open>) => this.#watched(await open(...args), args),
      mkdir: async (...args: Parameters<typeof mkdir>) => {
        const first = (await mkdir(...args)) as string | undefined;
        const path = String(args[0]);
        const recursive = typeof args[1] === 'object' && args[1]?.recursive === true;
        // Made one by one, from the first that was missing.
        const made = recursive ? ancestors(path).filter((each) => first !== undefined && each.length >= first.length) : [path];
        for (const each of made) this.#steps.push({ do: 'directory', path: each });
        return first;
      },
      rename: async (from: string, to: string) => {
        await rename(from, to);
        this.#steps.push({ do: 'rename', path: from, to });
      },
      rm: async (...args: Parameters<typeof rm>) => {
        await rm(...args);
        this.#steps.push({ do: 'remove', path: String(args[0]) });
      },
      rmdir: async (path: string) => {
        await rmdir(path);
        this.#steps.push({ do: 'remove', path });
      },
    });
  }

  /** Notes that something has been promised by now. */
  mark(mark: string): void {
    this.#marks.push({ at: this.#steps.length, mark });
  }

  /** All that may be on the disk after a power failure at some time, with the promises that were made before. */
  *failures(): Generator<{ readonly image: Image; readonly marks: readonly string[]; readonly what: string }> {
    for (let at = 0; at <= this.#steps.length; at++) {
      const marks = this.#marks.filter((each) => each.at <= at).map(({ mark }) => mark);
      const last = this.#steps[at - 1];
      const what = `after step ${at}, ${last?.do ?? 'nothing'} ${last ? relative(this.#root, last.path).replaceAll(/[0-9a-f]{4,}/g, '…') : ''}`;
      yield { image: this.#image(at, at, 'written'), marks, what: `a kill ${what}` };
      yield { image: this.#image(at, undefined, 'synced'), marks, what: `a power failure ${what}: only what was synced` };
      // A file system with a journal keeps the names in order, up to some step after the last that was synced.
      const synced = this.#steps.slice(0, at).map((step) => step.do).lastIndexOf('sync directory') + 1;
      for (let kept = synced; kept <= at; kept++) yield { image: this.#image(at, kept, 'synced'), marks, what: `a power failure ${what}: ${kept} steps kept` };
    }
  }

  #watched(handle: Awaited<ReturnType<typeof original.open>>, [path, flags]: Parameters<typeof original.open>): typeof handle {
    const name = String(path);
    const { sync, writeFile } = handle;
    if (flags === 'wx') {
      const file: File = { contents: [] };
      let bytes = Buffer.alloc(0);
      this.#steps.push({ do: 'file', path: name, file });
      return Object.assign(handle, {
        writeFile: async (content: Buffer) => {
          await writeFile.call(handle, content);
          bytes = Buffer.from(content);
          file.contents.push({ at: this.#steps.length, bytes, synced: false });
        },
        sync: async () => {
          await sync.call(handle);
          file.contents.push({ at: this.#steps.length, bytes, synced: true });
        },
      });
    }
    return Object.assign(handle, {
      sync: async () => {
        // What comes while it lasts may not be part of it.
        const begun = this.#steps.length;
        await sync.call(handle);
        this.#steps.splice(begun, 0, { do: 'sync directory', path: name });
      },
    });
  }

  /** @param names - How many steps the names of files are of; without it, what each directory had when it was synced. */
  #image(at: number, names: number | undefined, content: 'written' | 'synced'): Image {
    const root: Directory = { entries: new Map(), synced: new Map() };
    for (const step of this.#steps.slice(0, names ?? at)) apply(step, (path) => find(root, relative(this.#root, path)));
    const image = new Map<string, Buffer | undefined>();
    const collect = (directory: Directory, path: string): void => {
      for (const [name, entry] of names === undefined ? directory.synced : directory.entries) {
        const full = join(path, name);
        if ('contents' in entry) {
          const kept = entry.contents.filter((each) => each.at <= at && (content === 'written' || each.synced));
          image.set(full, kept.at(-1)?.bytes ?? Buffer.alloc(0));
        } else {
          image.set(full, undefined);
          collect(entry, full);
        }
      }
    };
    collect(root, '');
    return image;
  }
}

/** Puts what was on a disk into a directory. */
export async function restore(image: Image, directory: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  for (const [path, bytes] of image) {
    if (bytes === undefined) await mkdir(join(directory, path));
    else await writeFile(join(directory, path), bytes);
  }
}

function apply(step: Step, place: (path: string) => Directory | undefined): void {
  const above = place(dirname(step.path));
  const name = basename(step.path);
  switch (step.do) {
    case 'directory':
      above?.entries.set(name, { entries: new Map(), synced: new Map() });
      break;
    case 'file':
      above?.entries.set(name, step.file);
      break;
    case 'remove':
      above?.entries.delete(name);
      break;
    case 'rename': {
      const entry = above?.entries.get(name);
      above?.entries.delete(name);
      if (entry) place(dirname(step.to))?.entries.set(basename(step.to), entry);
      break;
    }
    case 'sync directory': {
      const directory = place(step.path);
      if (directory) directory.synced = new Map(directory.entries);
    }
  }
}

function find(root: Directory, path: string): Directory | undefined {
  let place: Directory | File | undefined = root;
  for (const name of path.split(/[\\/]/).filter(Boolean)) place = place && 'entries' in place ? place.entries.get(name) : undefined;
  return place && 'entries' in place ? place : undefined;
}

function ancestors(path: string): string[] {
  const above = dirname(path);
  return above === path ? [] : [...ancestors(above), path];
}
