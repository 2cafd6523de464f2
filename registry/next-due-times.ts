import { dueTimesBefore } from './due-times.ts';
import type { StoredSchedule } from './registry.ts';

/** Of a schedule with more runs left than these it is not counted which of them are over by a later `after`. */
const MOST_COUNTED = 10_000;

/** The next due times of a stored schedule, strictly after `afterMs`, or now where that is null. */
export async function nextDueTimes(
  { spec, state, runs, originMs, nextRunAtMs }: StoredSchedule,
  afterMs: number | null,
  count: number,
  nowMs: number,
): Promise<number[]> {
  if (state === 'paused' || state === 'running') return [];
  // What is before its next run was sent already, or dropped, also where Redis's clock went back.
  const fromMs = Math.max(nowMs, (nextRunAtMs ?? 0) - 1);
  const after = afterMs ?? fromMs;
  const left = spec.max_runs === null ? Number.POSITIVE_INFINITY : Math.max(spec.max_runs - (runs ?? 0), 0);
  if (left <= MOST_COUNTED && after > fromMs) {
    const ahead = await dueTimesBefore(spec, originMs, fromMs, Number.POSITIVE_INFINITY, left);
    return ahead.filter((dueMs) => dueMs > after).slice(0, count);
  }
  return dueTimesBefore(spec, originMs, after, Number.POSITIVE_INFINITY, Math.min(count, left));
}
