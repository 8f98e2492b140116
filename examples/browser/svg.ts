export function svg<K extends keyof SVGElementTagNameMap>(name: K, attributes: Readonly<Record<string, string | number>> = {}): SVGElementTagNameMap[K] {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  return element;
}

export function text(content: string, kind: string): SVGTextElement {
  const element = svg('text', { class: kind });
  element.textContent = content;
  return element;
}

/** Gives an element the words that a mouse over it shows. */
export function titled<E extends SVGElement>(element: E, words: string): E {
  let title = element.querySelector(':scope > title');
  if (!title) {
    title = svg('title');
    element.prepend(title);
  }
  if (title.textContent !== words) title.textContent = words;
  return element;
}
