/** How deep the JSON of a message, or of what a user keeps, may nest. Far more than a tool needs, far less than what overflows a recursive reader. */
export const DEEPEST = 512;

/** Whether a text of JSON nests deeper than that: `JSON.parse` takes any depth, what writes or copies it after that does not. */
export function nestsTooDeep(text: string, deepest = DEEPEST): boolean {
  if (text.length < deepest) return false;
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (inString) {
      if (code === 92 /* \ */) i++;
      else if (code === 34 /* " */) inString = false;
    } else if (code === 34) inString = true;
    else if (code === 123 /* { */ || code === 91 /* [ */) {
      if (++depth > deepest) return true;
    } else if (code === 125 /* } */ || code === 93 /* ] */) depth--;
  }
  return false;
}
