/*
 * Who enters a job that a thread was sent ahead: the thread, when its turn comes, or nobody, because the worker took it back.
 * Jobs have places in the order in which they are sent. Two words of shared memory hold the place that is entered next, which
 * both sides move by compare-and-exchange, and the place of the next job that is sent. Places wrap around after 2^32 jobs.
 */

const NEXT = 0;
const END = 1;

/** The worker's side. */
export class JobLine {
  /** For the thread. */
  readonly shared = new SharedArrayBuffer(2 * Int32Array.BYTES_PER_ELEMENT);
  readonly #places = new Int32Array(this.shared);

  /** The place of one job more. */
  add(): number {
    return Atomics.add(this.#places, END, 1);
  }

  /** From now on the thread enters none of the jobs that it has not yet entered; answers how many these are. */
  takeBack(): number {
    const end = Atomics.load(this.#places, END);
    let next = Atomics.load(this.#places, NEXT);
    for (;;) {
      const seen = Atomics.compareExchange(this.#places, NEXT, next, end);
      if (seen === next) return (end - next) | 0;
      next = seen;
    }
  }
}

/** The thread's side. */
export class JobEntrance {
  readonly #places: Int32Array;

  constructor(shared: SharedArrayBuffer) {
    this.#places = new Int32Array(shared);
  }

  /** Whether it is to run the job at this place. */
  enter(place: number): boolean {
    return Atomics.compareExchange(this.#places, NEXT, place, (place + 1) | 0) === place;
  }

  /** Whether it was sent no job more than it has entered. */
  get isLast(): boolean {
    return Atomics.load(this.#places, NEXT) === Atomics.load(this.#places, END);
  }
}
