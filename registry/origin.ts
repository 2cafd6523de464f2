import { spreadOffsetMs } from '../lua/definition.ts';
import { parseInstant } from '../schedule/instant.ts';
import type { ScheduleSpec } from '../schedule/spec.ts';

/** What `nextRuns` has to know of a schedule beside its spec, if it is registered at `nowMs`. */
export function originAt({ id, schedule, start }: ScheduleSpec, nowMs: number): number {
  if ('in' in schedule) return nowMs + Math.round(schedule.in * 1_000);
  if ('after' in schedule) return Math.max(nowMs, start === null ? 0 : (parseInstant(start) ?? 0));
  if (!('every' in schedule) || schedule.phase === 'now') return nowMs;
  return schedule.phase === 'spread'
    ? spreadOffsetMs(id, Math.round(schedule.every * 1_000))
    : Math.round(schedule.phase * 1_000);
}
