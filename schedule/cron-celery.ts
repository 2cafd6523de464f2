import {
  allValues,
  ascending,
  type CronFields,
  type CronTexts,
  type DayOfMonth,
  type DayOfWeek,
  type FieldName,
  fieldError,
} from './cron-fields.ts';

/**
 * Celery's dialect, after celery/schedules.py, crontab_parser: ranges wrap around (`22-2`, `fri-mon`) and their steps with
 * them, names are told by their first three letters, there is no weekday 7 and no `5/15`; a day must be allowed by both of
 * its fields. Celery takes no notice of what follows a complete item (`1-5-7` is `1-5` to it): here that is refused.
 */
export function parseCeleryCron(texts: CronTexts): CronFields {
  return {
    seconds: valuesOf('second', texts.second ?? '0', 0, 59),
    minutes: valuesOf('minute', texts.minute, 0, 59),
    hours: valuesOf('hour', texts.hour, 0, 23),
    months: valuesOf('month', texts.month, 1, 12),
    daysOfMonth: valuesOf('day of month', texts.dayOfMonth, 1, 31).map((day): DayOfMonth => ({ kind: 'day', day })),
    daysOfWeek: valuesOf('day of week', texts.dayOfWeek, 0, 6).map(
      (weekday): DayOfWeek => ({ kind: 'every', weekday }),
    ),
    days: 'both',
  };
}

const ITEM = /^(?:\*|(\d+|[a-z]{3,})(?:-(\d+|[a-z]{3,}))?)(?:\/(\d+))?$/i;

const NAMES: Readonly<Partial<Record<FieldName, readonly string[]>>> = {
  month: ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'],
  'day of week': ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'],
};

function valuesOf(field: FieldName, text: string, min: number, max: number): number[] {
  return ascending(text.split(',').flatMap((item) => itemValues(field, text, item, min, max)));
}

function itemValues(field: FieldName, text: string, item: string, min: number, max: number): number[] {
  const match = ITEM.exec(item);
  if (match === null) {
    throw fieldError(field, text, item === '' ? 'which has an empty item' : `in which "${item}" is unknown`);
  }
  const [, first, last, step] = match;
  if (step !== undefined && first !== undefined && last === undefined)
    throw fieldError(field, text, `in which "${item}" has a step, which Celery knows only behind "*" or a range`);
  if (step !== undefined && Number(step) === 0) throw fieldError(field, text, `in which "${item}" has a step of 0`);
  const number = (name: string) => numberOf(field, text, name, min, max);
  const range =
    first === undefined ? allValues(min, max) : wrappingRange(number(first), number(last ?? first), min, max);
  return step === undefined ? range : range.filter((_, index) => index % Number(step) === 0);
}

function wrappingRange(first: number, last: number, min: number, max: number): number[] {
  return last >= first ? allValues(first, last) : [...allValues(first, max), ...allValues(min, last)];
}

function numberOf(field: FieldName, text: string, name: string, min: number, max: number): number {
  const names = NAMES[field];
  const index = names?.indexOf(name.slice(0, 3).toLowerCase()) ?? -1;
  const number = /^\d/.test(name) ? Number(name) : index === -1 ? Number.NaN : index + min;
  if (number >= min && number <= max) return number;
  const named = names === undefined ? '' : ` or ${names[0]} to ${names.at(-1)}`;
  throw fieldError(field, text, `in which "${name}" is not from ${min} to ${max}${named}`);
}
