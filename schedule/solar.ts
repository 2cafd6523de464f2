import { createRequire } from 'node:module';
import type * as Astronomy from 'astronomy-engine';
import type { Calendar } from './calendar.ts';
import { LAST_INSTANT_MS } from './instant.ts';

// Its ES module is not marked as one, which not every loader finds out by itself.
const { Body, Equator, Horizon, HourAngle, MakeTime, Observer, SearchAltitude, SearchHourAngle, SearchRiseSet } =
  createRequire(import.meta.url)('astronomy-engine') as typeof Astronomy;

/** Celery's solar events (celery/schedules.py, solar). */
export const SOLAR_EVENTS = [
  'dawn_astronomical',
  'dawn_nautical',
  'dawn_civil',
  'sunrise',
  'solar_noon',
  'sunset',
  'dusk_civil',
  'dusk_nautical',
  'dusk_astronomical',
] as const;

export type SolarEvent = (typeof SOLAR_EVENTS)[number];

/**
 * When the sun reaches a point of its day at a place, as Celery defines it: twilights by the altitude of its centre
 * (-18, -12, -6 degrees), sunrise and sunset by its upper edge at -34', at sea level and without air pressure. Days
 * without the event (polar day and night) are passed over. Times are good to about a second; each instant is found to
 * the ms and is the same whatever the search began with.
 *
 * @param lat degrees, -90 to 90
 * @param lon degrees, -180 to 180
 */
export function solarCalendar(event: SolarEvent, lat: number, lon: number): Calendar {
  const events = eventSearch(event, new Observer(lat, lon, 0));
  // Whoever asks for many asks for them in order.
  let known: { readonly day: number; readonly atMs: readonly number[] } = { day: Number.NaN, atMs: [] };
  return {
    next(afterMs) {
      const firstDay = Math.floor((afterMs + 1) / DAY_MS);
      for (let day = firstDay; day <= firstDay + LONGEST_GAP_DAYS && day * DAY_MS <= LAST_INSTANT_MS; day++) {
        if (known.day !== day) known = { day, atMs: eventsOfDay(events, day) };
        const atMs = known.atMs.find((atMs) => atMs > afterMs);
        if (atMs !== undefined) return atMs;
      }
      return null;
    },
  };
}

const DAY_MS = 86_400_000;

/** At the poles each event comes once a year. */
const LONGEST_GAP_DAYS = 400;

/** A search must begin before what it is to find. */
const MARGIN_MS = 60_000;

interface EventSearch {
  /** About when the event comes next, ms since epoch; null when it does not within a day. */
  next(fromMs: number): number | null;
  /** Whether the event is over, looked at from close by. */
  isPast(atMs: number): boolean;
}

/** Altitudes of twilight, degrees, and of the sun's edge at sunrise and sunset (celery/schedules.py, _horizons). */
const ALTITUDES = { astronomical: -18, nautical: -12, civil: -6 } as const;
const EDGE_ALTITUDE = -34 / 60;

/** In astronomical units. */
const SUN_RADIUS = 695_700 / 149_597_870.7;

const RISING = 1;
const SETTING = -1;

function eventSearch(event: SolarEvent, observer: Astronomy.Observer): EventSearch {
  switch (event) {
    case 'solar_noon':
      return noonSearch(observer);
    case 'sunrise':
      return edgeSearch(observer, RISING);
    case 'sunset':
      return edgeSearch(observer, SETTING);
    case 'dawn_astronomical':
      return twilightSearch(observer, RISING, ALTITUDES.astronomical);
    case 'dawn_nautical':
      return twilightSearch(observer, RISING, ALTITUDES.nautical);
    case 'dawn_civil':
      return twilightSearch(observer, RISING, ALTITUDES.civil);
    case 'dusk_astronomical':
      return twilightSearch(observer, SETTING, ALTITUDES.astronomical);
    case 'dusk_nautical':
      return twilightSearch(observer, SETTING, ALTITUDES.nautical);
    case 'dusk_civil':
      return twilightSearch(observer, SETTING, ALTITUDES.civil);
  }
}

/** The sun stands in the meridian; the hour angle counts from there, 24 to a turn. */
function noonSearch(observer: Astronomy.Observer): EventSearch {
  return {
    next: (fromMs) => SearchHourAngle(Body.Sun, observer, 0, new Date(fromMs), 1).time.date.getTime(),
    isPast: (atMs) => HourAngle(Body.Sun, new Date(atMs), observer) < 12,
  };
}

function edgeSearch(observer: Astronomy.Observer, direction: number): EventSearch {
  return {
    next: (fromMs) => SearchRiseSet(Body.Sun, observer, direction, new Date(fromMs), 1)?.date.getTime() ?? null,
    isPast(atMs) {
      const { altitude, distance } = sunAt(observer, atMs);
      const radius = (Math.asin(SUN_RADIUS / distance) * 180) / Math.PI;
      return direction * (altitude + radius - EDGE_ALTITUDE) >= 0;
    },
  };
}

function twilightSearch(observer: Astronomy.Observer, direction: number, altitude: number): EventSearch {
  return {
    next: (fromMs) =>
      SearchAltitude(Body.Sun, observer, direction, new Date(fromMs), 1, altitude)?.date.getTime() ?? null,
    isPast: (atMs) => direction * (sunAt(observer, atMs).altitude - altitude) >= 0,
  };
}

/** Altitude of the sun's centre, degrees, without refraction; its distance in astronomical units. */
function sunAt(observer: Astronomy.Observer, atMs: number): { readonly altitude: number; readonly distance: number } {
  const time = MakeTime(new Date(atMs));
  const { ra, dec, dist } = Equator(Body.Sun, time, observer, true, true);
  return { altitude: Horizon(time, observer, ra, dec).altitude, distance: dist };
}

/**
 * The events of a day of UTC, ascending. Since the search always begins at the same instant, it is always the same
 * ones, also where the sun only grazes the horizon.
 */
function eventsOfDay(search: EventSearch, day: number): number[] {
  const fromMs = day * DAY_MS;
  const untilMs = fromMs + DAY_MS;
  const found: number[] = [];
  for (let searchMs = fromMs - MARGIN_MS; searchMs < untilMs; ) {
    const aboutMs = search.next(searchMs);
    if (aboutMs === null) break;
    const atMs = toTheMs(search, aboutMs);
    if (atMs >= untilMs) break;
    if (atMs >= fromMs) found.push(atMs);
    searchMs = Math.max(atMs, aboutMs) + 1_000;
  }
  return found;
}

/** The library is exact to 0.1 s. */
const UNCERTAINTY_MS = 1_000;

/** The first ms at which the event is over. */
function toTheMs(search: EventSearch, aboutMs: number): number {
  let beforeMs = Math.round(aboutMs) - UNCERTAINTY_MS;
  let pastMs = Math.round(aboutMs) + UNCERTAINTY_MS;
  // Where the sun comes over the horizon for less than that, the library's answer has to do.
  if (search.isPast(beforeMs) || !search.isPast(pastMs)) return Math.round(aboutMs);
  while (pastMs - beforeMs > 1) {
    const middleMs = Math.floor((beforeMs + pastMs) / 2);
    if (search.isPast(middleMs)) pastMs = middleMs;
    else beforeMs = middleMs;
  }
  return pastMs;
}
