/** As many as Celery's workers remember, and for as long (celery/worker/state.py). */
const MAX_TASKS = 50_000;
const EXPIRES_MS = 10_800_000;

/** Ids of tasks that are not to be run, remembered for 3 hours, the newest 50,000. Times are of one monotonic clock, ms. */
export class RevokedTasks {
  /** Id -> when it was revoked, oldest first. */
  readonly #revokedAtMs = new Map<string, number>();

  get size(): number {
    return this.#revokedAtMs.size;
  }

  has(id: string): boolean {
    return this.#revokedAtMs.has(id);
  }

  add(ids: Iterable<string>, nowMs: number): void {
    for (const id of ids) {
      this.#revokedAtMs.delete(id);
      this.#revokedAtMs.set(id, nowMs);
    }
    for (const [id, revokedAtMs] of this.#revokedAtMs) {
      if (this.#revokedAtMs.size <= MAX_TASKS && revokedAtMs > nowMs - EXPIRES_MS) return;
      this.#revokedAtMs.delete(id);
    }
  }

  /** [id, when it was revoked], oldest first. */
  entries(): Iterable<readonly [string, number]> {
    return this.#revokedAtMs.entries();
  }
}
