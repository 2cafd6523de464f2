import fc from 'fast-check';
import { IANAZone } from 'luxon';

/**
 * Crons as they are made up for the tests, with a slow and plain answer to when they run: no code of the search is used
 * here, nor the texts' parsers.
 */

/** A local time that a field may be asked about: as its zone's clocks show it. */
export interface Shown {
  readonly second: number;
  readonly minute: number;
  readonly hour: number;
  readonly day: number;
  readonly month: number;
  readonly year: number;
  /** 0 Sunday. */
  readonly weekday: number;
}

export interface ReferenceCron {
  readonly text: string;
  readonly dialect: 'unix' | 'celery';
  readonly isEveryHour: boolean;
  /** By the date alone. */
  matchesDay(shown: Shown): boolean;
  matches(shown: Shown): boolean;
}

/** A local time, ms since 1970-01-01T00:00 local time, in its parts. */
export function shownAt(localMs: number): Shown {
  const date = new Date(localMs);
  return {
    second: date.getUTCSeconds(),
    minute: date.getUTCMinutes(),
    hour: date.getUTCHours(),
    day: date.getUTCDate(),
    month: date.getUTCMonth() + 1,
    year: date.getUTCFullYear(),
    weekday: date.getUTCDay(),
  };
}

/** One item of a field's list, or a whole field. */
interface Part {
  readonly text: string;
  allows(value: number, shown: Shown): boolean;
}

const WEEKDAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];

interface Field {
  readonly first: number;
  readonly last: number;
  readonly names?: readonly string[];
}

const SECOND: Field = { first: 0, last: 59 };
const MINUTE: Field = { first: 0, last: 59 };
const HOUR: Field = { first: 0, last: 23 };
const DAY: Field = { first: 1, last: 31 };
const MONTH: Field = { first: 1, last: 12, names: MONTHS };
const WEEKDAY: Field = { first: 0, last: 6, names: WEEKDAYS };

const EVERY: Part = { text: '*', allows: () => true };

function written(field: Field, value: number, isNamed: boolean): string {
  const name = field.names?.[value - field.first];
  return isNamed && name !== undefined ? name : String(value);
}

function value(field: Field): fc.Arbitrary<Part> {
  return fc.tuple(fc.integer({ min: field.first, max: field.last }), fc.boolean()).map(([one, isNamed]) => ({
    text: written(field, one, isNamed),
    allows: (value) => value === one,
  }));
}

function stepped(field: Field): fc.Arbitrary<Part> {
  return fc.integer({ min: 1, max: field.last }).map((step) => ({
    text: `*/${step}`,
    allows: (value) => (value - field.first) % step === 0,
  }));
}

function range(field: Field, wraps: boolean): fc.Arbitrary<Part> {
  const bound = fc.integer({ min: field.first, max: field.last });
  const step = fc.option(fc.integer({ min: 1, max: field.last }), { nil: 1 });
  return fc.tuple(bound, bound, step, fc.boolean()).map(([one, other, step, isNamed]) => {
    const from = wraps ? one : Math.min(one, other);
    const to = wraps ? other : Math.max(one, other);
    const size = field.last - field.first + 1;
    return {
      text: `${written(field, from, isNamed)}-${written(field, to, isNamed)}${step === 1 ? '' : `/${step}`}`,
      allows: (value) => {
        const steps = (value - from + size) % size;
        return steps <= (to - from + size) % size && steps % step === 0;
      },
    };
  });
}

/** `5/15`: from 5 on. Weekdays go up to 7, which is Sunday too. */
function openStep(field: Field): fc.Arbitrary<Part> {
  return fc
    .tuple(fc.integer({ min: field.first, max: field.last }), fc.integer({ min: 1, max: field.last }))
    .map(([from, step]) => ({
      text: `${from}/${step}`,
      allows: (value) =>
        (value >= from && (value - from) % step === 0) || (field === WEEKDAY && value === 0 && (7 - from) % step === 0),
    }));
}

