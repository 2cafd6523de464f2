import { z } from 'zod';
import { duration, instant, wholeMs } from './fields.ts';
import { formatInstant, parseInstant } from './instant.ts';
import { zoneNamedIn } from './rrule-text.ts';
import { SOLAR_EVENTS } from './solar.ts';

/** When a schedule runs: the kinds of the spec's `schedule`, and what `exclude` takes away from them. */

/** 10 years of 365.25 days, s. */
export const LONGEST_INTERVAL = 315_576_000;

/** Longer texts of crons and rrules are a mistake. */
const MAX_TEXT_LENGTH = 1_000;

/** How far a loop's pauses grow where the spec does not say: this many times the first, up to an hour. */
const MAX_DELAY_FACTOR = 60;
const LONGEST_DEFAULT_DELAY = 3_600;

const every = z
  .strictObject({
    every: z
      .number()
      .min(0.1)
      .max(LONGEST_INTERVAL)
      .overwrite(wholeMs)
      .describe('Interval, s. Runs lie on a fixed grid that never drifts.'),
    phase: z
      .union([z.literal('spread'), z.literal('now'), z.number().min(0).overwrite(wholeMs)], {
        error: 'must be "spread", "now" or an offset in seconds from 0',
      })
      .default('spread')
      .describe(
        'Where the grid lies: by a hash of the id, from the moment of registration, or this many s after the epoch (less than every).',
      ),
  })
  .check(({ value, issues }) => {
    if (typeof value.phase === 'number' && value.phase >= value.every) {
      issues.push({ code: 'custom', path: ['phase'], message: 'must be less than every', input: value.phase });
    }
  });

const zone = z.string().default('UTC').describe('Time zone by its IANA name, such as Europe/Berlin.');

const cron = z.strictObject({
  cron: text('Five fields, six with seconds first, or a name such as @daily.'),
  tz: zone,
  dialect: z
    .enum(['unix', 'celery'])
    .default('unix')
    .describe('Celery joins day of month and day of week by AND and has its own field syntax; Unix joins by OR.'),
});

const at = z.strictObject({ at: instant('Runs once, at this time; in the past it is a missed run.') });

const inSeconds = z.strictObject({ in: duration('Runs once, this many s after it was first registered.').min(0) });

const filledRetry = z.strictObject({
  delay: z.number().describe('s from the first failure in a row to the next run; doubles with each further one.'),
  max_delay: z.number().describe('Up to this, s.'),
});

const retry = z
  .strictObject({
    delay: duration('s from the first failure in a row to the next run; doubles with each further one.').min(0.001),
    max_delay: duration('Up to this, s; 60 times delay, an hour at most, where it is left out.').optional(),
  })
  .check(({ value, issues }) => {
    if (value.max_delay !== undefined && value.max_delay < value.delay)
      issues.push({ code: 'custom', path: ['max_delay'], message: 'must not be below delay', input: value.max_delay });
  })
  .transform(({ delay, max_delay }) => ({
    delay,
    max_delay: max_delay ?? Math.max(delay, Math.min(wholeMs(delay * MAX_DELAY_FACTOR), LONGEST_DEFAULT_DELAY)),
  }))
  .pipe(filledRetry);

const after = z.strictObject({
  after: duration('A loop: its next run follows this many s after the last one has ended.').min(0.001),
  retry: retry
    .nullable()
    .default(null)
    .describe('How the loop goes on after a run that failed; null: as after any other.'),
});

const solar = z.strictObject({
  solar: z.enum(SOLAR_EVENTS).describe("One of Celery's solar events."),
  lat: z.number().min(-90).max(90).describe('Degrees, north is positive.'),
  lon: z.number().min(-180).max(180).describe('Degrees, east is positive.'),
});

const rrule = z
  .strictObject({
    rrule: text('RFC 5545 recurrence rule, optionally after a DTSTART line; without one the series begins at `start`.'),
    tz: z.string().optional().describe('Time zone by its IANA name; default: the one that DTSTART names, or UTC.'),
  })
  .transform(({ rrule, tz }) => ({ rrule, tz: tz ?? zoneNamedIn(rrule) ?? 'UTC' }))
  .pipe(z.strictObject({ rrule: z.string(), tz: z.string() }));

/** The member that tells each kind, in the order of the union. */
export const KINDS = ['every', 'cron', 'at', 'in', 'after', 'solar', 'rrule'] as const;

// What is looked at first is what there may be a hundred thousand of.
export const timing = z.union([every, cron, at, inSeconds, after, solar, rrule], {
  error: `must be an object with one of ${KINDS.join(', ')}`,
});

export type Timing = z.output<typeof timing>;
export type CronTiming = z.output<typeof cron>;
export type SolarTiming = z.output<typeof solar>;
export type RruleTiming = z.output<typeof rrule>;

/** The kinds whose times a calendar lists (schedule/calendar.ts). */
export type CalendarTiming = CronTiming | SolarTiming | RruleTiming;

const DATE = /^\d{4}-\d\d-\d\d$/;

const date = z
  .string()
  .refine(isDate, { error: 'must be a date such as 2027-12-25, from 1970 to 9999' })
  .meta({ description: 'A day in the zone of the schedule.', format: 'date' });

const moment = z
  .string()
  .refine((text) => isDate(text) || parseInstant(text) !== null, {
    error: 'must be a date such as 2027-12-25, or an ISO 8601 time with Z or an offset',
    abort: true,
  })
  .overwrite((text) => (isDate(text) ? text : formatInstant(parseInstant(text) ?? 0)));

const range = z
  .strictObject({
    from: moment.describe('First day, or first instant, of what is left out.'),
    to: moment.describe('Last day, or the instant at which runs begin again.'),
  })
  .check(({ value, issues }) => {
    const refuse = (message: string) => issues.push({ code: 'custom', path: ['to'], message, input: value.to });
    if (isDate(value.from) !== isDate(value.to))
      refuse('must be a date where from is one, and a time where from is one');
    else if (value.to < value.from) refuse('must not be earlier than from');
    else if (value.to === value.from && !isDate(value.to)) refuse('must be later than from');
  });

const excludedCron = z.strictObject({
  cron: text('Runs in the minutes (seconds) in which this would run are left out.'),
});

/** The member that tells each kind of exclusion that is an object, in the order of the union. */
export const EXCLUDE_KINDS = ['date', 'from', 'cron'] as const;

/** Times at which a schedule does not run. */
export const exclude = z.union([date, range, excludedCron], {
  error: 'must be a date such as "2027-12-25", an object with from and to, or one with cron',
});

export type Exclude = z.output<typeof exclude>;

function isDate(text: string): boolean {
  return DATE.test(text) && parseInstant(`${text}T00:00:00Z`) !== null;
}

function text(description: string) {
  return z
    .string()
    .refine((text) => text.length <= MAX_TEXT_LENGTH, { error: `must have at most ${MAX_TEXT_LENGTH} characters` })
    .describe(description);
}
