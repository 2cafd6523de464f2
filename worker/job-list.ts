import type { Job } from './pools/pool.ts';

/**
 * Jobs, in no order. (Not a Map: one that as many jobs leave as enter is copied again and again, and what its old copies name
 * stays in memory until the next full garbage collection.)
 */
export class JobList {
  #jobs: Job[] = [];

  get size(): number {
    return this.#jobs.length;
  }

  add(job: Job): void {
    job.place = this.#jobs.length;
    this.#jobs.push(job);
  }

  /** Does nothing where it is not in the list. */
  remove(job: Job): void {
    if (this.#jobs[job.place] !== job) return;
    const last = this.#jobs.pop()!;
    if (last === job) return;
    last.place = job.place;
    this.#jobs[job.place] = last;
  }

  clear(): void {
    this.#jobs = [];
  }

  /** Those that are in it now. */
  all(): readonly Job[] {
    return [...this.#jobs];
  }
}