function list(items: fc.Arbitrary<Part>): fc.Arbitrary<Part> {
  return fc.array(items, { minLength: 1, maxLength: 3 }).map((parts) => ({
    text: parts.map(({ text }) => text).join(','),
    allows: (value, shown) => parts.some((part) => part.allows(value, shown)),
  }));
}

function unixField(field: Field): fc.Arbitrary<Part> {
  return list(fc.oneof(value(field), stepped(field), range(field, false), openStep(field)));
}

function celeryField(field: Field): fc.Arbitrary<Part> {
  return list(fc.oneof(value(field), stepped(field), range(field, true)));
}

function lengthOf({ year, month }: Shown): number {
  return new Date(Date.UTC(year, month, 0)).getUTCDate();
}

function weekdayIn({ year, month }: Shown, day: number): number {
  return new Date(Date.UTC(year, month - 1, day)).getUTCDay();
}

function isWorkingDay(shown: Shown, day: number): boolean {
  return day >= 1 && day <= lengthOf(shown) && ![0, 6].includes(weekdayIn(shown, day));
}

const specialDays: fc.Arbitrary<Part> = fc.oneof(
  fc.constant<Part>({ text: 'L', allows: (day, shown) => day === lengthOf(shown) }),
  fc.integer({ min: 1, max: 30 }).map((before) => ({
    text: `L-${before}`,
    allows: (day: number, shown: Shown) => day === lengthOf(shown) - before,
  })),
  fc.constant<Part>({
    text: 'LW',
    allows: (day, shown) => {
      const length = lengthOf(shown);
      return day === [length, length - 1, length - 2].find((day) => isWorkingDay(shown, day));
    },
  }),
  fc.integer({ min: 1, max: 31 }).map((near) => ({
    text: `${near}W`,
    allows: (day: number, shown: Shown) =>
      near <= lengthOf(shown) &&
      day === [near, near - 1, near + 1, near - 2, near + 2].find((day) => isWorkingDay(shown, day)),
  })),
);

const specialWeekdays: fc.Arbitrary<Part> = fc
  .tuple(fc.integer({ min: 0, max: 7 }), fc.integer({ min: 0, max: 5 }))
  .map(([weekday, nth]) => ({
    text: nth === 0 ? `${weekday}L` : `${weekday}#${nth}`,
    allows: (value, shown) =>
      value === weekday % 7 &&
      (nth === 0 ? shown.day + 7 > lengthOf(shown) : Math.floor((shown.day - 1) / 7) === nth - 1),
  }));

function orEvery(weight: number, field: fc.Arbitrary<Part>): fc.Arbitrary<Part> {
  return fc.oneof({ arbitrary: fc.constant(EVERY), weight }, { arbitrary: field, weight: 4 });
}

/** Crons that run often enough for windows of some days; with seconds where `withSeconds`. */
export function crons(withSeconds: boolean): fc.Arbitrary<ReferenceCron> {
  const unix = cronOf('unix', withSeconds, unixField, {
    day: orEvery(8, fc.oneof(unixField(DAY), list(fc.oneof(specialDays, value(DAY))))),
    weekday: orEvery(8, fc.oneof(unixField(WEEKDAY), list(fc.oneof(specialWeekdays, value(WEEKDAY))))),
  });
  const celery = cronOf('celery', withSeconds, celeryField, {
    day: orEvery(8, celeryField(DAY)),
    weekday: orEvery(8, celeryField(WEEKDAY)),
  });
  return fc.oneof({ arbitrary: unix, weight: 2 }, { arbitrary: celery, weight: 1 });
}

