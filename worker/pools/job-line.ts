/**
 * Who enters a job that a thread was sent ahead: the thread, when its turn comes, or nobody, because the worker took it back.
 * Jobs have places in the order in which they are sent, and one word of shared memory holds the place that is entered next.
 * Both sides move it by compare-and-exchange. Places wrap around after 2^32 jobs.
 */

/** The worker's side. */
export class JobLine {
  /** For the thread. */
  readonly shared = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT);
  readonly #next = new Int32Array(this.shared);
  #end = 0;

  /** The place of one job more. */
  add(): number {
    const place = this.#end;
    this.#end = (place + 1) | 0;
    return place;
  }

  /** From now on the thread enters none of the jobs that it has not yet entered; answers how many these are. */
  takeBack(): number {
    let next = Atomics.load(this.#next, 0);
    for (;;) {
      const seen = Atomics.compareExchange(this.#next, 0, next, this.#end);
      if (seen === next) return (this.#end - next) | 0;
      next = seen;
    }
  }
}

/** The thread's side: true if it is to run the job at this place. */
export function enterPlace(next: Int32Array, place: number): boolean {
  return Atomics.compareExchange(next, 0, place, (place + 1) | 0) === place;
}
