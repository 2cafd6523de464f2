import type { Calendar } from './calendar.ts';
import { DAY_MS, dayNumber } from './civil.ts';
import { parseCeleryCron } from './cron-celery.ts';
import { CronError, type CronFields, normalCron, splitCron } from './cron-fields.ts';
import { isHashed, parseUnixCron } from './cron-unix.ts';
import { LAST_INSTANT_MS } from './instant.ts';
import { LocalTimes } from './local-times.ts';
import { type Zone, zoneOf } from './zone.ts';

export { CronError } from './cron-fields.ts';

/** A cron as a calendar's text has it: all that its times depend on. */
export interface CronSource {
  readonly cron: string;
  readonly tz: string;
  readonly dialect: 'unix' | 'celery';
  /** The id of the schedule, where `H` occurs. */
  readonly seed?: string;
}

/** What the times of a cron depend on, usable or not. */
export function cronSource({ cron, tz, dialect }: CronSource, id: string): CronSource {
  const source = { cron: normalCron(cron), tz, dialect };
  return dialect === 'unix' && isHashed(source.cron) ? { ...source, seed: id } : source;
}

/**
 * The times of a cron. Where every hour is allowed, each matching minute (second) of real time. Otherwise each matching
 * local time once: the first of the two when clocks are put back; the first instant after the gap when they are put
 * forward over it, several of one gap together. Throws CronError for what is no cron, never comes, or has no such zone.
 */
export function cronCalendar({ cron, tz, dialect, seed = '' }: CronSource): Calendar {
  const texts = splitCron(cron);
  const fields = dialect === 'celery' ? parseCeleryCron(texts) : parseUnixCron(texts, seed);
  const times = new LocalTimes(fields);
  const zone = requiredZone(tz);
  if (times.next(SOME_LEAP_YEAR_MS) === Number.POSITIVE_INFINITY) throw new CronError('cron', neverComes(cron, fields));
  const next = times.isEveryHour ? nextShown : nextOnce;
  return {
    next(afterMs) {
      const fromMs = Math.max(Math.floor(afterMs / 1_000) + 1, 0) * 1_000;
      const atMs = next(times, zone, fromMs);
      return atMs <= LAST_INSTANT_MS ? atMs : null;
    },
  };
}

/** The zone of this name. Throws CronError for the field `tz`. */
export function requiredZone(tz: string): Zone {
  const zone = zoneOf(tz);
  if (zone === null) {
    const shown = JSON.stringify(tz).slice(0, 60);
    throw new CronError('tz', `must be the IANA name of a time zone, such as Europe/Berlin, got ${shown}`);
  }
  return zone;
}

/** The first instant from `fromMs` (a whole second) on at which the clocks show a matching time; Infinity: none. */
export function nextShown(times: LocalTimes, zone: Zone, fromMs: number): number {
  for (let startMs = fromMs; startMs <= LAST_INSTANT_MS; ) {
    const { toMs, offsetMs } = zone.stretchAt(startMs);
    const localMs = times.next(startMs + offsetMs);
    if (localMs < toMs + offsetMs) return localMs - offsetMs;
    // Until shortly before that local time no other one matches, unless clocks are put back soon and show again what lies
    // behind them.
    startMs = toMs > startMs + CLOCK_CHANGE_MS ? Math.max(toMs, localMs - CLOCK_CHANGE_MS) : toMs;
  }
  return Number.POSITIVE_INFINITY;
}

/** The first instant from `fromMs` (a whole second) on that is the first to show a matching local time or a later one. */
function nextOnce(times: LocalTimes, zone: Zone, fromMs: number): number {
  const { fromMs: startMs, toMs, offsetMs, shownMs } = zone.stretchAt(fromMs);
  const localMs = times.next(fromMs > startMs ? Math.max(shownMs, fromMs + offsetMs) : shownMs);
  if (localMs < toMs + offsetMs) return Math.max(localMs - offsetMs, startMs);
  return localMs < LAST_LOCAL_MS ? zone.firstInstantOf(localMs) : Number.POSITIVE_INFINITY;
}

const SOME_LEAP_YEAR_MS = dayNumber(2000, 1, 1) * DAY_MS;

/** More than clocks are ever put back or forward by, or apart from UTC. */
const CLOCK_CHANGE_MS = 3 * DAY_MS;

const LAST_LOCAL_MS = LAST_INSTANT_MS + DAY_MS;

function neverComes(cron: string, { days }: CronFields): string {
  const [dayOfMonth, month, dayOfWeek] = normalCron(cron).split(' ').slice(-3);
  const weekday = days === 'both' && dayOfWeek !== '*' ? ` and is of day of week "${dayOfWeek}"` : '';
  return `never comes: no day has day of month "${dayOfMonth}" in month "${month}"${weekday}`;
}
