import { performance } from 'node:perf_hooks';

/** Milliseconds on this process's monotonic clock: for durations, never for instants. */
export function monotonicMs(): number {
  return performance.now();
}

/** A step of Redis's clock that is larger than this counts as a jump, ms. */
const JUMP_MS = 1_000;

/** Who has heard nothing of Redis for longer than this cannot tell whether others were heard by it meanwhile, ms. */
const LONGEST_SILENCE_MS = 3_000;

/**
 * What this process knows of Redis's clock. Each reply that carries Redis TIME was made between sending and receiving,
 * so it bounds the offset between the two clocks from both sides; a reply that contradicts what is known by more than
 * a second means that Redis's clock jumped. A process that was suspended only gets wide bounds, never a false jump.
 */
export class RedisClock {
  #low = -Infinity;
  #high = Infinity;
  #steadySinceMs = monotonicMs();
  #lastReplyAtMs = monotonicMs();
  readonly #onJump: (jumpMs: number) => void;

  /** `onJump` is told of every jump; see `observe`. */
  constructor(onJump: (jumpMs: number) => void = () => {}) {
    this.#onJump = onJump;
  }

  /** Takes one reply in; returns by how many ms Redis's clock jumped since the last one (negative: back), else 0. */
  observe(redisNowMs: number, sentAtMs: number, receivedAtMs = monotonicMs()): number {
    // Perhaps it was not this process alone that was suspended, but the whole machine, and every heartbeat is old.
    if (receivedAtMs - this.#lastReplyAtMs > LONGEST_SILENCE_MS) this.disturbed();
    this.#lastReplyAtMs = receivedAtMs;
    const low = redisNowMs - receivedAtMs;
    const high = redisNowMs - sentAtMs;
    const jump = low > this.#high + JUMP_MS ? low - this.#high : high < this.#low - JUMP_MS ? high - this.#low : 0;
    if (jump !== 0 || low > this.#high || high < this.#low) {
      // Small contradictions are drift (NTP slews both clocks differently): the newest bounds win.
      this.#low = low;
      this.#high = high;
    } else {
      this.#low = Math.max(this.#low, low);
      this.#high = Math.min(this.#high, high);
    }
    if (jump !== 0) {
      this.disturbed();
      this.#onJump(Math.round(jump));
    }
    return Math.round(jump);
  }

  /** Redis was unreachable or restarted: leases seen through it cannot be judged for a while. */
  disturbed(): void {
    this.#steadySinceMs = monotonicMs();
  }

  /**
   * Whether Redis was seen steady for this long, without a long silence, so that a lease of that length may be judged
   * expired.
   */
  steadyFor(leaseMs: number): boolean {
    const nowMs = monotonicMs();
    return nowMs - this.#lastReplyAtMs <= LONGEST_SILENCE_MS && nowMs - this.#steadySinceMs >= leaseMs;
  }

  /** Redis's time now, as far as it is known: the middle of the bounds. Before the first reply, the local clock's. */
  nowMs(): number {
    if (!Number.isFinite(this.#low + this.#high)) return Date.now();
    return monotonicMs() + (this.#low + this.#high) / 2;
  }
}
