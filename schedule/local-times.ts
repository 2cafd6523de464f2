import { DAY_MS, dateOf, dayNumber, monthLength, weekdayOf } from './civil.ts';
import type { CronFields, DayOfMonth, DayOfWeek } from './cron-fields.ts';

/**
 * The local times that the fields of a cron allow: a search over integers, without a zone and without allocation. Times
 * are ms since 1970-01-01T00:00 local time; a whole second is allowed or not.
 */
export class LocalTimes {
  /** Whether each hour is allowed. */
  readonly isEveryHour: boolean;
  readonly #seconds: FieldSearch;
  readonly #minutes: FieldSearch;
  readonly #hours: FieldSearch;
  readonly #months: FieldSearch;
  readonly #fields: CronFields;
  /** The days of a month as bits from day 1 on, by how long the month is and by the weekday it begins with. */
  readonly #dayMasks = new Int32Array(4 * 7).fill(UNKNOWN);
  readonly #isEveryDay: boolean;
  readonly #firstTimeMs: number;

  constructor(fields: CronFields) {
    this.#fields = fields;
    this.#seconds = searchOf(fields.seconds, 60);
    this.#minutes = searchOf(fields.minutes, 60);
    this.#hours = searchOf(fields.hours, 24);
    this.#months = searchOf(fields.months, 13);
    this.isEveryHour = fields.hours.length === 24;
    this.#isEveryDay = allowsEveryDay(fields);
    this.#firstTimeMs = (this.#hours.next[0]! * 60 + this.#minutes.next[0]!) * 60_000 + this.#seconds.next[0]! * 1_000;
  }

  /** The first allowed time that is not before this one (a whole second); Infinity when there is none up to the year 10000. */
  next(localMs: number): number {
    const day = Math.floor(localMs / DAY_MS);
    const allowedDay = this.#nextDay(day, true);
    if (allowedDay === day) {
      const timeMs = this.#nextTimeOfDay(localMs - day * DAY_MS);
      if (timeMs !== NONE) return day * DAY_MS + timeMs;
      return this.#nextDay(day + 1, true) * DAY_MS + this.#firstTimeMs;
    }
    return allowedDay * DAY_MS + this.#firstTimeMs;
  }

