import type { Page } from 'playwright';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { wellBehaved } from '../support/contract.ts';
import { waitFor } from '../support/wait.ts';
import { call, ELSEWHERE, executablePath, open, tab, told, useBrowser, useSite } from './pages.ts';

/** A device without a network, and what a browser's rules for other origins make of a server. */

/** Nothing but news of the network ends such a wait within a test's time. */
const PATIENT = { retry: { retries: 1, minTimeout: 120_000, maxTimeout: 120_000 } } as const;
const lookAt = (page: Page) => page.evaluate(() => void document.dispatchEvent(new Event('visibilitychange')));
const echoed = (text: string) => [{ type: 'text', text }];

describe.skipIf(!executablePath)('in a browser', () => {
  const browser = useBrowser();
  const site = useSite();
  let server: FixtureProcess;
  beforeAll(async () => void (server = await startServer()));
  afterAll(() => server.stop());
  beforeEach(async () => {
    await server.behave(wellBehaved);
    await server.forget();
    await server.clearRequests();
  });
  const elsewhere = () => Object.assign(new URL(server.url), { hostname: ELSEWHERE });
  const calls = async () => (await server.requests()).flatMap(({ rpc }) => rpc).filter(({ method }) => method === 'tools/call');

  describe('a device that is offline', () => {
    test('sends nothing; when it is online again every call is answered at once, and ran once (G1, G2)', async () => {
      const context = await browser.profile();
      const page = await tab(context, site.url);
      await open(page, elsewhere(), PATIENT);
      await call(page, 'echo', { text: 'before' });
      await server.clearRequests();
      await context.setOffline(true);
      const waiting = Promise.all([call(page, 'echo', { text: 'one' }), call(page, 'echo', { text: 'two' }, { safe: true })]);
      await waitFor(async () => (await told(page)).filter(({ event }) => event === 'retry').length === 2);
      expect((await told(page)).filter(({ event }) => event === 'retry').map(({ text }) => text)).toEqual([expect.stringContaining('this device is offline'), expect.stringContaining('this device is offline')]);
      await context.setOffline(false);
      expect(await waiting).toEqual([echoed('one'), echoed('two')]);
      expect(await calls()).toHaveLength(2);
    });

    test('spends no attempt, however often it looks: the first one that goes out may still fail', async () => {
      const context = await browser.profile();
      const page = await tab(context, site.url);
      await open(page, elsewhere(), { ...PATIENT, listen: false });
      await call(page, 'echo', { text: 'before' });
      await context.setOffline(true);
      const waiting = call(page, 'echo', { text: 'x' }, { safe: true });
      const retries = async (count: number) => waitFor(async () => (await told(page)).filter(({ event }) => event === 'retry').length === count);
      await retries(1);
      // More often than the call has attempts.
      for (let looks = 0; looks < 5; looks++) await lookAt(page);
      await page.route(({ hostname }) => hostname === ELSEWHERE, (route) => route.abort(), { times: 1 });
      await context.setOffline(false);
      await retries(2);
      await lookAt(page);
      expect(await waiting).toEqual(echoed('x'));
    });

    test('connects when it is online again', async () => {
      const context = await browser.profile();
      const page = await tab(context, site.url);
      await context.setOffline(true);
      const opening = open(page, elsewhere(), PATIENT);
      await page.waitForFunction(() => globalThis.api.told.some(({ text }) => text === 'negotiating'));
      await context.setOffline(false);
      await opening;
      expect(await call(page, 'echo', { text: 'x' })).toEqual(echoed('x'));
    });
  });

  test('a page that is looked at again tries at once what it waited for', async () => {
    const page = await tab(await browser.profile(), site.url);
    await open(page, server.url, { ...PATIENT, listen: false });
    await call(page, 'echo', { text: 'before' });
    await server.kill();
    const waiting = call(page, 'echo', { text: 'x' }, { safe: true });
    await waitFor(async () => (await told(page)).some(({ event }) => event === 'retry'));
    await server.restart();
    await lookAt(page);
    expect(await waiting).toEqual(echoed('x'));
  });

  test('a device that slept for an hour does not make up for it: it asks for nothing, and goes on', async () => {
    const context = await browser.profile();
    await context.clock.install();
    const page = await tab(context, site.url);
    await open(page, server.url);
    await call(page, 'echo', { text: 'before' });
    await waitFor(async () => (await server.requests()).some(({ http, status }) => http === 'GET' && status === 200));
    await server.clearRequests();
    await context.clock.fastForward('01:00:00');
    expect(await call(page, 'echo', { text: 'x' })).toEqual(echoed('x'));
    expect((await server.requests()).flatMap(({ rpc }) => rpc.map(({ method }) => method))).toEqual(['tools/call']);
  });

  test('calls whose time is over when the device wakes up fail together, once each, and leave nothing waiting', async () => {
    const context = await browser.profile();
    await context.clock.install();
    const page = await tab(context, site.url);
    await open(page, server.url, { listen: false });
    const slow = Promise.allSettled(Array.from({ length: 4 }, (_, i) => call(page, 'work', { nonce: `slept ${i}`, ms: 60_000 }, { timeout: 30_000 })));
    await waitFor(async () => (await server.executions()).filter(({ nonce }) => nonce.startsWith('slept')).length === 4);
    await server.clearRequests();
    await context.clock.fastForward('01:00:00');
    for (const each of await slow) expect(String((each as PromiseRejectedResult).reason)).toContain('DeadlineError');
    expect(await call(page, 'echo', { text: 'x' })).toEqual(echoed('x'));
    // An hour of waking up: each call is cancelled once, and nothing else was due.
    const asked = (await server.requests()).flatMap(({ rpc }) => rpc.map(({ method }) => method));
    expect(asked.filter((method) => method !== 'notifications/cancelled')).toEqual(['tools/call']);
    expect(asked.length).toBeLessThanOrEqual(5);
  });

  describe('a server that does not know the rules for other origins is told which header it must send', () => {
    test.each([
      { refuses: ['*'], header: () => `Access-Control-Allow-Origin: ${new URL(site.url).origin}` },
      { refuses: ['mcp-session-id'], header: () => 'Access-Control-Expose-Headers: Mcp-Session-Id' },
      { refuses: ['mcp-protocol-version'], header: () => /does not let this page send mcp-protocol-version: .*Access-Control-Allow-Headers: .*mcp-protocol-version/ },
      { refuses: ['content-type'], header: () => /does not let this page send content-type: .*Access-Control-Allow-Headers: content-type/ },
    ])('$refuses', async ({ refuses, header }) => {
      await server.behave({ corsRefuses: refuses });
      const page = await tab(await browser.profile(), site.url);
      await expect(open(page, server.url, { listen: false })).rejects.toThrow(header());
    });

    test('and of a call that the browser did not let out nothing else is claimed (G2)', async () => {
      const page = await tab(await browser.profile(), site.url);
      await open(page, server.url, { listen: false });
      await call(page, 'echo', { text: 'before' });
      await server.clearRequests();
      // A new session has a new set of headers for the browser to ask about.
      await server.behave({ corsRefuses: ['mcp-session-id'] });
      const next = await tab(page.context(), site.url);
      await open(next, server.url, { listen: false });
      await expect(call(next, 'echo', { text: 'x' })).rejects.toThrow(/does not let this page send mcp-session-id/);
      expect(await next.evaluate(() => globalThis.api.history().at(-1)?.outcome)).toBe('unknown');
      expect(await calls()).toEqual([]);
    });
  });
});

