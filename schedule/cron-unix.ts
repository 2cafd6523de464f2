import { CronExpressionParser } from 'cron-parser';
import {
  allValues,
  ascending,
  type CronFields,
  type CronTexts,
  type DayOfMonth,
  type DayOfWeek,
  FIELD_NAMES,
  type FieldName,
  fieldError,
} from './cron-fields.ts';

/**
 * The Unix dialect. cron-parser reads values, ranges, steps, names and `H`; which items there may be, and those that
 * depend on the month (`L`, `L-3`, `15W`, `LW`, `5L`, `1#2`), are looked at here first, since it drops or misreads some of
 * what is wrong (`1-5,L`, `sun5`) and knows only some of them.
 */
export function parseUnixCron(texts: CronTexts, hashSeed: string): CronFields {
  const daysOfMonth = itemsOf('day of month', texts.dayOfMonth);
  const daysOfWeek = itemsOf('day of week', texts.dayOfWeek);
  const values = readValues(
    {
      second: itemsOf('second', texts.second ?? '0').values,
      minute: itemsOf('minute', texts.minute).values,
      hour: itemsOf('hour', texts.hour).values,
      'day of month': daysOfMonth.values,
      month: itemsOf('month', texts.month).values,
      'day of week': daysOfWeek.values,
    },
    hashSeed,
  );
  return {
    seconds: values.second,
    minutes: values.minute,
    hours: values.hour,
    months: values.month,
    daysOfMonth: [
      ...values['day of month'].map((day): DayOfMonth => ({ kind: 'day', day })),
      ...daysOfMonth.special.map((item) => specialDayOfMonth(texts.dayOfMonth, item)),
    ],
    daysOfWeek: [
      ...values['day of week'].map((weekday): DayOfWeek => ({ kind: 'every', weekday })),
      ...daysOfWeek.special.map((item) => specialDayOfWeek(texts.dayOfWeek, item)),
    ],
    // POSIX: a field counts as restricted unless it is written as an asterisk.
    days: isWildcard(texts.dayOfMonth) || isWildcard(texts.dayOfWeek) ? 'both' : 'either',
  };
}

/** Whether `H` occurs in a cron with one blank between its fields, so that it differs from id to id. */
export function isHashed(cron: string): boolean {
  // The letter is in names too.
  return cron.includes('H') && cron.split(/[ ,]/).some((item) => HASHED.test(item));
}

