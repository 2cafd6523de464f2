const SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3_600 };

/** Starts a second, of a limit such as 10, "10/s", "100/m" or "5/h"; null for no limit (null, 0, ""). Throws RangeError. */
export function ratePerSec(limit: number | string | null): number | null {
  const match = /^(\d+(?:\.\d+)?)(?:\/([smh]))?$/.exec(String(limit ?? 0) || '0');
  if (match === null) {
    throw new RangeError(
      `A rate limit is a number of starts a second, or like "10/s", "100/m" or "5/h", got ${JSON.stringify(limit)}.`,
    );
  }
  const rate = Number(match[1]) / SECONDS[match[2] ?? 's']!;
  return rate === 0 ? null : rate;
}

/** Timers are about this exact, ms. */
const BURST_MS = 50;

/**
 * How many tokens a bucket of this rate holds. One, as Celery's (kombu/utils/limits.py), so that nothing is started at
 * once after a pause; more only for rates that no timer could follow one by one.
 */
export function bucketSize(perSec: number): number {
  return Math.max(1, Math.floor((perSec * BURST_MS) / 1_000));
}
