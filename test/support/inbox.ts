/** What processes tell each other: plain data with a type. */
export interface Message {
  type: string;
}

/** What is taken when nobody says more. */
export interface AnyMessage extends Message {
  [key: string]: unknown;
}

/** The messages of M with type T: all of M where it does not tell its types apart. */
export type OfType<M extends Message, T> = string extends M['type'] ? M : Extract<M, { type: T }>;

interface Waiter<M> {
  type: string | undefined;
  resolve(message: M): void;
  reject(error: Error): void;
}

/** Keeps messages until somebody asks for them. */
export class Inbox<M extends Message> {
  readonly #messages: M[] = [];
  readonly #waiters: Waiter<M>[] = [];
  #failure: Error | undefined;

  push(message: M): void {
    const at = this.#waiters.findIndex(({ type }) => type === undefined || type === message.type);
    if (at < 0) this.#messages.push(message);
    else this.#waiters.splice(at, 1)[0]?.resolve(message);
  }

  /** Nothing more will come. What came before can still be taken. */
  fail(error: Error): void {
    this.#failure = error;
    for (const { reject } of this.#waiters.splice(0)) reject(error);
  }

  /** The oldest message that was not taken yet, of that type if one is given. */
  next<T extends M['type']>(type?: T): Promise<OfType<M, T>> {
    return new Promise((resolve, reject) => {
      const at = this.#messages.findIndex((message) => type === undefined || message.type === type);
      if (at >= 0) resolve(this.#messages.splice(at, 1)[0] as OfType<M, T>);
      else if (this.#failure) reject(this.#failure);
      else this.#waiters.push({ type, resolve: resolve as (message: M) => void, reject });
    });
  }
}
