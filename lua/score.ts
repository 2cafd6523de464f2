/**
 * Scores of `due` and `completed`: an instant in whole ms since epoch, plus a fraction that tells how late the
 * schedule's last run was dispatched. A double holds both exactly until the year 2109, and it costs no memory and no
 * command: 0 = not run since it was (re)scheduled, n/2048 = dispatched n - 1 ms late, up to 2046; 2047/2048 = later
 * than that. Where the fraction does not tell, the hash `last` does.
 */
export interface Score {
  readonly atMs: number;
  /** ms; null when it was not run since it was scheduled; Infinity when `last` tells. */
  readonly latenessMs: number | null;
}

const STEPS = 2048;

export function decodeScore(score: string | number): Score {
  const value = Number(score);
  const atMs = Math.floor(value);
  const code = Math.round((value - atMs) * STEPS);
  return { atMs, latenessMs: code === 0 ? null : code === STEPS - 1 ? Infinity : code - 1 };
}