  /**
   * A time after an allowed one (a whole second), up to which all are allowed; Infinity when they are for ever. What
   * follows may be allowed as well.
   */
  endOfRun(localMs: number): number {
    const day = Math.floor(localMs / DAY_MS);
    const secondOfDay = Math.floor((localMs - day * DAY_MS) / 1_000);
    const second = secondOfDay % 60;
    if (!this.#seconds.isFull) return localMs + (this.#seconds.end[second]! - second) * 1_000;
    const minuteMs = localMs - second * 1_000;
    const minute = Math.floor(secondOfDay / 60) % 60;
    if (!this.#minutes.isFull) return minuteMs + (this.#minutes.end[minute]! - minute) * 60_000;
    if (!this.#hours.isFull) return day * DAY_MS + this.#hours.end[Math.floor(secondOfDay / 3_600)]! * 3_600_000;
    return this.#isEveryDay ? Number.POSITIVE_INFINITY : this.#nextDay(day, false) * DAY_MS;
  }

  #nextTimeOfDay(timeMs: number): number {
    const secondOfDay = Math.floor(timeMs / 1_000);
    const hour = Math.floor(secondOfDay / 3_600);
    const minute = Math.floor(secondOfDay / 60) % 60;
    let nextHour = this.#hours.next[hour]!;
    let nextMinute = this.#minutes.next[0]!;
    let nextSecond = this.#seconds.next[0]!;
    if (nextHour === hour) {
      const sameMinute = this.#minutes.next[minute]!;
      const sameSecond = sameMinute === minute ? this.#seconds.next[secondOfDay % 60]! : 60;
      if (sameSecond < 60) {
        nextMinute = minute;
        nextSecond = sameSecond;
      } else {
        const laterMinute = this.#minutes.next[minute + 1]!;
        if (laterMinute < 60) nextMinute = laterMinute;
        else nextHour = this.#hours.next[hour + 1]!;
      }
    }
    return nextHour < 24 ? (nextHour * 60 + nextMinute) * 60_000 + nextSecond * 1_000 : NONE;
  }

  /** The first day from this one on that is allowed, or is not. */
  #nextDay(day: number, isAllowed: boolean): number {
    const date = dateOf(day);
    let year = Math.floor(date / 10_000);
    let month = Math.floor(date / 100) % 100;
    let from = date % 100;
    while (year <= LAST_YEAR) {
      const length = monthLength(year, month);
      const first = dayNumber(year, month, 1);
      const isMonthAllowed = this.#months.next[month] === month;
      const allowed = isMonthAllowed ? this.#dayMask(length, weekdayOf(first)) : 0;
      const left = (isAllowed ? allowed : allowed ^ fullMask(length)) >>> (from - 1);
      if (left !== 0) return first + from - 1 + 31 - Math.clz32(left & -left);
      from = 1;
      month = isAllowed ? this.#months.next[month + 1]! : month + 1;
      if (month > 12) {
        year += 1;
        month = isAllowed ? this.#months.next[0]! : 1;
      }
    }
    return Number.POSITIVE_INFINITY;
  }

  #dayMask(length: number, firstWeekday: number): number {
    const index = (length - 28) * 7 + firstWeekday;
    if (this.#dayMasks[index] === UNKNOWN) this.#dayMasks[index] = dayMask(this.#fields, length, firstWeekday);
    return this.#dayMasks[index]!;
  }
}

const NONE = -1;

/** No mask has the sign bit. */
const UNKNOWN = -1;

/** Where clocks are ahead of UTC it begins while 9999, the last year of all times, has not ended. */
const LAST_YEAR = 10_000;

function fullMask(length: number): number {
  return 2 ** length - 1;
}

/** One field's values, by value: the first allowed one that is not smaller, and the first that is not allowed. */
interface FieldSearch {
  readonly next: Uint8Array;
  readonly end: Uint8Array;
  readonly isFull: boolean;
}

/** Where no further value is allowed, `next` is `size`. */
function searchOf(values: readonly number[], size: number): FieldSearch {
  const next = new Uint8Array(size + 1).fill(size);
  const end = new Uint8Array(size + 1).fill(size);
  for (let value = size - 1; value >= 0; value--) {
    const isAllowed = values.includes(value);
    next[value] = isAllowed ? value : next[value + 1]!;
    end[value] = isAllowed ? end[value + 1]! : value;
  }
  return { next, end, isFull: values.length === size };
}

function allowsEveryDay({ months, daysOfMonth, daysOfWeek, days }: CronFields): boolean {
  if (months.length < 12) return false;
  const isFullMonth = daysOfMonth.filter(({ kind }) => kind === 'day').length === 31;
  const isFullWeek = daysOfWeek.filter(({ kind }) => kind === 'every').length === 7;
  return days === 'both' ? isFullMonth && isFullWeek : isFullMonth || isFullWeek;
}

function dayMask({ daysOfMonth, daysOfWeek, days }: CronFields, length: number, firstWeekday: number): number {
  let byMonth = 0;
  for (const rule of daysOfMonth) byMonth |= bitOf(dayByMonth(rule, length, firstWeekday), length);
  let byWeek = 0;
  for (const rule of daysOfWeek) {
    for (const day of daysByWeek(rule, length, firstWeekday)) byWeek |= bitOf(day, length);
  }
  return days === 'both' ? byMonth & byWeek : byMonth | byWeek;
}

function bitOf(day: number, length: number): number {
  return day >= 1 && day <= length ? 1 << (day - 1) : 0;
}

/** A day of the month, out of its range where the rule finds none in it. */
function dayByMonth(rule: DayOfMonth, length: number, firstWeekday: number): number {
  switch (rule.kind) {
    case 'day':
      return rule.day;
    case 'last':
      return length - rule.before;
    case 'nearest working day':
      return rule.day > length ? 0 : nearestWorkingDay(rule.day, length, firstWeekday);
    case 'last working day': {
      const weekday = (firstWeekday + length - 1) % 7;
      return length - (weekday === 0 ? 2 : weekday === 6 ? 1 : 0);
    }
  }
}

/** Stays within the month: the 1st, a Saturday, goes to Monday the 3rd. */
function nearestWorkingDay(day: number, length: number, firstWeekday: number): number {
  const weekday = (firstWeekday + day - 1) % 7;
  if (weekday === 6) return day === 1 ? 3 : day - 1;
  if (weekday === 0) return day === length ? day - 2 : day + 1;
  return day;
}

function daysByWeek(rule: DayOfWeek, length: number, firstWeekday: number): number[] {
  const first = ((rule.weekday - firstWeekday + 7) % 7) + 1;
  switch (rule.kind) {
    case 'every':
      return [first, first + 7, first + 14, first + 21, first + 28];
    case 'nth':
      return [first + (rule.nth - 1) * 7];
    case 'last':
      return [first + Math.floor((length - first) / 7) * 7];
  }
}
