export { redisStore, type RedisStoreOptions } from './storage/redis-store.ts';
export type { IoRedisClient, NodeRedisClient, RedisClient } from './storage/redis-client.ts';
