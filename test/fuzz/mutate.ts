/** Numbers by seed and index: each mutation can be made again without those before it. */
export class Random {
  #state: number;

  constructor(seed: number, index: number) {
    this.#state = (Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(index + 1, 0xc2b2ae35)) | 0;
    for (let i = 0; i < 4; i++) this.next();
  }

  /** In [0, 1). (mulberry32) */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  chance(p: number): boolean {
    return this.next() < p;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)] as T;
  }
}

const NOW = 1_800_000_000_000;
/** Stands for JSON that no value can hold: {@link writeJson} puts it in. */
const DEEP = '<20,000 deep>';
const deepJson = '['.repeat(20_000) + ']'.repeat(20_000);

const ODD_VALUES: readonly unknown[] = [
  null, true, false, 0, -0, 1, -1, 1.5, 2 ** 31, 2 ** 32, 2 ** 53, 1e300, -1e300, 5e-324,
  '', ' ', '0', 'null', '__proto__', 'constructor', 'a\r\nb: c', '\u0000', '\ud800', '\u20ac', 'x'.repeat(2000), 'http://127.0.0.1:9/elsewhere', '1970-01-01', '9999-12-31T23:59:59Z',
  NOW, -NOW, 253_402_300_799_000, 8.64e15 + 1, [], {}, [[]], [null], [{}], { a: 1 }, JSON.parse('{"toString":1,"valueOf":null,"then":{}}'),
  '2.0', '2025-11-25', '2025-99-99', 'notifications/cancelled', 'ping', -32700, -32600, -32601, -32001, 'text', 'resource',
];
const ODD_KEYS = ['__proto__', 'constructor', 'prototype', 'toString', 'then', '', 'id', 'jsonrpc', 'result', 'error', 'method', '_meta', '0', '\ud800'];
const ODD_TEXTS = ['\n', '\r\n', '\r', '\n\n', '\0', '\ufeff', ':', '{', '}', '[', ']', '"', '\\', ',', 'data: ', 'id: 1\n', 'event: x\n', 'retry: 0\n', 'retry: 4294967296\n', 'data:\n\n', 'null', '-', '1e999', '\ud800', '\u20ac', '[]', '{}', '{"jsonrpc":"2.0","method":"ping","id":1}'];

/** A text with something wrong in it. */
export function mutateText(text: string, random: Random): string {
  const at = random.below(text.length + 1);
  const length = 1 + random.below(random.chance(0.8) ? 8 : text.length + 1);
  switch (random.below(7)) {
    case 0: // A bit.
      return text.slice(0, at) + String.fromCharCode((text.charCodeAt(at) || 0) ^ (1 << random.below(8))) + text.slice(at + 1);
    case 1:
      return text.slice(0, at);
    case 2:
      return text.slice(0, at) + text.slice(at + length);
    case 3:
      return text.slice(0, at + length) + text.slice(at);
    case 4:
      return text.slice(0, at) + random.pick(ODD_TEXTS) + text.slice(at);
    case 5: // A digit.
      return text.replaceAll(/\d/g, (digit) => (random.chance(0.05) ? String(random.below(10)) : digit));
    default: {
      const from = random.below(text.length + 1);
      return text.slice(0, at) + text.slice(from, from + length) + text.slice(at + length);
    }
  }
}

/** Bytes with something wrong in them. */
export function mutateBytes(bytes: Uint8Array, random: Random): Uint8Array {
  return Buffer.from(mutateText(Buffer.from(bytes).toString('latin1'), random), 'latin1');
}

type Container = Record<string, unknown> | unknown[];

/** A JSON value with something wrong in it. The value itself stays as it is. */
export function mutateJson(value: unknown, random: Random): unknown {
  const holder = { root: cloned(value) };
  const places = placesIn(holder);
  const [container, key] = random.pick(places);
  const held = get(container, key);
  switch (random.below(8)) {
    case 0:
      if (container !== holder) remove(container, key);
      break;
    case 1:
    case 2:
      set(container, key, random.pick(ODD_VALUES));
      break;
    case 3: // Another type, of much the same.
      set(container, key, typeof held === 'string' ? Number(held) || [held] : typeof held === 'number' ? String(held) : Array.isArray(held) ? { ...held } : held !== null && typeof held === 'object' ? Object.values(held) : [held]);
      break;
    case 4: { // What stands elsewhere.
      const [other, from] = random.pick(places);
      set(container, key, cloned(get(other, from)));
      break;
    }
    case 5:
      if (held !== null && typeof held === 'object') set(held as Container, random.pick(ODD_KEYS), random.pick(ODD_VALUES));
      else set(container, key, typeof held === 'number' ? held * random.pick([-1, 0.5, 1000, 1e6, 1e300]) + random.pick([0, 1, -1]) : random.pick(ODD_VALUES));
      break;
    case 6:
      if (typeof held === 'string') set(container, key, mutateText(held, random));
      else if (container !== holder && !Array.isArray(container)) {
        remove(container, key);
        set(container, random.pick(ODD_KEYS), held);
      }
      break;
    default:
      set(container, key, random.chance(0.05) ? DEEP : random.pick(ODD_VALUES));
  }
  return holder.root;
}

export function writeJson(value: unknown): string {
  return (JSON.stringify(value) ?? 'null').replace(`"${DEEP}"`, deepJson);
}

/** In the order in which they are written. */
function placesIn(container: Container, places: [Container, string][] = []): [Container, string][] {
  for (const key of Object.keys(container)) {
    places.push([container, key]);
    const each = get(container, key);
    if (each !== null && typeof each === 'object') placesIn(each as Container, places);
  }
  return places;
}

/** As `structuredClone`, which costs ten times as much for what is so small. Keys are defined: `__proto__` is one like the others. */
function cloned(value: unknown): unknown {
  if (value === null || typeof value !== 'object') return value;
  // Not by its own `map`, which asks its constructor: that may be one of the odd keys.
  if (Array.isArray(value)) return Array.from(value, cloned);
  const copy = {};
  for (const key of Object.keys(value)) set(copy, key, cloned(get(value as Container, key)));
  return copy;
}

const get = (container: Container, key: string): unknown => (container as Record<string, unknown>)[key];
const set = (container: Container, key: string, value: unknown): unknown => Object.defineProperty(container, key, { value, enumerable: true, configurable: true, writable: true });

function remove(container: Container, key: string): void {
  if (Array.isArray(container)) container.splice(Number(key), 1);
  else delete container[key];
}
