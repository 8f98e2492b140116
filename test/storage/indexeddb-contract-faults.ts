/** Databases that fail, each by itself: the cases of the contract run side by side. */

/** By the name of a database: how many steps go well before one fails. */
const soundSteps = new Map<string, number>();

function isDue(database: string): boolean {
  const left = soundSteps.get(database);
  if (left === undefined) return false;
  soundSteps.set(database, left - 1);
  return left === 0;
}

function failure(what: string): DOMException {
  return new DOMException(`${what} does not work`, 'UnknownError');
}

/** Puts functions that can fail in the place of those of IndexedDB. */
function patch(): void {
  const { open } = IDBFactory.prototype;
  IDBFactory.prototype.open = function (name, ...rest) {
    if (isDue(name)) throw failure('open');
    return open.call(this, name, ...rest);
  };
  const methods = IDBObjectStore.prototype as unknown as Record<string, (this: IDBObjectStore, ...args: unknown[]) => IDBRequest>;
  for (const name of ['get', 'getAllKeys', 'put', 'delete']) {
    const call = methods[name] as (typeof methods)[string];
    methods[name] = function (...args) {
      const { transaction } = this;
      if (isDue(transaction.db.name)) throw failure(name);
      const request = call.apply(this, args);
      // As on a disk that is full: it shows when the transaction is to be kept, and nothing of it is.
      if (isDue(transaction.db.name)) request.addEventListener('success', () => transaction.abort());
      return request;
    };
  }
}

patch();

/** Makes the n-th step in a database fail. The function that it returns ends that, and tells whether it came to it. */
export function failStepIn(database: string, n: number): () => boolean {
  soundSteps.set(database, n - 1);
  return () => {
    const reached = Number(soundSteps.get(database)) < 0;
    soundSteps.delete(database);
    return reached;
  };
}
