import { execFile } from 'node:child_process';
import { access } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';

declare module 'vitest' {
  interface ProvidedContext {
    /** Where the tests find a Chromium; `''` when there is none. */
    chromium: string;
  }
}

const run = promisify(execFile);
const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];

/** Further arguments for every Chromium: as root in a container it has no sandbox, and little shared memory. */
export const CHROMIUM_ARGS = ['--no-sandbox', '--disable-dev-shm-usage'];

/**
 * A real Chromium for the tests: the one of `CHROMIUM_PATH`, else one from the PATH, else the one that comes in an npm package, else,
 * with `CI=true`, Debian's, which is installed. `undefined` where there is none; with `CI=true` that is an error.
 */
export async function findChromium(): Promise<string | undefined> {
  const given = process.env['CHROMIUM_PATH'];
  if (given) return given;
  try {
    const found = (await fromPath()) ?? (await fromPackage());
    // Nothing is installed on a person's machine.
    if (found !== undefined || process.env['CI'] === 'true') return found ?? (await fromDebian());
    throw new Error('there is none');
  } catch (error) {
    if (process.env['CI'] === 'true') throw new Error('The tests in a browser need a Chromium.', { cause: error });
    console.warn(`\n!!! NO CHROMIUM: THE TESTS IN A BROWSER ARE SKIPPED. Install one, or set CHROMIUM_PATH. (${(error as Error).message.trim()})\n`);
    return undefined;
  }
}

async function fromPath(): Promise<string | undefined> {
  const directories = (process.env['PATH'] ?? '').split(delimiter);
  for (const path of NAMES.flatMap((name) => directories.map((directory) => join(directory, name)))) {
    if (await access(path).then(() => true, () => false)) return path;
  }
  return undefined;
}

async function fromPackage(): Promise<string | undefined> {
  try {
    const { default: chromium } = await import('@sparticuz/chromium');
    const path = await chromium.executablePath();
    // It is built for one kind of machine, and may lack a library.
    await run(path, ['--version']);
    return path;
  } catch {
    return undefined;
  }
}

async function fromDebian(): Promise<string | undefined> {
  const install = () => run('apt-get', ['install', '-y', '--no-install-recommends', 'chromium']);
  await install().catch(() => run('apt-get', ['update']).then(install));
  return fromPath();
}
