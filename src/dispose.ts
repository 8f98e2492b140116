/** `Symbol.asyncDispose`, or what compilers put in its place where a browser does not have it yet. */
export const asyncDispose: typeof Symbol.asyncDispose = Symbol.asyncDispose ?? (Symbol.for('Symbol.asyncDispose') as typeof Symbol.asyncDispose);
