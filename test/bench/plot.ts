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
  const rows = results.filter(({ ratio, contenders, point }) => !point && contenders.sdk && ratio && Number.isFinite(ratio.median) && ratio.median > 0);
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
  return drawing(LEFT + WIDTH + 60, height, 'Ours divided by the bare SDK', `<text x="${LEFT}" y="16">ours divided by the bare SDK (calls/s: more is better; all else: less is better)</text>${scale.join('')}${bars.join('')}`);
}

/** A panel of the plot of growth, in px. */
const PANEL = { width: 280, height: 150, gap: 60, top: 40 };

/** What becomes of each figure that must not grow: as a multiple of its first point, by how much there is of what could make it grow. */
export function growthPlot(results: readonly Result[]): string {
  const lines = new Map<string, { x: number; who: string; value: number }[]>();
  for (const { point, contenders } of results) {
    if (!point) continue;
    for (const [who, spread] of Object.entries(contenders)) lines.set(point.line, [...(lines.get(point.line) ?? []), { x: point.x, who, value: spread.median }]);
  }
  const panels = [...lines].map(([title, points], i) => panel(title, points, 40 + (i % 3) * (PANEL.width + PANEL.gap), PANEL.top + Math.floor(i / 3) * (PANEL.height + 70)));
  const rows = Math.ceil(lines.size / 3);
  return drawing(40 + 3 * (PANEL.width + PANEL.gap), PANEL.top + rows * (PANEL.height + 70), 'Growth: multiples of the first point', panels.join(''));
}

function panel(title: string, points: readonly { x: number; who: string; value: number }[], left: number, top: number): string {
  const xs = [...new Set(points.map(({ x }) => x))].sort((a, b) => a - b);
  const base = points.find(({ who, x }) => who === 'ours' && x === xs[0])?.value ?? 1;
  const highest = Math.max(2, ...points.map(({ value }) => value / base));
  const across = (x: number): number => left + (xs.length < 2 ? 0 : (xs.indexOf(x) / (xs.length - 1)) * PANEL.width);
  const up = (value: number): number => top + PANEL.height - (value / base / highest) * PANEL.height;
  const level = (multiple: number): string =>
    `<line class="grid" x1="${left}" x2="${left + PANEL.width}" y1="${round(up(multiple * base))}" y2="${round(up(multiple * base))}"/><text class="small" x="${left - 6}" y="${round(up(multiple * base) + 4)}" text-anchor="end">${multiple}</text>`;
  const levels = [0, 1, Math.floor(highest)].filter((each, i, all) => all.indexOf(each) === i).map(level);
  const whose = [...new Set(points.map(({ who }) => who))].map((who) => {
    const line = points.filter((point) => point.who === who).sort((a, b) => a.x - b.x);
    const at = ({ x, value }: { x: number; value: number }): string => `${round(across(x))},${round(up(value))}`;
    const last = line.at(-1);
    const dots = line.map((point) => `<circle class="${who}" cx="${round(across(point.x))}" cy="${round(up(point.value))}" r="3"/>`).join('');
    const name = last && who !== 'ours' ? `<text class="small" x="${round(across(last.x) + 6)}" y="${round(up(last.value) + 4)}">bare SDK</text>` : '';
    return `<polyline class="${who}" points="${line.map(at).join(' ')}"/>${dots}${name}`;
  });
  const labels = xs.map((x) => `<text class="small" x="${round(across(x))}" y="${top + PANEL.height + 16}" text-anchor="middle">${x.toLocaleString('en-US')}</text>`);
  return `<text x="${left}" y="${top - 14}">${text(title)}</text>${levels.join('')}${whose.join('')}${labels.join('')}`;
}

function drawing(width: number, height: number, label: string, content: string): string {
  const style =
    'text{font:12px system-ui,sans-serif;fill:#444}.small{font-size:11px;fill:#777}.grid{stroke:#ddd}.one{stroke:#777;stroke-width:1.5}.met{fill:#2a7f62}.missed{fill:#c8792f}.spread{stroke:#111;stroke-width:2}' +
    'polyline{fill:none;stroke-width:2}polyline.ours{stroke:#2a7f62}polyline.sdk{stroke:#888}circle.ours{fill:#2a7f62}circle.sdk{fill:#888}' +
    '@media (prefers-color-scheme:dark){text{fill:#ccc}.small{fill:#999}.grid{stroke:#333}.spread{stroke:#eee}}';
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" aria-label="${label}"><style>${style}</style>${content}</svg>\n`;
}
