import { LatenessHistogram, type Percentiles } from './percentiles.ts';

/** One run of a loop, as the worker saw it; instants are ms since epoch. */
export interface LoopRun {
  readonly index: number;
  readonly dueMs: number;
  readonly enteredMs: number;
  readonly endedMs: number;
}

export interface LoopVerdict {
  /** Runs that were entered since the opening. */
  readonly runs: number;
  /** Entry of a run minus end of the one before, beyond the delay between them, ms. */
  readonly drift: Percentiles;
  /** Entry minus due, ms. */
  readonly startLateness: Percentiles;
  /** Runs that were entered again after they had ended. */
  readonly doubled: number;
  /** Runs that were entered before the loop's run before them had ended. */
  readonly overlapped: number;
  /** Runs of no known loop. */
  readonly strange: number;
  /** Loops that ran since the opening, and when the last of them was entered for the first time, ms since epoch. */
  readonly loops: number;
  readonly lastCameMs: number;
}

/** The account of loops: no two runs of one at once, none twice, and each one delay after the one before. */
export class LoopLedger {
  readonly #delayMs: number;
  readonly #due: Float64Array;
  readonly #entered: Float64Array;
  readonly #ended: Float64Array;
  readonly #drift = new LatenessHistogram();
  readonly #startLateness = new LatenessHistogram();
  readonly #came: Uint8Array;
  #loops = 0;
  #lastCameMs = 0;
  #fromMs = Infinity;
  #runs = 0;
  #doubled = 0;
  #overlapped = 0;
  #strange = 0;

  constructor(loops: number, delayMs: number) {
    this.#delayMs = delayMs;
    this.#due = new Float64Array(loops);
    this.#entered = new Float64Array(loops);
    this.#ended = new Float64Array(loops);
    this.#came = new Uint8Array(loops);
  }

  /** Begins anew: from here on runs entered at or after `fromMs` count. */
  open(fromMs: number): void {
    this.#fromMs = fromMs;
    this.#came.fill(0);
    this.#runs = this.#doubled = this.#overlapped = this.#strange = this.#loops = this.#lastCameMs = 0;
    this.#drift.reset();
    this.#startLateness.reset();
  }

  /** Takes in one run that has ended. */
  record({ index, dueMs, enteredMs, endedMs }: LoopRun): void {
    const isCounted = enteredMs >= this.#fromMs;
    if (this.#due[index] === undefined) {
      if (isCounted) this.#strange += 1;
      return;
    }
    if (isCounted) this.#judge({ index, dueMs, enteredMs, endedMs });
    if (enteredMs < this.#entered[index]!) return;
    this.#due[index] = dueMs;
    this.#entered[index] = enteredMs;
    this.#ended[index] = endedMs;
  }

  #judge({ index, dueMs, enteredMs, endedMs }: LoopRun): void {
    this.#runs += 1;
    this.#startLateness.record(enteredMs - dueMs);
    if (this.#came[index] === 0) {
      this.#came[index] = 1;
      this.#loops += 1;
      this.#lastCameMs = Math.max(this.#lastCameMs, enteredMs);
    }
    const lastEnded = this.#ended[index]!;
    if (lastEnded === 0) return;
    if (enteredMs < lastEnded && endedMs > this.#entered[index]!) this.#overlapped += 1;
    else if (dueMs === this.#due[index]) this.#doubled += 1;
    else this.#drift.record(enteredMs - lastEnded - this.#delayMs);
  }

  /** What was counted since the opening. */
  read(): LoopVerdict {
    return {
      runs: this.#runs,
      drift: this.#drift.read(),
      startLateness: this.#startLateness.read(),
      doubled: this.#doubled,
      overlapped: this.#overlapped,
      strange: this.#strange,
      loops: this.#loops,
      lastCameMs: this.#lastCameMs,
    };
  }

  /** How many loops were not entered at or after `sinceMs`. */
  countIdle(sinceMs: number): number {
    return this.#entered.reduce((count, enteredMs) => (enteredMs < sinceMs ? count + 1 : count), 0);
  }
}
