import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium, type Page } from 'playwright';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CHROMIUM_ARGS } from '../support/chromium.ts';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { call, executablePath, open, tab, told, useBrowser, useSite } from './pages.ts';

/** What can become of IndexedDB in a real browser: the client goes on, with one warning (G8). Its profiles here are private ones. */

const echoed = (text: string) => [{ type: 'text', text }];
const warnings = async (page: Page) => (await told(page)).filter(({ event }) => event === 'warning').map(({ text }) => text);

describe.skipIf(!executablePath)('in a browser', () => {
  const browser = useBrowser();
  const site = useSite();
  let server: FixtureProcess;
  beforeAll(async () => void (server = await startServer()));
  afterAll(() => server.stop());
  const opened = async (prepare?: (page: Page) => Promise<unknown>): Promise<Page> => {
    const page = await tab(await browser.profile(), site.url);
    await prepare?.(page);
    return page;
  };

  test('a session outlives the browser', async () => {
    const profile = await mkdtemp(join(tmpdir(), 'profile-'));
    const ids: unknown[] = [];
    try {
      for (const resumed of [false, true]) {
        const context = await chromium.launchPersistentContext(profile, { executablePath, args: CHROMIUM_ARGS });
        const page = await tab(context, site.url);
        const session = await open(page, server.url, { listen: false });
        expect(session.resumed).toBe(resumed);
        expect(await call(page, 'echo', { text: 'x' })).toEqual(echoed('x'));
        ids.push(session.id);
        await context.close();
      }
      expect(ids[0]).toBe(ids[1]);
    } finally {
      await rm(profile, { recursive: true, force: true, maxRetries: 10 });
    }
  });

  test('a quota that is exceeded keeps the session in memory, with one warning', async () => {
    const page = await opened(async (each) => {
      const devtools = await each.context().newCDPSession(each);
      await devtools.send('Storage.overrideQuotaForOrigin', { origin: new URL(site.url).origin, quotaSize: 1 });
    });
    await open(page, server.url, { listen: false });
    expect(await call(page, 'echo', { text: 'x' })).toEqual(echoed('x'));
    expect(await warnings(page)).toEqual([expect.stringMatching(/IndexedDB failed.*[Qq]uota/)]);
    await page.evaluate(() => globalThis.api.close());
  });

  test('a database that does not open, because another version of it is wanted elsewhere, is waited for no longer than 3 s', async () => {
    const page = await opened((each) =>
      each.evaluate(
        () =>
          new Promise<void>((resolve) => {
            const first = indexedDB.open('mcp-reprise');
            first.onupgradeneeded = () => first.result.createObjectStore('entries');
            first.onsuccess = () => {
              // Held open, and never let go: who asks next waits behind the upgrade that this one blocks.
              const upgrade = indexedDB.open('mcp-reprise', 2);
              upgrade.onblocked = () => resolve();
            };
          }),
      ),
    );
    await open(page, server.url, { listen: false });
    expect(await call(page, 'echo', { text: 'x' })).toEqual(echoed('x'));
    expect(await warnings(page)).toEqual([expect.stringContaining('IndexedDB did not answer within 3 s')]);
  });

  test('a database of which another tab wants a new version is let go at once, and used again in that version', async () => {
    const page = await opened();
    const { id } = await open(page, server.url, { listen: false });
    await call(page, 'echo', { text: 'x' });
    const other = await tab(page.context(), site.url);
    const blocked = await other.evaluate(
      () =>
        new Promise<boolean>((resolve, reject) => {
          let waited = false;
          const upgrade = indexedDB.open('mcp-reprise', 2);
          upgrade.onblocked = () => (waited = true);
          upgrade.onerror = () => reject(upgrade.error);
          upgrade.onsuccess = () => {
            upgrade.result.close();
            resolve(waited);
          };
        }),
    );
    expect(blocked).toBe(false);
    await page.evaluate(() => globalThis.api.setLevel('info'));
    expect(await call(page, 'echo', { text: 'y' })).toEqual(echoed('y'));
    expect(await warnings(page)).toEqual([]);
    await page.evaluate(() => globalThis.api.close());
    expect(await open(page, server.url, { listen: false })).toEqual({ resumed: true, id });
  });

  test('a browser without IndexedDB keeps the session in memory, with one warning', async () => {
    const page = await opened((each) => each.evaluate(() => Object.defineProperty(globalThis, 'indexedDB', { value: undefined })));
    await open(page, server.url, { listen: false });
    expect(await call(page, 'echo', { text: 'x' })).toEqual(echoed('x'));
    expect(await warnings(page)).toHaveLength(1);
  });

  test('site data that are cleared take the record with them: the page goes on and says so, and the next one starts anew', async () => {
    const page = await opened();
    const { id } = await open(page, server.url, { listen: false });
    await call(page, 'echo', { text: 'x' });
    const devtools = await page.context().newCDPSession(page);
    await devtools.send('Storage.clearDataForOrigin', { origin: new URL(site.url).origin, storageTypes: 'all' });
    await page.evaluate(() => globalThis.api.setLevel('info'));
    await waitFor(async () => (await warnings(page)).length === 1);
    expect(await warnings(page)).toEqual([expect.stringContaining('removed from the store')]);
    expect(await call(page, 'echo', { text: 'y' })).toEqual(echoed('y'));
    const next = await tab(page.context(), site.url);
    expect((await open(next, server.url, { listen: false })).id).not.toBe(id);
  });
});
