/**
 * What a cron's text says, whichever dialect it was written in: the values that each field allows, ascending and without
 * doubles, and the days by their rules, since some depend on the month.
 */
export interface CronFields {
  readonly seconds: readonly number[];
  readonly minutes: readonly number[];
  readonly hours: readonly number[];
  /** 1 to 12. */
  readonly months: readonly number[];
  readonly daysOfMonth: readonly DayOfMonth[];
  readonly daysOfWeek: readonly DayOfWeek[];
  /** Whether a day must be allowed by both of its fields or by either. */
  readonly days: 'both' | 'either';
}

export type DayOfMonth =
  | { readonly kind: 'day'; readonly day: number }
  /** The last day of the month, or so many days before it. */
  | { readonly kind: 'last'; readonly before: number }
  /** The working day (Monday to Friday) of the month that is nearest to a day. */
  | { readonly kind: 'nearest working day'; readonly day: number }
  | { readonly kind: 'last working day' };

/** Weekdays: 0 Sunday to 6 Saturday. */
export type DayOfWeek =
  | { readonly kind: 'every'; readonly weekday: number }
  | { readonly kind: 'nth'; readonly weekday: number; readonly nth: number }
  | { readonly kind: 'last'; readonly weekday: number };

/** Why a cron cannot be used, in words that follow the name of the field: `schedule.cron has four fields, ...`. */
export class CronError extends Error {
  /** The field of the spec that is to be changed. */
  readonly field: 'cron' | 'tz';

  constructor(field: 'cron' | 'tz', message: string) {
    super(message);
    this.name = 'CronError';
    this.field = field;
  }
}

/** The fields in the order of a cron with seconds (which is that of cron-parser too), as users call them. */
export const FIELD_NAMES = ['second', 'minute', 'hour', 'day of month', 'month', 'day of week'] as const;

export type FieldName = (typeof FIELD_NAMES)[number];

/** The six texts of a cron, seconds first; null for seconds that were not given. */
export interface CronTexts {
  readonly second: string | null;
  readonly minute: string;
  readonly hour: string;
  readonly dayOfMonth: string;
  readonly month: string;
  readonly dayOfWeek: string;
}

/** Longer than any cron that lists each value of each field. */
const MAX_LENGTH = 1_000;

const NAMED: Readonly<Record<string, string>> = {
  '@yearly': '0 0 1 1 *',
  '@annually': '0 0 1 1 *',
  '@monthly': '0 0 1 * *',
  '@weekly': '0 0 * * 0',
  '@weekdays': '0 0 * * 1-5',
  '@weekends': '0 0 * * 0,6',
  '@daily': '0 0 * * *',
  '@midnight': '0 0 * * *',
  '@hourly': '0 * * * *',
  '@minutely': '* * * * *',
  '@secondly': '* * * * * *',
};

/** Splits five or six fields, or resolves a name. Throws CronError. */
export function splitCron(cron: string): CronTexts {
  if (cron.length > MAX_LENGTH) throw new CronError('cron', `must have at most ${MAX_LENGTH} characters`);
  const given = normalCron(cron);
  if (given.startsWith('@') && !Object.hasOwn(NAMED, given)) {
    throw new CronError('cron', `must be one of ${Object.keys(NAMED).join(', ')}, or five or six fields, got ${given}`);
  }
  const texts = given === '' ? [] : (NAMED[given] ?? given).split(' ');
  if (texts.length !== 5 && texts.length !== 6) {
    throw new CronError(
      'cron',
      `must have 5 fields (minute, hour, day of month, month, day of week), or 6 with seconds first, got ${texts.length}`,
    );
  }
  const [minute, hour, dayOfMonth, month, dayOfWeek] = texts.slice(-5) as [string, string, string, string, string];
  return { second: texts.length === 6 ? texts[0]! : null, minute, hour, dayOfMonth, month, dayOfWeek };
}

/** A cron with one blank between its fields: what means the same is one text more often. */
export function normalCron(cron: string): string {
  return NORMAL.test(cron) ? cron : cron.trim().split(/\s+/).join(' ');
}

const NORMAL = /^\S+(?: \S+)*$/;

/** What the text of a field cannot be. */
export function fieldError(field: FieldName, text: string, reason: string): CronError {
  return new CronError('cron', `has ${field} "${text}", ${reason}`);
}

export function ascending(values: Iterable<number>): number[] {
  return [...new Set(values)].sort((a, b) => a - b);
}

/** All values from `first` to `last`. */
export function allValues(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}
