import setup from '../support/redis.ts';
import { send } from '../support/client-script.ts';

/** A test run as far as its Redis goes: starts it, and tells where it is. */
await setup({ provide: (_: string, url: string) => send({ type: 'started', url }) } as Parameters<typeof setup>[0]);
// It runs until it is killed.
setInterval(() => {}, 60_000);
