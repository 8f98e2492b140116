import type { Result } from './trial.ts';

/** Rows of the plot, in px. */
const ROW = 22;
const LEFT = 380;
const WIDTH = 420;
const TOP = 46;
/** A ratio as it is drawn: from 1/16 to 8, by powers of two. */
const [LOW, HIGH] = [-4, 3];

const place = (ratio: number): number => LEFT + ((Math.min(HIGH, Math.max(LOW, Math.log2(ratio))) - LOW) / (HIGH - LOW)) * WIDTH;
const text = (words: string): string => words.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
const round = (value: number): string => value.toFixed(1);

/** All ratios of ours to the bare SDK, each with its quartiles, on one scale: what is left of the line is less, what is right of it more. */
export function plot(results: readonly Result[]): string {
  const rows = results.filter(({ ratio }) => ratio && Number.isFinite(ratio.median) && ratio.median > 0);
  const height = TOP + rows.length * ROW + 10;
  const scale = Array.from({ length: HIGH - LOW + 1 }, (_, i) => 2 ** (LOW + i)).map((ratio) => {
    const label = ratio < 1 ? `1/${1 / ratio}` : String(ratio);
    return `<line class="${ratio === 1 ? 'one' : 'grid'}" x1="${round(place(ratio))}" x2="${round(place(ratio))}" y1="${TOP - 6}" y2="${height - 8}"/><text class="small" x="${round(place(ratio))}" y="${TOP - 12}" text-anchor="middle">${label}</text>`;
  });
  const bars = rows.map(({ title, unit, ratio, met }, i) => {
    if (!ratio) return '';
    const y = TOP + i * ROW;
    const [from, to] = [place(1), place(ratio.median)];
    const color = met === false ? 'missed' : 'met';
    // More is better only of what is counted by the second.
    const better = unit === '/s' ? 'more is better' : 'less is better';
    return [
      `<text x="${LEFT - 10}" y="${y + 13}" text-anchor="end">${text(title)}</text>`,
      `<rect class="${color}" x="${round(Math.min(from, to))}" y="${y + 3}" width="${round(Math.max(1, Math.abs(to - from)))}" height="${ROW - 8}"><title>${text(title)}: ${ratio.median.toFixed(2)} (${better})</title></rect>`,
      `<line class="spread" x1="${round(place(ratio.q1))}" x2="${round(place(ratio.q3))}" y1="${y + ROW / 2 - 1}" y2="${y + ROW / 2 - 1}"/>`,
      `<text class="small" x="${LEFT + WIDTH + 8}" y="${y + 13}">${ratio.median.toFixed(2)}</text>`,
    ].join('');
  });
  const style =
    'text{font:12px system-ui,sans-serif;fill:#444}.small{font-size:11px;fill:#777}.grid{stroke:#ddd}.one{stroke:#777;stroke-width:1.5}.met{fill:#2a7f62}.missed{fill:#c8792f}.spread{stroke:#111;stroke-width:2}' +
    '@media (prefers-color-scheme:dark){text{fill:#ccc}.small{fill:#999}.grid{stroke:#333}.spread{stroke:#eee}}';
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${LEFT + WIDTH + 60}" height="${height}" viewBox="0 0 ${LEFT + WIDTH + 60} ${height}" role="img" aria-label="Ours divided by the bare SDK"><style>${style}</style><text x="${LEFT}" y="16">ours divided by the bare SDK (calls/s: more is better; all else: less is better)</text>${scale.join('')}${bars.join('')}</svg>\n`;
}
