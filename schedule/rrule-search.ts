import { DAY_MS, dateOf, dayNumber, monthLength, weekdayOf } from './civil.ts';
import { LAST_INSTANT_MS } from './instant.ts';
import type { Frequency, RruleText, RruleWeekday } from './rrule-text.ts';

/**
 * The times of a recurrence rule on a clock that never changes, ms since epoch as if it were UTC. The search goes on
 * from the instant that it is asked about, however long ago the rule began.
 *
 * Rules of days (YEARLY to DAILY) take the days that match from each INTERVAL-th period and combine them with the times
 * of day; rules of hours, minutes and seconds take each INTERVAL-th of these that matches. As python-dateutil has it
 * (rrule.py), days must match every part that is there.
 */
export interface WallTimes {
  /** The first time strictly after `afterMs`; null: none any more, or none within reach. */
  next(afterMs: number): number | null;
}

/** `startMs` is DTSTART: whole seconds. UNTIL and COUNT are not looked at. */
export function wallTimes(text: RruleText, startMs: number): WallTimes {
  const rule = withDefaults(text, startMs);
  switch (rule.frequency) {
    case 'HOURLY':
      return unitTimes(rule, startMs, HOUR_MS);
    case 'MINUTELY':
      return unitTimes(rule, startMs, MINUTE_MS);
    case 'SECONDLY':
      return unitTimes(rule, startMs, SECOND_MS);
    default:
      return rule.positions.length === 0 ? dayTimes(rule, startMs) : positionedTimes(rule, startMs);
  }
}

const HOUR_MS = 3_600_000;
const MINUTE_MS = 60_000;
const SECOND_MS = 1_000;

const LAST_DAY = Math.floor(LAST_INSTANT_MS / DAY_MS);

/**
 * So many days, or periods shorter than a day, are looked at. Weekdays and leap years come together again after 28 years,
 * 40 around the turn of most centuries, of which INTERVAL leaves only so many to look at.
 */
const MAX_STEPS = 40_000;

/** What the rule leaves to its start: the day of the month for MONTHLY, and so on. */
function withDefaults(rule: RruleText, startMs: number): RruleText {
  const { frequency, weekNumbers, yearDays, monthDays, weekdays } = rule;
  if (weekNumbers.length + yearDays.length + monthDays.length + weekdays.length > 0) return rule;
  const day = Math.floor(startMs / DAY_MS);
  const month = monthOf(dateOf(day));
  const monthDay = dateOf(day) % 100;
  if (frequency === 'YEARLY')
    return { ...rule, months: rule.months.length > 0 ? rule.months : [month], monthDays: [monthDay] };
  if (frequency === 'MONTHLY') return { ...rule, monthDays: [monthDay] };
  if (frequency === 'WEEKLY') return { ...rule, weekdays: [{ weekday: mondayBased(day), nth: null }] };
  return rule;
}

/** Days, and on each of them the same times. */
function dayTimes(rule: RruleText, startMs: number): WallTimes {
  const days = dayFilter(rule);
  const periods = periodsOf(rule, startMs);
  const times = timesIn(DAY_MS, rule, startMs);
  return {
    next(givenMs) {
      const afterMs = Math.max(givenMs, startMs - 1);
      let day = Math.floor(afterMs / DAY_MS);
      for (let step = 0; step < MAX_STEPS && day <= LAST_DAY; step++) {
        const first = Math.max(periods.firstFrom(day), days.firstCandidate(day));
        if (first > day) {
          day = first;
          continue;
        }
        if (days.has(day)) {
          const timeMs = firstAfter(times, afterMs - day * DAY_MS);
          if (timeMs !== null) return day * DAY_MS + timeMs;
        }
        day += 1;
      }
      return null;
    },
  };
}

/** Of all times of a period those at the positions that BYSETPOS names. */
function positionedTimes(rule: RruleText, startMs: number): WallTimes {
  const days = dayFilter(rule);
  const periods = periodsOf(rule, startMs);
  const times = timesIn(DAY_MS, rule, startMs);
  return {
    next(givenMs) {
      const afterMs = Math.max(givenMs, startMs - 1);
      let day = Math.floor(afterMs / DAY_MS);
      for (let steps = 0; steps < MAX_STEPS && day <= LAST_DAY; ) {
        const from = periods.startOf(periods.firstFrom(day));
        const until = periods.endOf(from);
        const matching = daysBetween(days, from, until);
        const found = pick(rule.positions, matching.length * times.size)
          .map((at) => matching[Math.floor(at / times.size)]! * DAY_MS + times.at(at % times.size))
          .find((atMs) => atMs > afterMs);
        if (found !== undefined) return found;
        steps += until - from;
        day = until;
      }
      return null;
    },
  };
}

function daysBetween(days: DayFilter, from: number, until: number): number[] {
  const found: number[] = [];
  for (let day = from; day < until; day++) if (days.has(day)) found.push(day);
  return found;
}

