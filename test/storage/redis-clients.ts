import { Redis } from 'ioredis';
import { createClient } from 'redis';
import type { RedisClient } from '../../src/redis.ts';

/** A client, and how its owner ends it. */
export interface Connected {
  readonly client: RedisClient;
  end(): void;
}

const noFault = (): void => {};

/** The two kinds of client, as their users make them. They go on trying where nobody answers. */
export const clients = {
  'node-redis': (url: string): Connected => {
    const client = createClient({ url });
    client.on('error', noFault);
    client.connect().catch(noFault);
    return { client, end: () => client.isOpen && client.destroy() };
  },
  ioredis: (url: string): Connected => {
    const client = new Redis(url);
    client.on('error', noFault);
    return { client, end: () => client.disconnect() };
  },
} as const;

export type Kind = keyof typeof clients;
export const kinds = Object.keys(clients) as Kind[];
