/** Things by a time, the nearest first: a binary heap. */
export class Heap<Item> {
  #entries: { readonly atMs: number; readonly item: Item }[] = [];

  get size(): number {
    return this.#entries.length;
  }

  /** When the nearest is; Infinity for none. */
  get nextAtMs(): number {
    return this.#entries[0]?.atMs ?? Number.POSITIVE_INFINITY;
  }

  push(atMs: number, item: Item): void {
    const entries = this.#entries;
    let at = entries.length;
    entries.push({ atMs, item });
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (entries[parent]!.atMs <= atMs) break;
      this.#swap(at, parent);
      at = parent;
    }
  }

  /** Takes the nearest off if its time is at most `untilMs`, else null. */
  pop(untilMs: number): Item | null {
    const entries = this.#entries;
    const first = entries[0];
    if (first === undefined || first.atMs > untilMs) return null;
    const last = entries.pop()!;
    if (entries.length > 0) {
      entries[0] = last;
      this.#sink();
    }
    return first.item;
  }

  /** Takes off whatever `isWanted` says. */
  takeWhere(isWanted: (item: Item) => boolean): Item[] {
    const entries = this.#entries;
    const taken = entries.filter(({ item }) => isWanted(item));
    if (taken.length === 0) return [];
    this.#entries = [];
    for (const { atMs, item } of entries) if (!isWanted(item)) this.push(atMs, item);
    return taken.map(({ item }) => item);
  }

  /** Everything in it, in no order. */
  items(): Item[] {
    return this.#entries.map(({ item }) => item);
  }

  #sink(): void {
    const entries = this.#entries;
    for (let at = 0; ; ) {
      const left = 2 * at + 1;
      if (left >= entries.length) return;
      const right = left + 1;
      const child = right < entries.length && entries[right]!.atMs < entries[left]!.atMs ? right : left;
      if (entries[at]!.atMs <= entries[child]!.atMs) return;
      this.#swap(at, child);
      at = child;
    }
  }

  #swap(one: number, other: number): void {
    const entry = this.#entries[one]!;
    this.#entries[one] = this.#entries[other]!;
    this.#entries[other] = entry;
  }
}