function cronOf(
  dialect: 'unix' | 'celery',
  withSeconds: boolean,
  field: (field: Field) => fc.Arbitrary<Part>,
  days: { readonly day: fc.Arbitrary<Part>; readonly weekday: fc.Arbitrary<Part> },
): fc.Arbitrary<ReferenceCron> {
  return fc
    .record({
      second: withSeconds ? orEvery(2, field(SECOND)) : fc.constant(null),
      minute: orEvery(1, field(MINUTE)),
      hour: orEvery(3, field(HOUR)),
      month: orEvery(12, field(MONTH)),
      ...days,
    })
    .map(({ second, minute, hour, day, month, weekday }) => {
      const texts = [minute, hour, day, month, weekday].map(({ text }) => text);
      const isEither = dialect === 'unix' && day.text !== '*' && weekday.text !== '*';
      const hours = Array.from({ length: 24 }, (_, index) => index);
      const anyTime = shownAt(0);
      const matchesDay = (shown: Shown) => {
        if (!month.allows(shown.month, shown)) return false;
        const byDay = day.allows(shown.day, shown);
        const byWeekday = weekday.allows(shown.weekday, shown);
        return isEither ? byDay || byWeekday : byDay && byWeekday;
      };
      return {
        text: [...(second === null ? [] : [second.text]), ...texts].join(' '),
        dialect,
        isEveryHour: hours.every((value) => hour.allows(value, anyTime)),
        matchesDay,
        matches(shown) {
          if (second === null ? shown.second !== 0 : !second.allows(shown.second, shown)) return false;
          return minute.allows(shown.minute, shown) && hour.allows(shown.hour, shown) && matchesDay(shown);
        },
      };
    });
}

/** Some days of a zone, each step of real time with what its clocks show, as luxon says. */
export interface ClockWindow {
  readonly zone: string;
  readonly fromMs: number;
  readonly toMs: number;
  readonly stepMs: number;
  /** By step: the local time, ms. */
  readonly localMs: readonly number[];
  /** By step: the latest local time that was shown before, ms. */
  readonly shownMs: readonly number[];
  readonly shown: readonly Shown[];
}

/** `around` in UTC; the window begins `beforeMs` earlier, with clocks that were not changed the day before. */
export function clockWindow(
  zone: string,
  around: string,
  { beforeMs, afterMs, stepMs }: { beforeMs: number; afterMs: number; stepMs: number },
): ClockWindow {
  const iana = IANAZone.create(zone);
  const fromMs = Date.parse(around) - beforeMs;
  const toMs = Date.parse(around) + afterMs;
  const localMs: number[] = [];
  const shownMs: number[] = [];
  let latestMs = Number.NEGATIVE_INFINITY;
  for (let atMs = fromMs; atMs < toMs; atMs += stepMs) {
    const local = atMs + iana.offset(atMs) * 60_000;
    localMs.push(local);
    shownMs.push(latestMs === Number.NEGATIVE_INFINITY ? local - stepMs : latestMs);
    latestMs = Math.max(latestMs, local);
  }
  return { zone, fromMs, toMs, stepMs, localMs, shownMs, shown: localMs.map(shownAt) };
}

/**
 * The first run after an instant of the window, step by step; null when none is in the window. Where hours are fixed, a
 * local time runs when the clocks first show it or a later one.
 */
export function nextInWindow(cron: ReferenceCron, window: ClockWindow, afterMs: number): number | null {
  const first = Math.floor((afterMs - window.fromMs) / window.stepMs) + 1;
  for (let index = Math.max(first, 0); index < window.localMs.length; index++) {
    if (cron.isEveryHour) {
      if (cron.matches(window.shown[index]!)) return window.fromMs + index * window.stepMs;
      continue;
    }
    for (
      let localMs = window.shownMs[index]! + window.stepMs;
      localMs <= window.localMs[index]!;
      localMs += window.stepMs
    ) {
      const shown = localMs === window.localMs[index] ? window.shown[index]! : shownAt(localMs);
      if (cron.matches(shown)) return window.fromMs + index * window.stepMs;
    }
  }
  return null;
}
