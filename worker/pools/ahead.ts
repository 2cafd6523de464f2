/** How much the latest job counts in the mean of how long jobs take. */
const LATEST = 0.1;

/** How many jobs a pool can be given ahead of their slots, by how long its jobs have taken of late. */
export class Ahead {
  readonly #aheadMs: number;
  readonly #most: number;
  #meanMs: number;

  /** Jobs are taken that will be waiting for their slots for about this long, ms; at most so many for each slot. */
  constructor(aheadMs: number, most: number) {
    this.#aheadMs = aheadMs;
    this.#most = most;
    this.#meanMs = aheadMs;
  }

  /** A job took so long, ms. */
  took(ms: number): void {
    this.#meanMs += LATEST * (ms - this.#meanMs);
  }

  /** Of a pool with so many slots. None unless jobs are short. */
  of(slots: number): number {
    return slots * Math.min(Math.max(0, Math.floor(this.#aheadMs / this.#meanMs) - 1), this.#most);
  }
}
