/** A server that is started as a child process (Node only). */
export interface CommandTarget {
  readonly command: string;
  readonly args?: readonly string[];
  /** Added to the SDK's short list of inherited variables. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}
