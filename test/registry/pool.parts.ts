import { onTestFinished } from 'vitest';
import { ConnectionPool, type PoolOptions } from '../../src/index.ts';

/** A pool that is closed when the test is over. */
export function poolOf(options: PoolOptions = {}): ConnectionPool {
  const pool = new ConnectionPool({ listen: false, ...options });
  onTestFinished(() => pool.close({ timeout: 1 }));
  return pool;
}
