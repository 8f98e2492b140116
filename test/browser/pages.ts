import { type Browser, type BrowserContext, chromium, type Page } from 'playwright';
import { afterAll, beforeAll, inject, onTestFinished } from 'vitest';
import { CHROMIUM_ARGS } from '../support/chromium.ts';
import { type Site, type SiteOptions, startSite } from '../support/site.ts';
import type { PageApi, PageOptions } from './page.ts';

declare global {
  /** In the page, see `page.ts`. */
  var api: PageApi;
}

/** A name of this machine that a browser does not know for its own. */
export const ELSEWHERE = 'mcp.test';

export const executablePath = inject('chromium');

/** One browser for the tests of a file; each test has profiles of its own in it, and what one leaves open must not speak to the next one's server. */
export function useBrowser(): { profile(): Promise<BrowserContext> } {
  let browser: Browser;
  beforeAll(async () => void (browser = await chromium.launch({ executablePath, args: [...CHROMIUM_ARGS, `--host-resolver-rules=MAP ${ELSEWHERE} 127.0.0.1`] })));
  afterAll(() => browser.close());
  return {
    async profile() {
      const context = await browser.newContext();
      onTestFinished(() => context.close());
      return context;
    },
  };
}

/** Serves the tests' page for a file. */
export function useSite(options?: SiteOptions): { readonly url: string } {
  let site: Site;
  beforeAll(async () => void (site = await startSite(options)));
  afterAll(() => site[Symbol.asyncDispose]());
  return {
    get url() {
      return site.url.href;
    },
  };
}

/** A tab with the page, ready to be told what to do. */
export async function tab(context: BrowserContext, url: string): Promise<Page> {
  const page = await context.newPage();
  await page.goto(url);
  await page.waitForFunction(() => 'api' in globalThis);
  return page;
}

export const open = (page: Page, url: URL | string, options: PageOptions = {}) =>
  page.evaluate(([href, given]) => globalThis.api.open(href, given), [String(url), options] as const);

export const call = (page: Page, name: string, args: Record<string, unknown> = {}, options: Parameters<PageApi['call']>[2] = {}) =>
  page.evaluate(([tool, given, opts]) => globalThis.api.call(tool, given, opts), [name, args, options] as const);

export const heard = (page: Page) => page.evaluate(() => globalThis.api.heard);
export const told = (page: Page) => page.evaluate(() => globalThis.api.told);
