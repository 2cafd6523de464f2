import t from 'tap';
import { calendarOf, calendarText, lastUntil } from '../../schedule/calendar.ts';
import { CronError } from '../../schedule/cron.ts';

const nine = { cron: '0 9 * * *', tz: 'Europe/Berlin', dialect: 'unix' } as const;

t.test('equal crons are one calendar, whoever uses them and whenever they start', async (t) => {
  const text = calendarText(nine, 'a', null);
  t.equal(calendarText({ ...nine, cron: ' 0  9 * * * ' }, 'b', 5_000), text);
  t.equal(calendarOf(text), calendarOf(text));
});

t.test('what makes times differ makes another calendar', async (t) => {
  const texts = [
    calendarText(nine, 'a', null),
    calendarText({ ...nine, tz: 'UTC' }, 'a', null),
    calendarText({ ...nine, dialect: 'celery' }, 'a', null),
    calendarText({ ...nine, cron: '0 10 * * *' }, 'a', null),
    calendarText({ ...nine, cron: 'H 9 * * *' }, 'a', null),
    calendarText({ ...nine, cron: 'H 9 * * *' }, 'b', null),
    calendarText({ rrule: 'FREQ=DAILY', tz: 'UTC' }, 'a', null),
    calendarText({ rrule: 'FREQ=DAILY', tz: 'UTC' }, 'a', 5_000),
    calendarText({ solar: 'sunrise', lat: 52.5, lon: 13.4 }, 'a', null),
    calendarText({ solar: 'sunset', lat: 52.5, lon: 13.4 }, 'a', null),
  ];
  t.equal(new Set(texts).size, texts.length);
});

t.test('an rrule with a beginning of its own does not depend on start', async (t) => {
  const rrule = { rrule: 'DTSTART:20270101T090000\nRRULE:FREQ=DAILY', tz: 'UTC' };
  t.equal(calendarText(rrule, 'a', 5_000), calendarText(rrule, 'b', null));
});

t.test('a calendar of each kind tells its next time', async (t) => {
  const afterMs = Date.UTC(2027, 5, 1);
  const next = (...args: Parameters<typeof calendarText>) => calendarOf(calendarText(...args)).next(afterMs);
  t.equal(next(nine, 'a', null), Date.UTC(2027, 5, 1, 7));
  t.equal(next({ rrule: 'FREQ=DAILY;BYHOUR=9', tz: 'Europe/Berlin' }, 'a', null), Date.UTC(2027, 5, 1, 7));
  t.ok((next({ solar: 'sunrise', lat: 52.5, lon: 13.4 }, 'a', null) ?? 0) > afterMs);
});

t.test('the last time before an instant is found within reach', async (t) => {
  const calendar = calendarOf(calendarText(nine, 'a', null));
  const runMs = Date.UTC(2027, 5, 1, 7);
  const hourMs = 3_600_000;
  t.equal(lastUntil(calendar, runMs, 24 * hourMs), runMs);
  t.equal(lastUntil(calendar, runMs - 1, 24 * hourMs), runMs - 24 * hourMs);
  t.equal(lastUntil(calendar, runMs + 5 * hourMs, 5 * hourMs), runMs);
  t.equal(lastUntil(calendar, runMs + 5 * hourMs, 5 * hourMs - 1), null);
  t.equal(lastUntil(calendar, runMs + 5 * hourMs, 0), null);
});

t.test('what cannot be used is refused', async (t) => {
  t.throws(() => calendarOf(calendarText({ ...nine, cron: 'x' }, 'a', null)), CronError);
  t.throws(() => calendarOf(calendarText({ ...nine, cron: '0 0 31 2 *' }, 'a', null)), CronError);
  t.throws(() => calendarOf(calendarText({ ...nine, tz: 'Mars/Olympus' }, 'a', null)), CronError);
});

t.test('calendars that were dropped for others are compiled again', async (t) => {
  const text = calendarText(nine, 'a', null);
  const before = calendarOf(text).next(0);
  for (let hour = 0; hour < 24; hour++) {
    for (let minute = 0; minute < 200; minute++) {
      calendarOf(
        calendarText({ ...nine, cron: `${minute % 60} ${hour} ${1 + (minute % 7)} * *`, dialect: 'celery' }, 'a', null),
      );
    }
  }
  t.equal(calendarOf(text).next(0), before);
});
