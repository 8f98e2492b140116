/** Puts each item, in order of their starts, into the first row that is free by then. */
export function inRows<T>(items: readonly T[], { start, end }: { start(item: T): number; end(item: T): number }): Map<T, number> {
  const free: number[] = [];
  const rows = new Map<T, number>();
  for (const item of items) {
    let row = free.findIndex((time) => time <= start(item));
    if (row === -1) row = free.length;
    free[row] = end(item);
    rows.set(item, row);
  }
  return rows;
}

/** Items of one kind that would be drawn over each other, by the first of them; `near`: how far from that the others are at most. */
export function inClusters<T extends { readonly at: number; readonly kind: string }>(items: readonly T[], near: number): (readonly [T, ...T[]])[] {
  const clusters: [T, ...T[]][] = [];
  const last = new Map<string, [T, ...T[]]>();
  for (const item of items) {
    const cluster = last.get(item.kind);
    if (cluster && item.at - cluster[0].at <= near) cluster.push(item);
    else {
      const begun: [T, ...T[]] = [item];
      clusters.push(begun);
      last.set(item.kind, begun);
    }
  }
  return clusters;
}
