import type { ConflictError } from '../errors.ts';

/** Whether a compare-and-set found another revision. By its code: the class may be that of another copy of this library. */
export function isConflict(error: unknown): boolean {
  return (error as Partial<ConflictError> | undefined)?.code === 'CONFLICT';
}

/** What an operation came to; `undefined` where somebody else was quicker. */
export async function ignoringConflict<T>(operation: Promise<T>): Promise<T | undefined> {
  try {
    return await operation;
  } catch (error) {
    if (isConflict(error)) return undefined;
    throw error;
  }
}