const HASHED = /^H(?:\(\d{1,2}-\d{1,2}\))?(?:\/\d{1,2})?$/;
const PLAIN = /^(?:[*?]|(?:\d{1,2}|[a-z]{3})(?:-(?:\d{1,2}|[a-z]{3}))?)(?:\/\d{1,2})?$/i;
const SINGLE = /^(?:\d{1,2}|[a-z]{3})$/i;
const SPECIAL: Readonly<Partial<Record<FieldName, RegExp>>> = {
  'day of month': /^(?:L|LW|L-\d{1,2}|\d{1,2}W)$/,
  'day of week': /^(?:[0-7]|[a-z]{3})(?:L|#[1-5])$/i,
};

function isWildcard(text: string): boolean {
  return text === '*' || text === '?';
}

interface Items {
  /** What cron-parser reads. */
  readonly values: readonly string[];
  readonly special: readonly string[];
}

function itemsOf(field: FieldName, text: string): Items {
  const items = [...new Set(text.split(','))];
  const special = items.filter((item) => SPECIAL[field]?.test(item));
  const values = items.filter((item) => !special.includes(item));
  const unknown = values.find((item) => !PLAIN.test(item) && !HASHED.test(item));
  if (unknown !== undefined) {
    throw fieldError(field, text, unknown === '' ? 'which has an empty item' : `in which "${unknown}" is unknown`);
  }
  if (special.length > 0 && !values.every((item) => SINGLE.test(item))) {
    throw fieldError(field, text, `in which "${special[0]}" may stand in a list with single values only`);
  }
  return { values, special };
}

const RANGES: Readonly<Record<FieldName, readonly [first: number, last: number]>> = {
  second: [0, 59],
  minute: [0, 59],
  hour: [0, 23],
  'day of month': [1, 31],
  month: [1, 12],
  'day of week': [0, 6],
};

type FieldItems = Readonly<Record<FieldName, readonly string[]>>;

/**
 * Reads items by cron-parser: the first of each field together, then the second of each, because it refuses lists whose
 * items overlap (`5,5`). Months apart from the others, because it drops days that the months do not have.
 */
function readValues(items: FieldItems, hashSeed: string): Record<FieldName, number[]> {
  const found: Record<FieldName, number[]> = {
    second: [],
    minute: [],
    hour: [],
    'day of month': [],
    month: [],
    'day of week': [],
  };
  const read = (fields: readonly FieldName[], index: number) => {
    const wild = fields.filter((field) => isWildcard(items[field][index] ?? ''));
    for (const field of wild) found[field].push(...allValues(...RANGES[field]));
    const present = fields.filter((field) => items[field][index] !== undefined && !wild.includes(field));
    if (present.length === 0) return;
    const parsed = parseItems(present, (field) => items[field][index]!, hashSeed);
    for (const field of present) found[field].push(...parsed[field]);
  };
  for (let index = 0; FIELD_NAMES.some((field) => index < items[field].length); index++) {
    read(['second', 'minute', 'hour', 'day of month', 'day of week'], index);
    read(['month'], index);
  }
  for (const field of FIELD_NAMES) found[field] = ascending(found[field]);
  return found;
}

function parseItems(
  fields: readonly FieldName[],
  itemOf: (field: FieldName) => string,
  hashSeed: string,
): Record<FieldName, number[]> {
  const expression = FIELD_NAMES.map((field) => (fields.includes(field) ? itemOf(field) : '*')).join(' ');
  try {
    // Without a seed each parse would draw another one.
    const parsed = CronExpressionParser.parse(expression, { hashSeed: hashSeed === '' ? ' ' : hashSeed }).fields;
    return {
      second: parsed.second.values.map(Number),
      minute: parsed.minute.values.map(Number),
      hour: parsed.hour.values.map(Number),
      'day of month': parsed.dayOfMonth.values.map(Number),
      month: parsed.month.values.map(Number),
      'day of week': parsed.dayOfWeek.values.map((value) => Number(value) % 7),
    };
  } catch (error) {
    if (fields.length > 1) {
      // Its errors do not tell in which field they are.
      for (const field of fields) parseItems([field], itemOf, hashSeed);
    }
    const [field] = fields;
    if (!(error instanceof Error) || field === undefined) throw error;
    throw fieldError(field, itemOf(field), `which is refused: ${error.message}`);
  }
}

function specialDayOfMonth(text: string, item: string): DayOfMonth {
  if (item === 'LW') return { kind: 'last working day' };
  const number = Number(/\d+/.exec(item)?.[0] ?? 0);
  if (item.startsWith('L')) {
    if (number > 30 || item === 'L-0' || item === 'L-00')
      throw fieldError('day of month', text, `in which "${item}" must count back 1 to 30 days`);
    return { kind: 'last', before: number };
  }
  if (number < 1 || number > 31) throw fieldError('day of month', text, `in which "${item}" is no day from 1 to 31`);
  return { kind: 'nearest working day', day: number };
}

const WEEKDAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];

function specialDayOfWeek(text: string, item: string): DayOfWeek {
  const name = /^(?:\d|[a-z]{3})/i.exec(item)?.[0] ?? '';
  const weekday = /^\d/.test(name) ? Number(name) % 7 : WEEKDAYS.indexOf(name.toLowerCase());
  if (weekday === -1) throw fieldError('day of week', text, `in which "${name}" is no weekday`);
  if (item.endsWith('L')) return { kind: 'last', weekday };
  return { kind: 'nth', weekday, nth: Number(item.slice(-1)) };
}
