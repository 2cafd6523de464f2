import { readFileSync } from 'node:fs';
import t from 'tap';
import { CronError, cronCalendar } from '../../schedule/cron.ts';
import { parseCeleryCron } from '../../schedule/cron-celery.ts';
import type { CronTexts } from '../../schedule/cron-fields.ts';

type CeleryField = 'minute' | 'hour' | 'day of month' | 'month' | 'day of week';

/** What real Celery makes of crons; written by celery-crontab.py beside it. */
interface Fixture {
  readonly celery: string;
  readonly fields: readonly (readonly [field: CeleryField, text: string, values: readonly number[] | null])[];
  readonly runs: readonly (readonly [
    cron: string,
    zone: string,
    afterSec: number,
    nextSec: number | null,
    followingSec: number | null,
  ])[];
}

const FIXTURE = new URL('../../../test/fixtures/celery-crontab.json', import.meta.url);
const { celery, fields, runs } = JSON.parse(readFileSync(FIXTURE, 'utf8')) as Fixture;

const MEMBERS: Readonly<Record<CeleryField, keyof CronTexts>> = {
  minute: 'minute',
  hour: 'hour',
  'day of month': 'dayOfMonth',
  month: 'month',
  'day of week': 'dayOfWeek',
};

function valuesOf(field: CeleryField, text: string): readonly number[] | null {
  const every: CronTexts = { second: null, minute: '*', hour: '*', dayOfMonth: '*', month: '*', dayOfWeek: '*' };
  try {
    const parsed = parseCeleryCron({ ...every, [MEMBERS[field]]: text });
    return {
      minute: parsed.minutes,
      hour: parsed.hours,
      month: parsed.months,
      'day of month': parsed.daysOfMonth.flatMap((rule) => (rule.kind === 'day' ? [rule.day] : [])),
      'day of week': parsed.daysOfWeek.map(({ weekday }) => weekday),
    }[field];
  } catch (error) {
    if (error instanceof CronError) return null;
    throw error;
  }
}

function nextTwo(cron: string, zone: string, afterSec: number): readonly (number | null)[] {
  try {
    const calendar = cronCalendar({ cron, tz: zone, dialect: 'celery' });
    const nextMs = calendar.next(afterSec * 1_000);
    const followingMs = nextMs === null ? null : calendar.next(nextMs);
    return [nextMs, followingMs].map((atMs) => (atMs === null ? null : atMs / 1_000));
  } catch (error) {
    if (error instanceof CronError) return [null, null];
    throw error;
  }
}

t.test(
  `fields hold the values that crontab_parser of Celery ${celery} gives them, or are refused as by it`,
  async (t) => {
    t.ok(fields.length > 700);
    for (const [field, text, values] of fields) t.strictSame(valuesOf(field, text), values, `${field} "${text}"`);
  },
);

t.test(`runs are those of crontab of Celery ${celery}`, async (t) => {
  t.ok(runs.length > 1_500);
  for (const [cron, zone, afterSec, nextSec, followingSec] of runs) {
    t.strictSame(nextTwo(cron, zone, afterSec), [nextSec, followingSec], `"${cron}" in ${zone} after ${afterSec}`);
  }
});

t.test('what Celery passes over silently is refused', async (t) => {
  for (const text of ['1-5-7', '1-5 ', '*/5x', '1-5/2/3', '1-5,*/2-', '1_0'])
    t.equal(valuesOf('minute', text), null, text);
});

t.test('seconds and names of whole crons are read as in the Unix dialect', async (t) => {
  t.strictSame(nextTwo('30 22-2 * * * *', 'UTC', 0), [30, 90]);
  t.strictSame(nextTwo('@weekly', 'UTC', 0), [259_200, 864_000]);
});
