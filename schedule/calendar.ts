import { type CronSource, cronCalendar, cronSource } from './cron.ts';
import { rruleCalendar } from './rrule.ts';
import { type SolarEvent, solarCalendar } from './solar.ts';
import type { CalendarTiming } from './timing.ts';

/** A series of instants, ms since epoch. */
export interface Calendar {
  /** The first one strictly after `afterMs`; null when none comes any more, up to the year 9999. */
  next(afterMs: number): number | null;
}

/**
 * What a calendar is, as JSON: schedules with the same text share one. It names the `id` only where a cron is spread by
 * it (`H`), and `startMs` only where an rrule has no DTSTART of its own.
 */
export function calendarText(schedule: CalendarTiming, id: string, startMs: number | null): string {
  return JSON.stringify(sourceOf(schedule, id, startMs));
}

/**
 * The calendar of a text; compiled once, while not too many others are asked for. Throws CronError or RruleError for what
 * cannot be used or never comes.
 */
export function calendarOf(text: string): Calendar {
  const kept = calendars.get(text);
  if (kept !== undefined) return kept;
  const calendar = compile(JSON.parse(text) as CalendarSource);
  if (calendars.size >= CALENDARS_KEPT) forgetOldest();
  calendars.set(text, calendar);
  return calendar;
}

/** The last time of a calendar from `reachMs` before an instant up to that instant; null: there is none. */
export function lastUntil(calendar: Calendar, untilMs: number, reachMs: number): number | null {
  // In growing strides: a calendar may have one time in a year, or one a second.
  for (let strideMs = 1_000; ; strideMs *= 2) {
    let lastMs: number | null = null;
    let nextMs = calendar.next(untilMs - Math.min(strideMs, reachMs) - 1);
    while (nextMs !== null && nextMs <= untilMs) {
      lastMs = nextMs;
      nextMs = calendar.next(nextMs);
    }
    if (lastMs !== null || strideMs >= reachMs) return lastMs;
  }
}

type CalendarSource =
  | CronSource
  | { readonly solar: SolarEvent; readonly lat: number; readonly lon: number }
  | { readonly rrule: string; readonly tz: string; readonly anchorMs: number | null };

function sourceOf(schedule: CalendarTiming, id: string, startMs: number | null): CalendarSource {
  if ('cron' in schedule) return cronSource(schedule, id);
  if ('solar' in schedule) return { solar: schedule.solar, lat: schedule.lat, lon: schedule.lon };
  const { rrule, tz } = schedule;
  return { rrule, tz, anchorMs: /DTSTART/i.test(rrule) ? null : startMs };
}

function compile(source: CalendarSource): Calendar {
  if ('cron' in source) return cronCalendar(source);
  if ('solar' in source) return solarCalendar(source.solar, source.lat, source.lon);
  return rruleCalendar(source.rrule, source.tz, source.anchorMs);
}

const calendars = new Map<string, Calendar>();

/** About 2 KB each. */
const CALENDARS_KEPT = 4_096;

function forgetOldest(): void {
  const [oldest] = calendars.keys();
  if (oldest !== undefined) calendars.delete(oldest);
}
