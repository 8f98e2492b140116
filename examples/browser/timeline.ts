import type { Bar, Chronicle, Mark, Segment } from './chronicle.ts';
import { inClusters, inRows } from './rows.ts';
import { svg, text, titled } from './svg.ts';
import { clock, lasted, MARKS, OUTCOMES, STATES } from './words.ts';

const BAND = 22;
/** Room below the label for the marks of what was sent again. */
const BAR = 24;
const GAP = 4;
/** Above each lane stands its name. */
const NAME = 22;
const AXIS = 22;
/** Between "now" and the right edge, so that what has just happened can be seen whole. */
const MARGIN = 18;
const SHORTEST_BAR = 20;
const MARK = 18;
/** About as wide as a letter is. */
const LETTER = 6.9;
const TICK = 10_000;

/** Shows the last minute as it goes by. */
export class Timeline {
  readonly #svg: SVGSVGElement;
  readonly #chronicle: Chronicle;
  /** What is drawn, by its id: it is moved, not made anew, so that what the mouse is over stays. */
  readonly #drawn = new Map<string, SVGElement>();
  readonly #seen = new Set<string>();
  #width = 0;
  #lastFrame = 0;

  constructor(picture: SVGSVGElement, chronicle: Chronicle) {
    this.#svg = picture;
    this.#chronicle = chronicle;
    new ResizeObserver(() => this.draw()).observe(picture.parentElement ?? picture);
    const calm = matchMedia('(prefers-reduced-motion: reduce)');
    const frame = (time: number): void => {
      requestAnimationFrame(frame);
      if (time - this.#lastFrame < (calm.matches ? 1000 : 30)) return;
      this.#lastFrame = time;
      this.draw();
    };
    requestAnimationFrame(frame);
  }

  draw(): void {
    const { bars, marks, segments } = this.#chronicle;
    this.#width = this.#svg.parentElement?.clientWidth ?? 0;
    this.#seen.clear();
    const callRows = inRows(bars, { start: ({ from }) => from, end: ({ from, to }) => (to === undefined ? Infinity : Math.max(to, from + this.#time(SHORTEST_BAR + 2))) });
    const clusters = inClusters(marks, this.#time(MARK));
    const spread = { start: ([{ at }]: Cluster) => at, end: ([{ at }, ...more]: Cluster) => at + this.#time(more.length > 0 ? MARK * 2 : MARK) };
    const eventRows = inRows(clusters.filter(([{ kind }]) => kind !== 'notification'), spread);
    const noteRows = inRows(clusters.filter(([{ kind }]) => kind === 'notification'), spread);

    let y = 0;
    const lane = (name: string, rows: number, height: number): number => {
      this.#keep(`lane ${name}`, () => text(name, 'lane'), { x: 2, y: y + 15 });
      const top = y + NAME;
      y = top + rows * (height + GAP) + 6;
      this.#keep(`line ${name}`, () => svg('line', { class: 'rule' }), { x1: 0, x2: this.#width, y1: y, y2: y });
      return top;
    };
    const rowsOf = <T>(rows: ReadonlyMap<T, number>, shows: (item: T) => boolean, least: number): number =>
      Math.max(least, ...[...rows].filter(([item]) => shows(item)).map(([, row]) => row + 1));
    const showsMark = ([{ at }]: Cluster): boolean => this.#shows(at, at);

    const session = lane('Session', 1, BAND);
    const calls = lane('Calls', rowsOf(callRows, ({ from, to }) => this.#shows(from, to), 2), BAR);
    const eventTop = lane('Events', rowsOf(eventRows, showsMark, 2), MARK);
    const noteTop = lane('Notifications', rowsOf(noteRows, showsMark, 1), MARK);

    this.#axis(y);
    for (const mark of marks) if (mark.kind === 'reset' || mark.kind === 'reload') this.#divide(mark, y);
    for (const segment of segments) this.#segment(segment, session);
    for (const [bar, row] of callRows) this.#bar(bar, calls + row * (BAR + GAP));
    for (const [cluster, row] of eventRows) this.#marks(cluster, eventTop + row * (MARK + GAP) + MARK / 2);
    for (const [cluster, row] of noteRows) this.#marks(cluster, noteTop + row * (MARK + GAP) + MARK / 2);

    for (const [id, element] of this.#drawn) {
      if (this.#seen.has(id)) continue;
      element.remove();
      this.#drawn.delete(id);
    }
    const height = y + AXIS;
    set(this.#svg, { width: this.#width, height, viewBox: `0 0 ${this.#width} ${height}` });
  }

  /** How much time the picture shows: a small one less. */
  get #window(): number {
    return this.#width < 560 ? 30_000 : 60_000;
  }

  #x(time: number): number {
    return this.#width - MARGIN - (Date.now() - time) / this.#time(1);
  }

  /** The time that so many pixels are. */
  #time(pixels: number): number {
    return (pixels * this.#window) / Math.max(1, this.#width - MARGIN);
  }

  #shows(from: number, to = Date.now()): boolean {
    return this.#x(to) > -MARK && this.#x(from) < this.#width;
  }

  #axis(y: number): void {
    const now = Date.now();
    for (let time = Math.ceil((now - this.#window) / TICK) * TICK; time <= now; time += TICK) {
      const x = this.#x(time);
      this.#keep(`grid ${time}`, () => svg('line', { class: 'grid' }), { x1: x, x2: x, y1: NAME, y2: y }, 'first');
      const hidden = x < 24 || x > this.#width - 70;
      this.#keep(`time ${time}`, () => text(clock(time), 'time'), { x, y: y + 16, visibility: hidden ? 'hidden' : 'visible' });
    }
    const x = this.#x(now);
    this.#keep('now', () => svg('line', { class: 'now' }), { x1: x, x2: x, y1: NAME, y2: y }, 'first');
    this.#keep('now text', () => text('now', 'time end'), { x: this.#width - 2, y: y + 16 });
  }

  #divide({ id, at, kind }: Mark, y: number): void {
    const x = this.#x(at);
    if (this.#shows(at, at)) this.#keep(`divide ${id}`, () => svg('line', { class: `divide ${MARKS[kind].tone}` }), { x1: x, x2: x, y1: NAME, y2: y }, 'first');
  }

  #segment({ id, from, to = Date.now(), name }: Segment, y: number): void {
    if (!this.#shows(from, to)) return;
    const start = Math.max(-8, this.#x(from));
    const width = Math.max(4, this.#x(to) - start);
    const made = () => {
      const box = titled(svg('svg', { class: `box ${STATES[name].tone}`, 'data-segment': name }), '');
      box.append(svg('rect', { height: BAND, rx: 5 }), text(name, 'label'));
      return box;
    };
    const box = this.#keep(id, made, { x: start, y, width, height: BAND });
    this.#fill(box, { width, height: BAND, start, labels: [name, ''] });
    titled(box, `Session ${name} from ${clock(from)}, for ${lasted(to - from)}`);
  }

  #bar({ id, from, to, label, outcome, attempts, progress, call }: Bar, y: number): void {
    if (!this.#shows(from, to)) return;
    const start = Math.max(-8, this.#x(from));
    const width = Math.max(SHORTEST_BAR, this.#x(to ?? Date.now()) - start);
    const made = () => {
      const box = svg('svg');
      box.append(svg('rect', { height: BAR, rx: 5 }), svg('g', { class: 'retries' }), text('', 'label'));
      return box;
    };
    const { tone, sign, text: said } = OUTCOMES[outcome];
    const box = this.#keep(id, made, { x: start, y, width, height: BAR, class: `box bar ${tone} ${outcome}`, 'data-call': label, 'data-outcome': outcome, ...(progress ? { 'data-progress': progress } : {}) });
    const times = attempts > 1 ? ` ×${attempts}` : '';
    this.#fill(box, { width, height: BAR, start, labels: [`${sign} ${label}${progress ? ` ${progress}` : ''}${times}`, `${sign} ${label}${times}`, `${sign} ${label}`, sign] });
    const retries = this.#chronicle.marks.filter((mark) => call !== undefined && mark.call === call);
    box.querySelector('.retries')?.replaceChildren(...retries.map(({ at }) => svg('line', { class: 'again', x1: this.#x(at) - start, x2: this.#x(at) - start, y1: BAR - 6, y2: BAR - 2 })));
    titled(box, `${label}: ${said}, ${lasted((to ?? Date.now()) - from)}${attempts > 1 ? `, sent ${attempts} times` : ''}`);
  }

  #marks(cluster: Cluster, y: number): void {
    const [{ id, at, kind }] = cluster;
    if (!this.#shows(at, at)) return;
    const { tone, path, line, text: name } = MARKS[kind];
    const made = () => {
      const shape = svg('g', { class: `mark ${tone}${line ? ' outline' : ''}`, 'data-mark': kind });
      const count = text('', 'count');
      count.setAttribute('x', '9');
      shape.append(svg('path', { d: path }), count);
      return shape;
    };
    const shape = this.#keep(id, made, { transform: `translate(${this.#x(at)} ${y})` });
    write(shape.querySelector('text'), cluster.length > 1 ? String(cluster.length) : '');
    titled(shape, cluster.map((mark) => `${name}, ${clock(mark.at)}: ${mark.text}`).join('\n'));
  }

  /** The label stays to be read while its box leaves on the left. */
  #fill(box: Element, { width, height, start, labels }: { readonly width: number; readonly height: number; readonly start: number; readonly labels: readonly string[] }): void {
    const rect = box.querySelector('rect');
    if (rect) set(rect, { x: 0.5, y: 0.5, width: Math.max(1, width - 1), height: height - 1 });
    const hidden = Math.max(0, -start);
    const label = labels.find(({ length }) => length * LETTER + 12 <= width - hidden) ?? labels.at(-1) ?? '';
    const words = box.querySelector('text');
    if (words) set(words, { x: hidden + (label.length === 1 ? (width - hidden) / 2 : 8), y: BAND / 2, 'text-anchor': label.length === 1 ? 'middle' : 'start' });
    write(words, label);
  }

  #keep(id: string, make: () => SVGElement, attributes: Attributes, where: 'first' | 'last' = 'last'): SVGElement {
    let element = this.#drawn.get(id);
    if (!element) {
      element = make();
      this.#drawn.set(id, element);
      if (where === 'first') this.#svg.prepend(element);
      else this.#svg.append(element);
    }
    set(element, attributes);
    this.#seen.add(id);
    return element;
  }
}

type Cluster = readonly [Mark, ...Mark[]];
type Attributes = Readonly<Record<string, string | number>>;

function set(element: Element, attributes: Attributes): void {
  for (const [name, value] of Object.entries(attributes)) {
    const said = typeof value === 'number' ? String(Math.round(value * 100) / 100) : value;
    if (element.getAttribute(name) !== said) element.setAttribute(name, said);
  }
}

function write(element: Element | null, words: string): void {
  if (element && element.textContent !== words) element.textContent = words;
}
