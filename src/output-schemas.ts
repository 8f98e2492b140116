import { AjvJsonSchemaValidator } from '@modelcontextprotocol/sdk/validation/ajv';
import type { ClientOptions } from '@modelcontextprotocol/sdk/client/index.js';
import type { ListToolsResult } from '@modelcontextprotocol/sdk/types.js';

type Validators = NonNullable<ClientOptions['jsonSchemaValidator']>;

/** So much of what a server or a validator says is repeated, in characters. */
const REPEATED = 200;

/**
 * Makes the SDK's validators of what tools answer. The SDK fails the whole list of tools for one schema that nobody can compile, in the
 * words of its validator ("URI malformed"). Here the list is a list, the other tools are validated, and of that one it is told.
 */
export class OutputSchemas implements Validators {
  onunusable: ((error: Error) => void) | undefined;
  #inner: Validators | undefined;
  readonly #tools = new WeakMap<object, string>();

  /** @param inner - the validator to use; the SDK's default is made when the first schema comes: it is not cheap, and few tools have one */
  constructor(inner?: Validators) {
    this.#inner = inner;
  }

  /** Whose schemas these are: the validator is given nothing else. */
  note({ tools }: ListToolsResult): void {
    for (const { name, outputSchema } of tools) if (outputSchema) this.#tools.set(outputSchema, name);
  }

  getValidator: Validators['getValidator'] = <T>(schema: Parameters<Validators['getValidator']>[0]) => {
    this.#inner ??= new AjvJsonSchemaValidator();
    try {
      return this.#inner.getValidator<T>(schema);
    } catch (error) {
      const tool = typeof schema === 'object' ? this.#tools.get(schema) : undefined;
      if (tool === undefined) throw error;
      const what = `the output schema of the tool ${JSON.stringify(tool.slice(0, REPEATED))} cannot be used, so what it answers is not validated`;
      this.onunusable?.(new Error(`${what}: ${String((error as Error | undefined)?.message ?? error).slice(0, REPEATED)}`, { cause: error }));
      return (input: unknown) => ({ valid: true, data: input as T, errorMessage: undefined });
    }
  };
}
