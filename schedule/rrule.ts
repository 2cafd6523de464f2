import type { Calendar } from './calendar.ts';
import { DAY_MS } from './civil.ts';
import { requiredZone } from './cron.ts';
import { LAST_INSTANT_MS } from './instant.ts';
import { type WallTimes, wallTimes } from './rrule-search.ts';
import { type Frequency, parseRrule, RruleError, type RruleText, type RruleTime } from './rrule-text.ts';
import type { Zone } from './zone.ts';

export { RruleError } from './rrule-text.ts';

/**
 * The times of a recurrence rule (RFC 5545) in a zone. It begins at its DTSTART, else at `anchorMs` (ms since epoch,
 * up to the next second), else at midnight of 1970-01-01; DTSTART itself runs only if it matches. Rules of hours,
 * minutes and seconds without BYHOUR count in real time. Otherwise each local time comes once: the first of the two when
 * clocks are put back; the first instant after the gap when they are put forward over it, several of one gap together.
 * Throws RruleError for what is no rule or never comes, CronError for an unknown zone.
 */
export function rruleCalendar(text: string, tz: string, anchorMs: number | null): Calendar {
  const rule = parseRrule(text);
  const zone = requiredZone(tz);
  if (rule.zone !== null && rule.zone !== tz)
    throw new RruleError('tz', `must be "${rule.zone}", as in DTSTART, or be left out`);
  if (rule.count !== null && rule.start === null && anchorMs === null)
    throw new RruleError('rrule', 'must have a DTSTART where it has COUNT, or the schedule a start');
  const startWallMs = startOf(rule.start, zone, anchorMs);
  const next = isRealTime(rule) ? shownTimes(rule, zone, startWallMs) : localTimes(rule, zone, startWallMs);
  const endMs = Math.min(untilOf(rule.until, zone), lastOf(next, rule.count, startWallMs + COUNTED_MS));
  const series: Calendar = {
    next(afterMs) {
      const atMs = afterMs < endMs ? next(afterMs) : null;
      return atMs !== null && atMs <= endMs ? atMs : null;
    },
  };
  if (series.next(BEFORE_ALL_MS) === null) throw new RruleError('rrule', 'never comes');
  return series;
}

/** Local times may lie a day before 1970 in UTC. */
const BEFORE_ALL_MS = -2 * DAY_MS;

function startOf(start: RruleTime | null, zone: Zone, anchorMs: number | null): number {
  if (start !== null && !start.isUtc) return start.wallMs;
  const atMs = start?.wallMs ?? anchorMs;
  if (atMs === null) return 0;
  const secondMs = Math.ceil(atMs / 1_000) * 1_000;
  return secondMs + zone.stretchAt(secondMs).offsetMs;
}

/** The last instant at which the rule may run. */
function untilOf(until: RruleTime | null, zone: Zone): number {
  if (until === null) return LAST_INSTANT_MS;
  if (until.isUtc) return until.wallMs;
  // A day is meant whole.
  return until.isDate ? zone.firstInstantOf(until.wallMs + DAY_MS) - 1 : zone.firstInstantOf(until.wallMs);
}

/** Strictly after an instant; null: none any more. */
type Next = (afterMs: number) => number | null;

/** COUNT is followed for a century. What goes on longer is taken for endless. */
const COUNTED_MS = 36_525 * DAY_MS;

function lastOf(next: Next, count: number | null, limitMs: number): number {
  if (count === null) return LAST_INSTANT_MS;
  let lastMs = BEFORE_ALL_MS;
  for (let counted = 0; counted < count; counted++) {
    const atMs = next(lastMs);
    if (atMs === null) break;
    if (atMs > limitMs) return LAST_INSTANT_MS;
    lastMs = atMs;
  }
  return lastMs;
}

/** The unit that INTERVAL counts in real time. */
const UNITS_MS: Readonly<Partial<Record<Frequency, number>>> = { HOURLY: 3_600_000, MINUTELY: 60_000, SECONDLY: 1_000 };

function isRealTime(rule: RruleText): boolean {
  return rule.hours.length === 24 || (rule.hours.length === 0 && UNITS_MS[rule.frequency] !== undefined);
}

/** Whenever the clocks show a matching time. */
function shownTimes(rule: RruleText, zone: Zone, startWallMs: number): Next {
  const startMs = zone.firstInstantOf(startWallMs);
  const startOffsetMs = zone.stretchAt(startMs).offsetMs;
  const unitMs = UNITS_MS[rule.frequency];
  const byOffset = new Map<number, WallTimes>();

  /** The rule as the clocks have it while they are so far from UTC. INTERVAL goes on counting in real time. */
  function timesAt(offsetMs: number): WallTimes {
    const kept = byOffset.get(offsetMs);
    if (kept !== undefined) return kept;
    const shiftMs = unitMs === undefined ? 0 : Math.round((offsetMs - startOffsetMs) / unitMs) * unitMs;
    const times = wallTimes(rule, startWallMs + shiftMs);
    byOffset.set(offsetMs, times);
    return times;
  }

  return (afterMs) => {
    const beginMs = Math.max(afterMs, startMs - 1);
    for (let beforeMs = beginMs; beforeMs < LAST_INSTANT_MS; ) {
      const { toMs, offsetMs } = zone.stretchAt(beforeMs + 1);
      const wallMs = timesAt(offsetMs).next(beforeMs + offsetMs);
      if (wallMs !== null && wallMs < toMs + offsetMs) return wallMs - offsetMs;
      // With another offset INTERVAL counts to other times of day, which may match where these do not.
      if (wallMs === null && (rule.interval === 1 || toMs > beginMs + ALL_OFFSETS_MS)) return null;
      const isSoon = wallMs === null || rule.interval > 1;
      beforeMs = (isSoon ? toMs : Math.max(toMs, wallMs - CLOCK_CHANGE_MS)) - 1;
    }
    return null;
  };
}

/** More than clocks are ever apart from UTC, or put back or forward by. */
const CLOCK_CHANGE_MS = 3 * DAY_MS;

/** In this time a zone has had all the offsets of its year. */
const ALL_OFFSETS_MS = 2 * 366 * DAY_MS;

/** Each local time at the first instant that shows it or a later one. */
function localTimes(rule: RruleText, zone: Zone, startWallMs: number): Next {
  const times = wallTimes(rule, startWallMs);
  return (afterMs) => {
    const beginMs = afterMs + 1;
    const { fromMs, toMs, offsetMs, shownMs } = zone.stretchAt(beginMs);
    // What lies in the gap before a stretch comes with its first instant.
    const wallMs = times.next((beginMs > fromMs ? Math.max(shownMs, beginMs + offsetMs) : shownMs) - 1);
    if (wallMs === null) return null;
    return wallMs < toMs + offsetMs ? Math.max(wallMs - offsetMs, fromMs) : zone.firstInstantOf(wallMs);
  };
}
