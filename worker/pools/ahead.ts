/** Jobs are taken ahead that will be waiting for a slot for about this long, ms; at most so many for each slot. */
const AHEAD_MS = 10;
export const MOST_AHEAD = 16;

/** How much the latest job counts in the mean of how long jobs take. */
const LATEST = 0.1;

/** How many jobs a pool can be given ahead of their slots, by how long its jobs have taken of late. */
export class Ahead {
  #meanMs = AHEAD_MS;

  /** A job took so long, ms. */
  took(ms: number): void {
    this.#meanMs += LATEST * (ms - this.#meanMs);
  }

  /** Of a pool with so many slots. None unless jobs are short. */
  of(slots: number): number {
    return slots * Math.min(Math.max(0, Math.floor(AHEAD_MS / this.#meanMs) - 1), MOST_AHEAD);
  }
}
