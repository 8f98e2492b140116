import { expect, it } from 'vitest';
import { soak } from './soak.ts';

it('Of 20,000 calls that meet 4,000 faults, dying servers and dying clients, in SSE and JSON mode, with and without an event store, none breaks a promise', { timeout: 600_000 }, async () => {
  const report = await soak({ calls: 20_000, seed: 7, clients: 32, window: 48 });
  expect(report.violations).toEqual([]);
  expect(report.faults).toBeGreaterThanOrEqual(4000);
  // Each kind of fault at each of its phases, each end of a server, each end of a client.
  const places = Object.values(report.faultsBy).flatMap((phases) => Object.keys(phases));
  expect(places.length).toBe(36);
  expect(Object.keys(report.disasters).sort()).toEqual(['forget', 'kill', 'outage', 'stop']);
  expect(report.lives['kill']).toBeGreaterThanOrEqual(4);
  expect(report.retries).toBeGreaterThan(0);
  expect(report.resets).toBeGreaterThan(0);
  expect(report.streamResumes).toBeGreaterThan(0);
  expect(report.durable.joined).toBeGreaterThan(0);
});
