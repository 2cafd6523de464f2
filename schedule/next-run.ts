import { type Calendar, calendarOf, calendarText, lastUntil } from './calendar.ts';
import { type Exclusion, exclusionOf, exclusionText } from './exclusion.ts';
import { LAST_INSTANT_MS, parseInstant } from './instant.ts';
import { jittered } from './jitter.ts';
import type { ScheduleSpec } from './spec.ts';

/**
 * The next occurrences strictly after `afterMs`, at most `count`, oldest first, in ms since epoch, after start, end,
 * exclude and jitter; how many runs are left of `max_runs`, nobody here knows. `origin` is what the spec does not tell:
 * for `every` any point of its grid; for `in` the instant it was resolved to; for `after` when it is due, while it waits;
 * null where unknown. What is almost all excluded may give fewer. Throws CronError or RruleError for what no checked spec
 * contains.
 */
export function nextRuns(spec: ScheduleSpec, origin: number | null, afterMs: number, count: number): number[] {
  const series = seriesOf(spec, origin);
  const endMs = optionalInstant(spec.end) ?? LAST_INSTANT_MS + 1;
  const exclusion = exclusionOfSpec(spec);
  const runs: number[] = [];
  let searches = MAX_SEARCHES;
  let atMs = Math.max(afterMs, (optionalInstant(spec.start) ?? 0) - 1);
  while (runs.length < count && searches > 0) {
    const dueMs = series.dueAfter(atMs);
    if (dueMs === null || dueMs >= endMs) break;
    const excludedUntilMs = exclusion?.excludedUntil(dueMs) ?? null;
    if (excludedUntilMs === null) runs.push(dueMs);
    else searches -= exclusion?.cost ?? 1;
    atMs = excludedUntilMs === null ? dueMs : excludedUntilMs - 1;
  }
  return runs;
}

/** What is excluded is passed over so many times at most, which takes about 0.1 s. */
const MAX_SEARCHES = 200_000;

/** The first point of the grid through `originMs` that is not before `fromMs`. */
export function gridPointFrom(fromMs: number, originMs: number, everyMs: number): number {
  const beyond = (((fromMs - originMs) % everyMs) + everyMs) % everyMs;
  return beyond === 0 ? fromMs : fromMs + everyMs - beyond;
}

/** The zone that the days of a spec are days of: that of its schedule, UTC where it has none. */
export function zoneNameOf({ schedule }: Pick<ScheduleSpec, 'schedule'>): string {
  return 'tz' in schedule ? schedule.tz : 'UTC';
}

/** The due times of a schedule, jitter included. */
interface DueSeries {
  dueAfter(atMs: number): number | null;
}

function seriesOf(spec: ScheduleSpec, origin: number | null): DueSeries {
  const { schedule } = spec;
  if ('at' in schedule) return single(optionalInstant(schedule.at));
  if ('in' in schedule || 'after' in schedule) return single(origin);
  const jitterMs = Math.round(spec.jitter * 1_000);
  if ('every' in schedule) {
    return origin === null ? single(null) : spread(spec.id, grid(origin, Math.round(schedule.every * 1_000)), jitterMs);
  }
  const calendar = calendarOf(calendarText(schedule, spec.id, optionalInstant(spec.start)));
  return spread(spec.id, calendar, jitterMs);
}

function single(atMs: number | null): DueSeries {
  return { dueAfter: (afterMs) => (atMs !== null && atMs > afterMs ? atMs : null) };
}

function grid(originMs: number, everyMs: number): Calendar {
  return { next: (afterMs) => gridPointFrom(afterMs + 1, originMs, everyMs) };
}

/** Nominal times, each moved on by its jitter, which ends before the next one: so the order stays. */
function spread(id: string, nominal: Calendar, jitterMs: number): DueSeries {
  if (jitterMs === 0) return { dueAfter: (afterMs) => nominal.next(afterMs) };
  const occurrence = (nominalMs: number): Occurrence => {
    const followingMs = nominal.next(nominalMs);
    const gapMs = followingMs === null ? jitterMs : followingMs - nominalMs;
    return { dueMs: jittered(id, nominalMs, Math.min(jitterMs, gapMs)), followingMs };
  };
  const find = (afterMs: number): Occurrence | null => {
    const lastMs = lastUntil(nominal, afterMs, jitterMs);
    const last = lastMs === null ? null : occurrence(lastMs);
    if (last !== null && last.dueMs > afterMs) return last;
    const followingMs = last === null ? nominal.next(afterMs) : last.followingMs;
    return followingMs === null ? null : occurrence(followingMs);
  };
  const step = ({ followingMs }: Occurrence) => (followingMs === null ? null : occurrence(followingMs));
  let told: Occurrence | null = null;
  return {
    dueAfter(afterMs) {
      told = told !== null && told.dueMs === afterMs ? step(told) : find(afterMs);
      return told === null ? null : told.dueMs;
    },
  };
}

interface Occurrence {
  readonly dueMs: number;
  /** The next nominal time. */
  readonly followingMs: number | null;
}

function exclusionOfSpec(spec: ScheduleSpec): Exclusion | null {
  return spec.exclude.length === 0 ? null : exclusionOf(exclusionText(spec.exclude, zoneNameOf(spec)));
}

function optionalInstant(text: string | null): number | null {
  return text === null ? null : parseInstant(text);
}
