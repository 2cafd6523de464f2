/**
 * What a task of a loop may return to say how the loop goes on: `{"ringbeat": {"after": s}}` sets the pause before its next
 * run, `{"ringbeat": {"stop": true}}` ends it. Python tasks return the same as a dict.
 */

/** ms until a loop's next run, or that there is none. */
export type LoopWish = number | 'stop';

/** 100 years, ms: as long as any duration of a spec. */
const LONGEST_MS = 3_155_760_000_000;

/** The wish in what a task returned; null when there is none. */
export function loopWishOf(result: unknown): LoopWish | null {
  if (typeof result !== 'object' || result === null || !('ringbeat' in result)) return null;
  const wish = result.ringbeat;
  if (typeof wish !== 'object' || wish === null) return null;
  if ('stop' in wish && wish.stop === true) return 'stop';
  return 'after' in wish && typeof wish.after === 'number' ? loopDelayMs(wish.after) : null;
}

/** Seconds as a loop's delay, whole ms; null for what is none. */
export function loopDelayMs(seconds: number): number | null {
  const ms = Math.round(seconds * 1_000);
  return ms >= 0 && ms <= LONGEST_MS ? ms : null;
}
