/**
 * Does something with each of many, with at most `limit` under way at a time. After the first failure, or when `signal` aborts, nothing
 * more is begun. Settles when nothing is under way any more; rejects with the first failure.
 */
export async function inParallel<T>(items: AsyncIterable<T> | Iterable<T>, limit: number, task: (item: T) => Promise<void>, signal?: AbortSignal): Promise<void> {
  const running = new Set<Promise<void>>();
  let failure: { readonly error: unknown } | undefined;
  let onFree = (): void => {};
  try {
    for await (const item of items) {
      if (failure || signal?.aborted) break;
      const run: Promise<void> = task(item)
        .catch((error: unknown) => void (failure ??= { error }))
        .then(() => {
          running.delete(run);
          onFree();
        });
      running.add(run);
      if (running.size >= limit) await new Promise<void>((resolve) => (onFree = resolve));
    }
  } finally {
    await Promise.all(running);
  }
  if (failure) throw failure.error;
}
