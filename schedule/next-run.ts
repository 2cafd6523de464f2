import { LAST_INSTANT_MS, parseInstant } from './instant.ts';
import type { ScheduleSpec } from './spec.ts';

/**
 * The next occurrences strictly after `afterMs`, at most `count`, oldest first, in ms since epoch. `origin` is what the
 * spec does not tell: for `every` any point of its grid, for `in` the instant it was resolved to; null where unknown.
 */
export function nextRuns(spec: ScheduleSpec, origin: number | null, afterMs: number, count: number): number[] {
  const startMs = optionalInstant(spec.start) ?? 0;
  const endMs = optionalInstant(spec.end) ?? LAST_INSTANT_MS;
  if (!('every' in spec.schedule)) {
    const atMs = 'at' in spec.schedule ? optionalInstant(spec.schedule.at) : origin;
    return atMs !== null && atMs > afterMs && count > 0 ? [atMs] : [];
  }
  if (origin === null) return [];
  const everyMs = Math.round(spec.schedule.every * 1_000);
  const firstMs = gridPointFrom(Math.max(afterMs + 1, startMs), origin, everyMs);
  const runs = Array.from({ length: count }, (_, index) => firstMs + index * everyMs);
  return runs.filter((atMs) => atMs < endMs);
}

/** The first point of the grid through `originMs` that is not before `fromMs`. */
export function gridPointFrom(fromMs: number, originMs: number, everyMs: number): number {
  const beyond = (((fromMs - originMs) % everyMs) + everyMs) % everyMs;
  return beyond === 0 ? fromMs : fromMs + everyMs - beyond;
}

function optionalInstant(text: string | null): number | null {
  return text === null ? null : parseInstant(text);
}
