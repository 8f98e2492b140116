import * as fc from 'fast-check';

/** The same runs each time, unless more of them are asked for: those are new ones each time. */
export const USUAL_SEED = 7;

/** How often each property is tried, instead of its usual number. */
const { MODEL_RUNS, FC_SEED, FC_PATH } = process.env;

/**
 * `fc.assert`, which says how to make a failure happen again: as it was found, from where it is made smaller in the same way. (The path
 * of a smaller one does not lead back to it where commands are made smaller by what ran of them.)
 *
 * @param runs - how often it is tried in CI
 * @param where - the file and the name of the test
 */
export async function holds<T>(property: fc.IAsyncProperty<T>, runs: number, where: { readonly file: string; readonly test: string }): Promise<void> {
  await fc.assert(property, {
    numRuns: MODEL_RUNS === undefined ? runs : Number(MODEL_RUNS),
    ...(FC_SEED === undefined && MODEL_RUNS !== undefined ? {} : { seed: Number(FC_SEED ?? USUAL_SEED) }),
    ...(FC_PATH === undefined ? {} : { path: FC_PATH }),
    reporter: (out) => {
      if (!out.failed) return;
      const { seed, counterexamplePath, errorInstance } = out;
      const again = `FC_SEED=${seed} FC_PATH=${counterexamplePath?.split(':', 1)}`;
      const why = errorInstance instanceof Error ? errorInstance.message : String(errorInstance);
      throw new Error(`${why}\n\n${fc.defaultReportMessage(out)}\n\nTo see it again:\n  ${again} npx vitest run ${where.file} -t '${where.test.replaceAll(/[^\w ]/g, '.')}'\n`, { cause: errorInstance });
    },
  });
}
