import t from 'tap';
import { cronsAt } from '../../bench/crons-at.ts';
import { calendarOf, calendarText } from '../../schedule/calendar.ts';

const HOUR_MS = 3_600_000;

t.test('all crons meet at the instant, and none of them runs in the hour before', async (t) => {
  for (const instant of [
    '2026-11-21T07:33:20Z',
    '2026-12-31T23:59:59Z',
    '2027-01-01T00:00:00Z',
    '2027-02-28T18:30:00Z',
    '2027-06-15T13:45:07Z',
  ]) {
    const dueMs = Date.parse(instant);
    const crons = cronsAt(dueMs);
    t.equal(new Set(crons).size, crons.length, 'each is another');
    for (const cron of crons) {
      const calendar = calendarOf(calendarText(JSON.parse(cron), 'any', null));
      t.equal(calendar.next(dueMs - HOUR_MS), dueMs, `${cron} at ${instant}`);
    }
  }
});

t.test('an instant is taken to the second', async (t) => {
  const [first] = cronsAt(Date.parse('2027-06-15T13:45:07Z'));
  t.same(JSON.parse(first!), { cron: '7 45 13 * * *', tz: 'UTC' });
});