describe.skipIf(!executablePath)('under a content-security policy without unsafe-eval', () => {
  const browser = useBrowser();
  const site = useSite({ csp: "default-src 'none'; script-src 'self'; connect-src *" });

  test('everything of ours works; the SDK\'s default validator cannot, so a warning names each tool whose answers are not validated, and another one validates', async () => {
    await using server = await startServer();
    const page = await tab(await browser.profile(), site.url);
    await open(page, server.url);
    expect(await call(page, 'echo', { text: 'x' })).toEqual(echoed('x'));
    const warnings = () => page.evaluate(() => globalThis.api.told.filter(({ event }) => event === 'warning').map(({ text }) => text));
    expect(await page.evaluate(() => globalThis.api.listTools())).toBeGreaterThan(5);
    expect(await warnings()).toEqual([expect.stringMatching(/"sum" cannot be used, so what it answers is not validated.*unsafe-eval/)]);
    expect(await call(page, 'sum', { a: 1, b: 2 })).toEqual(echoed('3'));
    await page.evaluate(() => globalThis.api.end());
    await page.evaluate(() => void globalThis.api.told.splice(0));
    await open(page, server.url, { cfworker: true });
    expect(await page.evaluate(() => globalThis.api.listTools())).toBeGreaterThan(5);
    expect(await call(page, 'sum', { a: 1, b: 2 })).toEqual(echoed('3'));
    expect(await warnings()).toEqual([]);
  });
});