/** The indexes, ascending, that positions counted from 1 or from the end (-1) have in a list of this length. */
function pick(positions: readonly number[], length: number): number[] {
  const indexes = positions.map((position) => (position > 0 ? position - 1 : length + position));
  return [...new Set(indexes.filter((index) => index >= 0 && index < length))].sort((one, other) => one - other);
}

/** Hours, minutes or seconds, counted from the start. */
function unitTimes(rule: RruleText, startMs: number, unitMs: number): WallTimes {
  const days = dayFilter(rule);
  const offsets = offsetsIn(unitMs, rule, startMs);
  const firstUnit = Math.floor(startMs / unitMs);
  const hours = unitMs <= HOUR_MS ? rule.hours : [];
  const minutes = unitMs <= MINUTE_MS ? rule.minutes : [];
  const seconds = unitMs <= SECOND_MS ? rule.seconds : [];

  /** The time itself where it may begin a unit, else the next one that may be worth a look. */
  function candidateFrom(atMs: number): number {
    const day = Math.floor(atMs / DAY_MS);
    if (!days.has(day)) return Math.max(day + 1, days.firstCandidate(day)) * DAY_MS;
    return (
      later(atMs, DAY_MS, HOUR_MS, hours) ??
      later(atMs, HOUR_MS, MINUTE_MS, minutes) ??
      later(atMs, MINUTE_MS, SECOND_MS, seconds) ??
      atMs
    );
  }

  return {
    next(givenMs) {
      const afterMs = Math.max(givenMs, startMs - 1);
      let unit = Math.max(Math.floor(afterMs / unitMs), firstUnit);
      for (let step = 0; step < MAX_STEPS; step++) {
        unit = firstUnit + Math.ceil((unit - firstUnit) / rule.interval) * rule.interval;
        const atMs = unit * unitMs;
        if (atMs > LAST_INSTANT_MS) return null;
        const candidateMs = candidateFrom(atMs);
        if (candidateMs > atMs) {
          unit = Math.ceil(candidateMs / unitMs);
          continue;
        }
        const offsetMs = firstAfter(offsets, afterMs - atMs);
        if (offsetMs !== null) return atMs + offsetMs;
        unit += 1;
      }
      return null;
    },
  };
}

/**
 * Where the hour (of a day, `unitMs` of `wholeMs`) is none of those wanted, the beginning of the next that is, or of
 * the next day; null where it is one.
 */
function later(atMs: number, wholeMs: number, unitMs: number, wanted: readonly number[]): number | null {
  if (wanted.length === 0) return null;
  const wholeAtMs = Math.floor(atMs / wholeMs) * wholeMs;
  const now = Math.floor((atMs - wholeAtMs) / unitMs);
  const next = wanted.find((value) => value >= now);
  if (next === now) return null;
  return next === undefined ? wholeAtMs + wholeMs : wholeAtMs + next * unitMs;
}

/** Times within a day, hour or minute, ms from its beginning, ascending. There may be 86,400: none is kept. */
interface Times {
  readonly size: number;
  at(index: number): number;
}

function timesIn(unitMs: number, rule: RruleText, startMs: number): Times {
  const start = new Date(startMs);
  const hours = unitMs <= HOUR_MS ? [0] : rule.hours.length > 0 ? rule.hours : [start.getUTCHours()];
  const minutes = unitMs <= MINUTE_MS ? [0] : rule.minutes.length > 0 ? rule.minutes : [start.getUTCMinutes()];
  const seconds = unitMs <= SECOND_MS ? [0] : rule.seconds.length > 0 ? rule.seconds : [start.getUTCSeconds()];
  const perHour = minutes.length * seconds.length;
  return {
    size: hours.length * perHour,
    at(index) {
      const hour = hours[Math.floor(index / perHour)]!;
      const minute = minutes[Math.floor(index / seconds.length) % minutes.length]!;
      return hour * HOUR_MS + minute * MINUTE_MS + seconds[index % seconds.length]! * SECOND_MS;
    },
  };
}

/** When within its hour, minute or second a rule of these runs. */
function offsetsIn(unitMs: number, rule: RruleText, startMs: number): Times {
  const all = timesIn(unitMs, rule, startMs);
  if (rule.positions.length === 0) return all;
  const picked = pick(rule.positions, all.size);
  return { size: picked.length, at: (index) => all.at(picked[index]!) };
}

function firstAfter(times: Times, afterMs: number): number | null {
  let low = 0;
  let high = times.size;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (times.at(middle) > afterMs) high = middle;
    else low = middle + 1;
  }
  return low < times.size ? times.at(low) : null;
}

/** Days are counted from 1970-01-01. */
interface DayFilter {
  has(day: number): boolean;
  /** No day from `day` on and before this one matches. */
  firstCandidate(day: number): number;
}

