import { LAST_INSTANT_MS } from './instant.ts';

/** Why an rrule cannot be used. */
export class RruleError extends Error {
  override readonly name = 'RruleError';
  /** The member of the schedule that is to blame. */
  readonly field: 'rrule' | 'tz';

  constructor(field: 'rrule' | 'tz', message: string) {
    super(message);
    this.field = field;
  }
}

const FREQUENCIES = ['YEARLY', 'MONTHLY', 'WEEKLY', 'DAILY', 'HOURLY', 'MINUTELY', 'SECONDLY'] as const;
export type Frequency = (typeof FREQUENCIES)[number];

/** A time as iCalendar writes it. */
export interface RruleTime {
  /** As if it were UTC, ms since epoch. */
  readonly wallMs: number;
  readonly isUtc: boolean;
  readonly isDate: boolean;
}

/** What an rrule says. Empty lists: nothing said. */
export interface RruleText {
  /** `DTSTART`, null without one. */
  readonly start: RruleTime | null;
  /** `TZID` of `DTSTART`. */
  readonly zone: string | null;
  readonly frequency: Frequency;
  readonly interval: number;
  readonly count: number | null;
  readonly until: RruleTime | null;
  /** First day of the week, 0 is Monday. */
  readonly weekStart: number;
  readonly months: readonly number[];
  readonly weekNumbers: readonly number[];
  readonly yearDays: readonly number[];
  readonly monthDays: readonly number[];
  readonly weekdays: readonly RruleWeekday[];
  readonly hours: readonly number[];
  readonly minutes: readonly number[];
  readonly seconds: readonly number[];
  readonly positions: readonly number[];
}

export interface RruleWeekday {
  /** 0 is Monday. */
  readonly weekday: number;
  /** Which one of the month or year, from its end where negative; null: each. */
  readonly nth: number | null;
}

const WEEKDAYS = ['MO', 'TU', 'WE', 'TH', 'FR', 'SA', 'SU'];

/** A rule is walked this far to find where COUNT ends it. */
const MAX_COUNT = 10_000;

/** 10 years of seconds. */
const MAX_INTERVAL = 315_576_000;

/** Numbers that each part may hold, and whether negative ones count from the end. */
const LISTS = {
  BYMONTH: { from: 1, to: 12, fromEnd: false },
  BYWEEKNO: { from: 1, to: 53, fromEnd: true },
  BYYEARDAY: { from: 1, to: 366, fromEnd: true },
  BYMONTHDAY: { from: 1, to: 31, fromEnd: true },
  BYHOUR: { from: 0, to: 23, fromEnd: false },
  BYMINUTE: { from: 0, to: 59, fromEnd: false },
  BYSECOND: { from: 0, to: 59, fromEnd: false },
  BYSETPOS: { from: 1, to: 366, fromEnd: true },
} as const;

type ListName = keyof typeof LISTS;

const NAMES = ['FREQ', 'INTERVAL', 'COUNT', 'UNTIL', 'WKST', 'BYDAY', ...Object.keys(LISTS)];

/**
 * Reads the recurrence rule of RFC 5545 (section 3.3.10), with or without `RRULE:` before it, optionally after a line
 * with `DTSTART`. Where the RFC forbids what python-dateutil understands (BYMONTHDAY with WEEKLY, for one), dateutil is
 * followed. Throws RruleError.
 */
export function parseRrule(text: string): RruleText {
  const lines = text.trim().split(/\s*\r?\n/);
  const starts = lines.filter((line) => /^DTSTART/i.test(line));
  const rules = lines.filter((line) => !/^DTSTART/i.test(line));
  if (starts.length > 1) throw refusal('must not have more than one DTSTART');
  if (rules.length !== 1) throw refusal('must have exactly one rule, such as FREQ=DAILY;BYHOUR=9');
  const start = starts[0] === undefined ? null : parseStart(starts[0]);
  return { start: start?.time ?? null, zone: start?.zone ?? null, ...parseRule(rules[0] ?? '') };
}

/** The `TZID` of an rrule's DTSTART, if it has one. */
export function zoneNamedIn(text: string): string | null {
  return /^DTSTART[^:\n]*;TZID=([^:;\n]+)/im.exec(text)?.[1] ?? null;
}

const START = /^DTSTART(?:;VALUE=DATE(?:-TIME)?)?(?:;TZID=([^;:]+))?:(\S+)$/i;

function parseStart(line: string): { readonly time: RruleTime; readonly zone: string | null } {
  const [, zone, time] = START.exec(line) ?? [];
  if (time === undefined)
    throw refusal(`has a DTSTART that is not like DTSTART;TZID=Europe/Berlin:20270131T090000: ${line}`);
  const parsed = parseTime('DTSTART', time);
  if (zone !== undefined && parsed.isUtc) throw refusal('must not have both a TZID and Z in DTSTART');
  return { time: parsed, zone: zone ?? null };
}

