/** How many grid points before the newest one a late message may still fill in. */
const REMEMBERED = 32;

export interface Verdict {
  /** Messages taken in since the ledger was opened. */
  readonly seen: number;
  /** Occurrences due between the ledger's opening and its closing that never came. */
  readonly lost: number;
  /** Occurrences that came more than once. */
  readonly doubled: number;
  /** Messages of no known schedule, or due at a time that is not on their schedule's grid. */
  readonly strange: number;
}

/**
 * The account of an interval load: every (schedule, due) pair exactly once, none missing from first to last. It learns
 * each schedule's grid from the first due time that it sees. Per schedule it keeps the newest due time and one bit for
 * each of the 32 grid points up to it, so its memory does not grow with the run.
 */
export class Ledger {
  readonly #everyMs: number;
  readonly #newest: Float64Array;
  readonly #came: Uint32Array;
  #fromMs = Infinity;
  #seen = 0;
  #lost = 0;
  #doubled = 0;
  #strange = 0;

  constructor(schedules: number, everyMs: number) {
    this.#everyMs = everyMs;
    this.#newest = new Float64Array(schedules);
    this.#came = new Uint32Array(schedules);
  }

  /** Begins anew: from here on every occurrence due at or after `fromMs` is expected. */
  open(fromMs: number): void {
    this.#newest.fill(0);
    this.#came.fill(0);
    this.#fromMs = fromMs;
    this.#seen = this.#lost = this.#doubled = this.#strange = 0;
  }

  /** Takes in one message; one that was due before the opening is passed over. */
  record(schedule: number, dueMs: number): void {
    if (dueMs < this.#fromMs) return;
    this.#seen += 1;
    const newest = this.#newest[schedule];
    if (newest === undefined || (newest !== 0 && (dueMs - newest) % this.#everyMs !== 0)) {
      this.#strange += 1;
      return;
    }
    if (newest === 0) {
      this.#lost += Math.floor((dueMs - this.#fromMs) / this.#everyMs);
      this.#newest[schedule] = dueMs;
      this.#came[schedule] = 1;
      return;
    }
    const steps = (dueMs - newest) / this.#everyMs;
    if (steps > 0) {
      this.#lost += steps - 1;
      this.#newest[schedule] = dueMs;
      this.#came[schedule] = steps >= REMEMBERED ? 1 : (this.#came[schedule]! << steps) | 1;
      return;
    }
    // Late or twice: a gap that was counted as lost is filled, anything else has been here before.
    const bit = -steps < REMEMBERED ? 1 << -steps : 0;
    if (bit !== 0 && (this.#came[schedule]! & bit) === 0) {
      this.#came[schedule]! |= bit;
      this.#lost -= 1;
    } else {
      this.#doubled += 1;
    }
  }

  /** The account of everything due from the opening up to `untilMs`. */
  close(untilMs: number): Verdict {
    let lost = this.#lost;
    for (const newest of this.#newest) {
      const since = newest === 0 ? this.#fromMs - 1 : newest;
      lost += Math.max(0, Math.floor((untilMs - since) / this.#everyMs));
    }
    return { seen: this.#seen, lost, doubled: this.#doubled, strange: this.#strange };
  }
}
