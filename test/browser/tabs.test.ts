import type { Page } from 'playwright';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type FixtureProcess, startServer } from '../support/server.ts';
import { waitFor } from '../support/wait.ts';
import { call, executablePath, heard, open, tab, told, useBrowser, useSite } from './pages.ts';

/** Tabs, reloads and workers of a real Chromium, against a real server. */

describe.skipIf(!executablePath)('in a browser', () => {
  const browser = useBrowser();
  const site = useSite();

  async function served(options: Parameters<typeof startServer>[0] = {}): Promise<FixtureProcess> {
    const server = await startServer(options);
    onTestFinished(() => server.stop());
    return server;
  }

  const streams = async (server: FixtureProcess) => (await server.requests()).filter(({ http, status, endedBy }) => http === 'GET' && status === 200 && endedBy === undefined);
  const posts = async (server: FixtureProcess) => (await server.requests()).filter(({ http }) => http === 'POST').flatMap(({ rpc }) => rpc.map(({ method }) => method));
  const oneStream = (server: FixtureProcess) => waitFor(async () => (await streams(server)).length === 1, { what: 'one stream' });

  /** Tabs of one profile, each with a client that has done something. */
  async function tabs(server: FixtureProcess, count: number): Promise<Page[]> {
    const context = await browser.profile();
    const pages: Page[] = [];
    for (let i = 0; i < count; i++) {
      const page = await tab(context, site.url);
      await open(page, server.url);
      await call(page, 'echo', { text: `tab ${i}` });
      pages.push(page);
    }
    await oneStream(server);
    return pages;
  }

  describe('a page that is reloaded', () => {
    test('makes its own call first: no handshake comes before it', async () => {
      const server = await served();
      const page = await tab(await browser.profile(), site.url);
      expect((await open(page, server.url)).resumed).toBe(false);
      await call(page, 'echo', { text: 'before' });
      await server.clearRequests();
      await page.reload();
      await page.waitForFunction(() => 'api' in globalThis);
      expect((await open(page, server.url)).resumed).toBe(true);
      expect(await call(page, 'echo', { text: 'after' })).toEqual([{ type: 'text', text: 'after' }]);
      expect((await posts(server))[0]).toBe('tools/call');
      expect(await posts(server)).not.toContain('initialize');
    });

    test('joins the durable call that was under way: the tool runs once (G3)', async () => {
      const server = await served({ eventStore: true });
      const page = await tab(await browser.profile(), site.url);
      await open(page, server.url);
      const job = [page, 'work', { nonce: 'long', ms: 2500, steps: 10 }, { callId: 'import-1' }] as const;
      call(...job).catch(() => {});
      await waitFor(async () => (await server.executions()).length === 1);
      // Its first event has come, and is noted.
      await waitFor(() => page.evaluate(() => globalThis.api.isNoted()));
      await page.reload();
      await page.waitForFunction(() => 'api' in globalThis);
      await open(page, server.url);
      expect(JSON.stringify(await call(...job))).toContain('long');
      expect(await server.executions()).toHaveLength(1);
    });
  });

  describe('several tabs and a worker', () => {
    test('share one session and one notification stream, and each hears everything once', async () => {
      const server = await served();
      const pages = await tabs(server, 3);
      const [first] = pages as [Page];
      await first.evaluate(async (url) => {
        const worker = new Worker('/app.js', { type: 'module' });
        const ask = (method: string, ...args: unknown[]) =>
          new Promise<{ heard: string[] }>((resolve) => {
            worker.onmessage = ({ data }) => resolve(data as { heard: string[] });
            worker.postMessage({ method, args });
          });
        await ask('open', url);
        Object.assign(globalThis, { ask });
      }, server.url.href);
      const askWorker = () => first.evaluate(async () => (await (globalThis as unknown as { ask(method: string, ...args: unknown[]): Promise<{ heard: string[] }> }).ask('call', 'echo', { text: 'from the worker' })).heard);
      await askWorker();
      await server.notify('one');
      await server.notify('two');
      for (const page of pages) await waitFor(async () => (await heard(page)).length === 2);
      for (const page of pages) expect(await heard(page)).toEqual(['one', 'two']);
      await waitFor(async () => (await askWorker()).length === 2);
      expect(await server.sessions()).toHaveLength(1);
      expect((await server.requests()).filter(({ http }) => http === 'GET')).toHaveLength(1);
    });

    test.each(['is closed', 'crashes', 'closes its client'])('go on when the tab that has the stream %s: another takes over', async (how) => {
      const server = await served({ eventStore: true });
      const [holder, ...others] = (await tabs(server, 3)) as [Page, Page, Page];
      await server.notify('before');
      for (const page of others) await waitFor(async () => (await heard(page)).length === 1);
      if (how === 'is closed') await holder.close();
      else if (how === 'closes its client') await holder.evaluate(() => globalThis.api.close());
      else await holder.goto('chrome://crash').catch(() => {});
      await oneStream(server);
      await server.notify('after');
      for (const page of others) await waitFor(async () => (await heard(page)).length >= 2);
      for (const page of others) expect(await heard(page)).toEqual(['before', 'after']);
      // Leaving is no end of what the others use.
      expect(await server.sessions()).toHaveLength(1);
      expect((await server.requests()).filter(({ http }) => http === 'DELETE')).toEqual([]);
      for (const page of others) expect(await call(page, 'echo', { text: 'still here' })).toEqual([{ type: 'text', text: 'still here' }]);
      expect((await posts(server)).filter((method) => method === 'initialize')).toHaveLength(1);
    });

    test('leave the session to the last of them, which may end it', async () => {
      const server = await served();
      const [first, second, last] = (await tabs(server, 3)) as [Page, Page, Page];
      await first.close();
      await second.evaluate(() => globalThis.api.close());
      expect(await call(last, 'echo', { text: 'alone' })).toEqual([{ type: 'text', text: 'alone' }]);
      expect(await server.sessions()).toHaveLength(1);
      await last.evaluate(() => globalThis.api.end());
      expect(await server.sessions()).toEqual([]);
      expect((await server.requests()).filter(({ http }) => http === 'DELETE')).toHaveLength(1);
    });

    test('hear of it that something may have been missed (G10)', async () => {
      const server = await served();
      const [holder, ...others] = (await tabs(server, 3)) as [Page, Page, Page];
      await holder.close();
      await oneStream(server);
      for (const page of others) await waitFor(async () => (await told(page)).some(({ event }) => event === 'cursorLost'));
    });
  });
});