function dayFilter(rule: RruleText): DayFilter {
  const months = new Set(rule.months);
  const monthDays = new Set(rule.monthDays);
  const yearDays = new Set(rule.yearDays);
  const weekNumbers = new Set(rule.weekNumbers);
  const weekdays = new Set(rule.weekdays.map(({ weekday }) => weekday));
  const hasNth = rule.weekdays.some(({ nth }) => nth !== null);
  const isOfYear = rule.frequency === 'YEARLY' && months.size === 0;
  return {
    has(day) {
      const date = dateOf(day);
      const year = yearOf(date);
      const month = monthOf(date);
      if (months.size > 0 && !months.has(month)) return false;
      const monthDay = date % 100;
      if (monthDays.size > 0 && !monthDays.has(monthDay) && !monthDays.has(monthDay - 1 - monthLength(year, month)))
        return false;
      const yearStart = dayNumber(year, 1, 1);
      const nextYearStart = dayNumber(year + 1, 1, 1);
      if (yearDays.size > 0 && !yearDays.has(day - yearStart + 1) && !yearDays.has(day - nextYearStart)) return false;
      if (weekNumbers.size > 0 && !hasWeekNumber(weekNumbers, day, rule.weekStart)) return false;
      if (weekdays.size > 0 && !weekdays.has(mondayBased(day))) return false;
      if (!hasNth) return true;
      const from = isOfYear ? yearStart : day - monthDay + 1;
      const until = isOfYear ? nextYearStart : from + monthLength(year, month);
      return rule.weekdays.some((wanted) => wanted.weekday === mondayBased(day) && isNth(wanted, day, from, until));
    },
    firstCandidate(day) {
      if (months.size === 0) return day;
      const date = dateOf(day);
      const year = yearOf(date);
      const month = monthOf(date);
      return months.has(month) ? day : day - (date % 100) + 1 + monthLength(year, month);
    },
  };
}

function isNth({ nth }: RruleWeekday, day: number, from: number, until: number): boolean {
  if (nth === null) return true;
  return nth > 0 ? Math.floor((day - from) / 7) === nth - 1 : Math.floor((until - 1 - day) / 7) === -nth - 1;
}

/** Week 1 is the first of which four days are in the year. */
function hasWeekNumber(wanted: ReadonlySet<number>, day: number, weekStart: number): boolean {
  // A week belongs to the year of its fourth day.
  const fourth = day - ((mondayBased(day) - weekStart + 7) % 7) + 3;
  const year = yearOf(dateOf(fourth));
  const fromStart = Math.floor((fourth - dayNumber(year, 1, 1)) / 7);
  const fromEnd = Math.floor((dayNumber(year + 1, 1, 1) - 1 - fourth) / 7);
  return wanted.has(fromStart + 1) || wanted.has(-fromEnd - 1);
}

/** The years, months, weeks or days of a rule, as days since 1970-01-01. */
interface Periods {
  /** The day itself, or the first day of the next INTERVAL-th period. */
  firstFrom(day: number): number;
  startOf(day: number): number;
  /** First day of what follows. */
  endOf(day: number): number;
}

function periodsOf(rule: RruleText, startMs: number): Periods {
  const { indexOf, startOf } = numberedPeriods(rule.frequency, rule.weekStart);
  const first = indexOf(Math.floor(startMs / DAY_MS));
  return {
    firstFrom(day) {
      const beyond = (indexOf(day) - first) % rule.interval;
      return beyond === 0 ? day : startOf(indexOf(day) + rule.interval - beyond);
    },
    startOf: (day) => startOf(indexOf(day)),
    endOf: (day) => startOf(indexOf(day) + 1),
  };
}

function numberedPeriods(frequency: Frequency, weekStart: number) {
  switch (frequency) {
    case 'YEARLY':
      return { indexOf: (day: number) => yearOf(dateOf(day)), startOf: (year: number) => dayNumber(year, 1, 1) };
    case 'MONTHLY':
      return {
        indexOf: (day: number) => yearOf(dateOf(day)) * 12 + monthOf(dateOf(day)) - 1,
        startOf: (index: number) => dayNumber(Math.floor(index / 12), (index % 12) + 1, 1),
      };
    case 'WEEKLY':
      // Day 0 was a Thursday.
      return {
        indexOf: (day: number) => Math.floor((day + 3 - weekStart) / 7),
        startOf: (week: number) => week * 7 - 3 + weekStart,
      };
    default:
      return { indexOf: (day: number) => day, startOf: (day: number) => day };
  }
}

function yearOf(date: number): number {
  return Math.floor(date / 10_000);
}

function monthOf(date: number): number {
  return Math.floor(date / 100) % 100;
}

/** 0 Monday to 6 Sunday. */
function mondayBased(day: number): number {
  return (weekdayOf(day) + 6) % 7;
}
