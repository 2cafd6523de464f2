import type { Delivery } from './delivery.ts';

/** Messages by their eta, the nearest first: a binary heap. */
export class EtaHeap {
  #entries: { readonly etaMs: number; readonly delivery: Delivery }[] = [];

  get size(): number {
    return this.#entries.length;
  }

  push(etaMs: number, delivery: Delivery): void {
    const entries = this.#entries;
    let at = entries.length;
    entries.push({ etaMs, delivery });
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (entries[parent]!.etaMs <= etaMs) break;
      this.#swap(at, parent);
      at = parent;
    }
  }

  /** Takes the nearest message off if its eta is at most `untilMs`, else null. */
  pop(untilMs: number): Delivery | null {
    const entries = this.#entries;
    const first = entries[0];
    if (first === undefined || first.etaMs > untilMs) return null;
    const last = entries.pop()!;
    if (entries.length > 0) {
      entries[0] = last;
      this.#sink();
    }
    return first.delivery;
  }

  /** Takes off whatever `isWanted` says. */
  takeWhere(isWanted: (delivery: Delivery) => boolean): Delivery[] {
    const entries = this.#entries;
    const taken = entries.filter(({ delivery }) => isWanted(delivery));
    if (taken.length === 0) return [];
    this.#entries = [];
    for (const { etaMs, delivery } of entries) if (!isWanted(delivery)) this.push(etaMs, delivery);
    return taken.map(({ delivery }) => delivery);
  }

  /** Everything in it, in no order. */
  deliveries(): Delivery[] {
    return this.#entries.map(({ delivery }) => delivery);
  }

  #sink(): void {
    const entries = this.#entries;
    for (let at = 0; ; ) {
      const left = 2 * at + 1;
      if (left >= entries.length) return;
      const right = left + 1;
      const child = right < entries.length && entries[right]!.etaMs < entries[left]!.etaMs ? right : left;
      if (entries[at]!.etaMs <= entries[child]!.etaMs) return;
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
