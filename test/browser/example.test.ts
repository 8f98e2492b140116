import { mkdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type { BrowserContext, Locator, Page } from 'playwright';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Child } from '../support/child.ts';
import { freePort } from '../support/ports.ts';
import { executablePath, useBrowser } from './pages.ts';

/** The example page, driven as a person would; what it looked like is kept as pictures. */

/** Git ignores it. */
const PICTURES = fileURLToPath(new URL('../../node_modules/.cache/screenshots/', import.meta.url));
/** Long enough for a page to be loaded twice in it. */
const JOB_SECONDS = 10;

describe.skipIf(!executablePath)('the example page', { timeout: 90_000 }, () => {
  const browser = useBrowser();
  let demo: Child;
  let url: string;
  let context: BrowserContext;
  let page: Page;

  beforeAll(async () => {
    const port = await freePort();
    demo = new Child(new URL('../../examples/browser/demo.ts', import.meta.url), { env: { PORT: String(port) } });
    await demo.printed('The page is at');
    url = `http://127.0.0.1:${port}/?job=${JOB_SECONDS}`;
  }, 120_000);
  afterAll(async () => {
    // oxlint-disable-next-line vitest/no-standalone-expect
    expect(await demo.kill('SIGTERM')).toEqual({ code: 0, signal: null });
  });

  beforeEach(async () => {
    // Whatever a test before this one has left.
    for (const control of ['network-on', 'restart']) await fetch(new URL(`/control/${control}`, url), { method: 'POST' });
    context = await browser.profile();
    context.setDefaultTimeout(30_000);
    page = await context.newPage();
    await page.goto(url);
    await state('ready').waitFor();
  });

  const press = (name: RegExp, on = page) => on.getByRole('button', { name }).click();
  const state = (name: string, on = page) => on.getByTestId('state').and(on.getByText(name, { exact: true }));
  const bars = (label: string, outcome: string, on = page) => on.locator(`[data-call="${label}"][data-outcome="${outcome}"]`);
  const marks = (kind: string, on = page) => on.locator(`[data-mark="${kind}"]`);
  const logged = (text: string | RegExp, on = page) => on.getByTestId('log').getByRole('listitem').filter({ hasText: text });
  const fact = (list: string, name: string, value: number, on = page) => on.getByTestId(list).locator(`[data-fact="${name}"] dd`).and(on.getByText(String(value), { exact: true }));
  const runs = (text: string | RegExp, on = page) => on.getByTestId('runs').getByRole('listitem').filter({ hasText: text });
  const expectShown = (...what: Locator[]) => Promise.all(what.map((each) => each.first().waitFor()));

  /** Light and dark, wide and narrow. */
  async function keepPictures(name: string): Promise<void> {
    await mkdir(PICTURES, { recursive: true });
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme });
      for (const width of [1240, 390]) {
        await page.setViewportSize({ width, height: 900 });
        expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(width);
        await page.screenshot({ path: `${PICTURES}${name}-${colorScheme}-${width}.png`, fullPage: true, animations: 'disabled' });
      }
    }
  }

  test('a call is answered, and drawn; the history has it', async () => {
    await press(/^Echo/);
    await expectShown(bars('echo', 'answered'), logged('echo: Hello 1'));
    await expectShown(page.getByTestId('history').getByRole('row').filter({ hasText: /echo.*answered/ }));
    await expectShown(fact('facts', 'calls answered', 1));
  });

  test('a durable call goes on while the page is reloaded: it is joined, and runs once', async () => {
    await press(/^Durable/);
    await expectShown(runs(/^job.*is running/));
    // Once there is progress, an event of it is noted: from then on it can be joined.
    await expectShown(page.locator('[data-call="job"][data-progress]'));
    await press(/^Reload/);
    await expectShown(logged('it is joined'), marks('reload'), marks('resumed'), bars('job', 'left'));
    const [second] = await Promise.all([context.waitForEvent('page'), press(/^Second tab/)]);
    await expectShown(bars('job', 'answered'), bars('job', 'answered', second), logged(/job: done:job/), runs(/^job.*ran to its end/));
    await expectShown(fact('server-facts', 'ran twice', 0), fact('facts', 'resets', 0));
    expect(await runs(/^job/).count()).toBe(1);
    await keepPictures('job');
  });

  test('the network is cut under a call that must not run twice: it is resumed', async () => {
    await press(/^Work/);
    await expectShown(runs(/^work.*is running/), page.locator('[data-call="work"][data-progress]'));
    await press(/^Cut/);
    await expectShown(marks('degraded'), bars('work', 'answered'), state('ready'));
    await expectShown(fact('server-facts', 'ran twice', 0));
  });

  test('the network is off for a while: what may be repeated waits for it, the rest says that nobody knows', async () => {
    await press(/^Switch off/);
    await expectShown(page.getByTestId('network-chip').filter({ hasText: 'off' }));
    await press(/^Echo/);
    await expectShown(marks('retry'), bars('echo', 'pending'));
    await press(/^Work/);
    await expectShown(bars('work', 'unknown'), page.getByTestId('result').filter({ hasText: 'outcome unknown' }));
    await press(/^Switch on/);
    await expectShown(bars('echo', 'answered'), state('ready'));
    await expectShown(fact('facts', 'resets', 0));
  });

  test('the server is killed and started again: calls wait for it, and the session is replaced once', async () => {
    await press(/^Notify/);
    await press(/^Work/);
    await expectShown(marks('notification'), bars('work', 'answered'));
    await press(/^Kill/);
    await expectShown(page.getByTestId('server-chip').filter({ hasText: 'killed' }), state('degraded'));
    await press(/^Echo/);
    await expectShown(marks('retry'));
    await press(/^Restart/);
    await expectShown(bars('echo', 'answered'), marks('reset'), logged('There is a new session'), state('ready'));
    await expectShown(fact('facts', 'resets', 1), fact('server-facts', 'handshakes', 1));
    await keepPictures('reset');
  });

  test('the server forgets its sessions: the next call has a new one', async () => {
    await press(/^Forget/);
    await press(/^Echo/);
    await expectShown(bars('echo', 'answered'), marks('reset'), fact('facts', 'resets', 1));
  });

  test('a second tab shares the session, and hears the same', async () => {
    const [second] = await Promise.all([context.waitForEvent('page'), press(/^Second tab/)]);
    await expectShown(state('ready', second), second.getByText('resumed: the server still knows it'));
    await press(/^Echo/, second);
    await expectShown(bars('echo', 'answered', second), fact('server-facts', 'notification streams', 1));
    await press(/^Notify/);
    for (const tab of [page, second]) await expectShown(marks('notification', tab), logged(/Note \d+/, tab), fact('facts', 'notifications heard', 1, tab));
    const made = (tab: Page) => tab.getByTestId('facts').locator('[data-fact="made at"] dd').textContent();
    expect(await made(second)).toBe(await made(page));
  });
});
