/**
 * Any JavaScript string as text that UTF-8 can carry. A lone half of a surrogate pair, which it cannot, is written as an escape, and so
 * is the escape itself (a noncharacter, so that text has none). What begins alike is written alike, except for a half pair at the end.
 */
const ESCAPE = '\uffff';
const LONE = /\uffff|\p{Surrogate}/gu;
const ESCAPED = /\uffff(.{4})/g;

export function encode(text: string): string {
  return isPlain(text) ? text : text.replace(LONE, (unit) => ESCAPE + unit.charCodeAt(0).toString(16).padStart(4, '0'));
}

export function decode(text: string): string {
  return text.includes(ESCAPE) ? text.replace(ESCAPED, (_, code: string) => String.fromCharCode(Number.parseInt(code, 16))) : text;
}

/** Such as all JSON. Much faster than looking for what is to be escaped, and values may be large. */
function isPlain(text: string): boolean {
  return !text.includes(ESCAPE) && (text as { isWellFormed?: () => boolean }).isWellFormed?.() === true;
}

/** A pattern of SCAN for the keys that start with `prefix`, when written with {@link encode}. It may find some more. */
export function startingWith(place: string, prefix: string): string {
  // The other half may follow, and then the key is written with both.
  const whole = prefix.replace(/[\ud800-\udbff]$/, '');
  return `${(place + encode(whole)).replace(/[*?[\]\\]/g, '\\$&')}*`;
}