function parseRule(line: string): Omit<RruleText, 'start' | 'zone'> {
  const other = /^(RDATE|EXDATE|EXRULE)\b/i.exec(line)?.[1];
  if (other !== undefined) throw refusal(`must not have ${other.toUpperCase()}; exclude takes days and times away`);
  const parts = splitParts(line.replace(/^RRULE:/i, '').toUpperCase());
  const frequency = FREQUENCIES.find((name) => name === parts.get('FREQ'));
  if (frequency === undefined) throw refusal(`must have FREQ, one of ${FREQUENCIES.join(', ')}`);
  const until = parts.get('UNTIL');
  const rule = {
    frequency,
    interval: wholeNumber(parts, 'INTERVAL', MAX_INTERVAL) ?? 1,
    count: wholeNumber(parts, 'COUNT', MAX_COUNT, '; max_runs counts further'),
    until: until === undefined ? null : parseTime('UNTIL', until),
    weekStart: weekdayOf('WKST', parts.get('WKST') ?? 'MO'),
    months: numbers(parts, 'BYMONTH'),
    weekNumbers: numbers(parts, 'BYWEEKNO'),
    yearDays: numbers(parts, 'BYYEARDAY'),
    monthDays: numbers(parts, 'BYMONTHDAY'),
    weekdays: weekdays(parts),
    hours: numbers(parts, 'BYHOUR'),
    minutes: numbers(parts, 'BYMINUTE'),
    seconds: numbers(parts, 'BYSECOND'),
    positions: numbers(parts, 'BYSETPOS'),
  };
  const hasNth = rule.weekdays.some(({ nth }) => nth !== null);
  if (hasNth && frequency !== 'MONTHLY' && frequency !== 'YEARLY')
    throw refusal(`must not have numbers in BYDAY with FREQ=${frequency}, only with MONTHLY and YEARLY`);
  if (hasNth && rule.weekNumbers.length > 0) throw refusal('must not have numbers in BYDAY with BYWEEKNO');
  if (rule.positions.length > 0 && ![...parts.keys()].some((name) => name.startsWith('BY') && name !== 'BYSETPOS'))
    throw refusal('must have another part that begins with BY where it has BYSETPOS');
  return rule;
}

function splitParts(rule: string): Map<string, string> {
  const parts = new Map<string, string>();
  for (const part of rule.replace(/;$/, '').split(';')) {
    const at = part.indexOf('=');
    const name = part.slice(0, at);
    const value = part.slice(at + 1);
    if (at < 1 || value === '') throw refusal(`must have parts like FREQ=DAILY, separated by ";"; "${part}" is none`);
    if (name === 'BYEASTER') throw refusal('must not have BYEASTER, which is no part of RFC 5545');
    if (!NAMES.includes(name)) throw refusal(`has the part ${name}, which is not one of ${NAMES.join(', ')}`);
    if (parts.has(name)) throw refusal(`must have ${name} only once`);
    parts.set(name, value);
  }
  return parts;
}

function wholeNumber(parts: ReadonlyMap<string, string>, name: string, to: number, advice = ''): number | null {
  const text = parts.get(name);
  if (text === undefined) return null;
  const value = /^\d{1,15}$/.test(text) ? Number(text) : 0;
  if (value < 1 || value > to)
    throw refusal(`has ${name}=${text}, which must be a whole number from 1 to ${to}${advice}`);
  return value;
}

function numbers(parts: ReadonlyMap<string, string>, name: ListName): number[] {
  const text = parts.get(name);
  if (text === undefined) return [];
  const { from, to, fromEnd } = LISTS[name];
  const values = text.split(',').map((item) => {
    const value = /^[+-]?\d{1,3}$/.test(item) ? Number(item) : Number.NaN;
    const size = fromEnd ? Math.abs(value) : value;
    if (size >= from && size <= to) return value;
    throw refusal(
      `has ${name}=${text}, which must be whole numbers from ${from} to ${to}${fromEnd ? ' or from the end, negative' : ''}`,
    );
  });
  return [...new Set(values)].sort((one, other) => one - other);
}

function weekdays(parts: ReadonlyMap<string, string>): RruleWeekday[] {
  const text = parts.get('BYDAY');
  if (text === undefined) return [];
  return text.split(',').map((item) => {
    const [, nth, day] = /^([+-]?\d{1,2})?([A-Z]{2})$/.exec(item) ?? [];
    if (day === undefined || (nth !== undefined && (Number(nth) === 0 || Math.abs(Number(nth)) > 53)))
      throw refusal(`has BYDAY=${text}, which must be days such as MO, or such as 1MO and -1FR`);
    return { weekday: weekdayOf('BYDAY', day), nth: nth === undefined ? null : Number(nth) };
  });
}

function weekdayOf(name: string, day: string): number {
  const weekday = WEEKDAYS.indexOf(day);
  if (weekday < 0) throw refusal(`has ${day} in ${name}, which is not one of ${WEEKDAYS.join(', ')}`);
  return weekday;
}

const TIME = /^(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)(\d\d)(Z)?)?$/i;

function parseTime(name: string, text: string): RruleTime {
  const [, year, month, day, hour, minute, second, utc] = TIME.exec(text) ?? [];
  const isDate = hour === undefined;
  const iso = `${year}-${month}-${day}T${isDate ? '00:00:00' : `${hour}:${minute}:${second}`}.000Z`;
  const wallMs = year === undefined ? Number.NaN : Date.parse(iso);
  // Date.parse takes the 30th of February for the 2nd of March.
  if (!(wallMs >= 0 && wallMs <= LAST_INSTANT_MS) || new Date(wallMs).toISOString() !== iso)
    throw refusal(`has ${name} ${text}, which is not a time like 20270131T090000, from 1970 to 9999`);
  return { wallMs, isUtc: utc !== undefined, isDate };
}

function refusal(message: string): RruleError {
  return new RruleError('rrule', message);
}
