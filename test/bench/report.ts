import type { Result, Spread } from './trial.ts';

/** As many digits as say something. */
function short(value: number): string {
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString('en-US');
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2);
}

const cell = (spread: Spread | undefined, unit: string): string => (spread ? `${short(spread.median)}${unit === '' ? '' : ` ${unit}`}` : '–');
const verdict = ({ met }: Result): string => (met === undefined ? '' : met ? 'yes' : 'no');
const ratioOf = ({ ratio }: Result): string => (ratio ? `${short(ratio.median)} (${short(ratio.q1)}–${short(ratio.q3)})` : '–');

const HEAD = ['measure', 'bare SDK', 'floor', 'ours', 'ratio (quartiles)', 'goal', 'met'];

function rows(results: readonly Result[]): string[][] {
  return results.map((result) => {
    const { title, unit, contenders, goal } = result;
    return [title, cell(contenders.sdk, unit), cell(contenders.floor, unit), cell(contenders.ours, unit), ratioOf(result), goal, verdict(result)];
  });
}

export function markdown(results: readonly Result[], facts: readonly string[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return `${[...facts, '', line(HEAD), line(HEAD.map(() => '---')), ...rows(results).map(line)].join('\n')}\n`;
}

export function terminal(results: readonly Result[]): string {
  const table = [HEAD, ...rows(results)];
  const widths = HEAD.map((_, column) => Math.max(...table.map((row) => (row[column] as string).length)));
  return table.map((row) => row.map((text, column) => (column === 0 ? text.padEnd(widths[column] as number) : text.padStart(widths[column] as number))).join('  ')).join('\n');
}
