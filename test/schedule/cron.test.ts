import t from 'tap';
import { CronError, cronCalendar, cronSource } from '../../schedule/cron.ts';

const DAY_MS = 86_400_000;

function runs(cron: string, tz: string, after: string, count: number, dialect: 'unix' | 'celery' = 'unix'): string[] {
  const calendar = cronCalendar({ cron, tz, dialect });
  const found: string[] = [];
  for (let atMs = Date.parse(after); found.length < count; ) {
    const nextMs = calendar.next(atMs);
    if (nextMs === null) break;
    found.push(new Date(nextMs).toISOString().replace('.000', '').replace(':00Z', 'Z'));
    atMs = nextMs;
  }
  return found;
}

function refusal(cron: string, tz = 'UTC', dialect: 'unix' | 'celery' = 'unix'): string {
  try {
    cronCalendar({ cron, tz, dialect });
  } catch (error) {
    if (error instanceof CronError) return `${error.field} ${error.message}`;
    throw error;
  }
  return 'accepted';
}

type Rows = readonly (readonly [what: string, cron: string, zone: string, after: string, runs: readonly string[]])[];

const CLOCK_CHANGES: Rows = [
  [
    'a time of day keeps to the clocks',
    '0 9 * * *',
    'Europe/Berlin',
    '2027-03-27T00:00Z',
    ['2027-03-27T08:00Z', '2027-03-28T07:00Z', '2027-03-29T07:00Z'],
  ],
  [
    'a time that is passed over runs at the end of the gap',
    '30 2 * * *',
    'Europe/Berlin',
    '2027-03-27T12:00Z',
    ['2027-03-28T01:00Z', '2027-03-29T00:30Z'],
  ],
  [
    'several times of one gap make one run',
    '0,30 2 * * *',
    'Europe/Berlin',
    '2027-03-27T12:00Z',
    ['2027-03-28T01:00Z', '2027-03-29T00:00Z', '2027-03-29T00:30Z'],
  ],
  [
    'and none besides what runs at its end anyway',
    '0,30 2-3 * * *',
    'Europe/Berlin',
    '2027-03-27T12:00Z',
    ['2027-03-28T01:00Z', '2027-03-28T01:30Z', '2027-03-29T00:00Z'],
  ],
  [
    'a time that comes twice runs the first time',
    '30 2 * * *',
    'Europe/Berlin',
    '2027-10-30T12:00Z',
    ['2027-10-31T00:30Z', '2027-11-01T01:30Z'],
  ],
  [
    'asked in the second of the two hours as well',
    '30 2 * * *',
    'Europe/Berlin',
    '2027-10-31T01:10Z',
    ['2027-11-01T01:30Z'],
  ],
  [
    'every hour of real time, forward',
    '30 * * * *',
    'Europe/Berlin',
    '2027-03-27T23:45Z',
    ['2027-03-28T00:30Z', '2027-03-28T01:30Z', '2027-03-28T02:30Z'],
  ],
  [
    'every hour of real time, back',
    '30 * * * *',
    'Europe/Berlin',
    '2027-10-30T23:45Z',
    ['2027-10-31T00:30Z', '2027-10-31T01:30Z', '2027-10-31T02:30Z'],
  ],
  [
    'a full list of hours is every hour',
    '30 0-23 * * *',
    'Europe/Berlin',
    '2027-10-30T23:45Z',
    ['2027-10-31T00:30Z', '2027-10-31T01:30Z', '2027-10-31T02:30Z'],
  ],
  [
    'every second hour is not',
    '30 */2 * * *',
    'Europe/Berlin',
    '2027-10-30T22:00Z',
    ['2027-10-30T22:30Z', '2027-10-31T00:30Z', '2027-10-31T03:30Z'],
  ],
  [
    'every hour by Celery too',
    '30 */1 * * *',
    'Europe/Berlin',
    '2027-10-30T23:45Z',
    ['2027-10-31T00:30Z', '2027-10-31T01:30Z', '2027-10-31T02:30Z'],
  ],
  [
    'New York, forward',
    '15 2 * * *',
    'America/New_York',
    '2027-03-13T12:00Z',
    ['2027-03-14T07:00Z', '2027-03-15T06:15Z'],
  ],
  ['New York, back', '15 1 * * *', 'America/New_York', '2027-11-06T12:00Z', ['2027-11-07T05:15Z', '2027-11-08T06:15Z']],
  [
    'the date line and its hour are kept in New York',
    '0 0 * * 0',
    'America/New_York',
    '2027-11-06T12:00Z',
    ['2027-11-07T04:00Z', '2027-11-14T05:00Z'],
  ],
  [
    'half an hour back: minutes run through',
    '*/10 * * * *',
    'Australia/Lord_Howe',
    '2027-04-03T14:35Z',
    [
      '2027-04-03T14:40Z',
      '2027-04-03T14:50Z',
      '2027-04-03T15:00Z',
      '2027-04-03T15:10Z',
      '2027-04-03T15:20Z',
      '2027-04-03T15:30Z',
    ],
  ],
  [
    'half an hour back: whole hours are shown when they are',
    '0 * * * *',
    'Australia/Lord_Howe',
    '2027-04-03T13:30Z',
    ['2027-04-03T14:00Z', '2027-04-03T15:30Z', '2027-04-03T16:30Z'],
  ],
  [
    'half an hour back: the first of two',
    '45 1 * * *',
    'Australia/Lord_Howe',
    '2027-04-03T12:00Z',
    ['2027-04-03T14:45Z', '2027-04-04T15:15Z'],
  ],
  [
    'half an hour forward: the end of the gap',
    '15 2 * * *',
    'Australia/Lord_Howe',
    '2027-10-02T12:00Z',
    ['2027-10-02T15:30Z', '2027-10-03T15:15Z'],
  ],
  [
    'a zone off by half an hour',
    '0 9 * * *',
    'Asia/Kolkata',
    '2027-01-01T00:00Z',
    ['2027-01-01T03:30Z', '2027-01-02T03:30Z'],
  ],
  ['UTC', '30 2 * * *', 'UTC', '2027-03-27T12:00Z', ['2027-03-28T02:30Z', '2027-03-29T02:30Z']],
  [
    'a day that a zone skipped: the first instant after it',
    '0 12 * * *',
    'Pacific/Apia',
    '2011-12-29T00:00Z',
    ['2011-12-29T22:00Z', '2011-12-30T10:00Z', '2011-12-30T22:00Z'],
  ],
  [
    'a day that a zone skipped, every hour: not at all',
    '0 * 30 12 *',
    'Pacific/Apia',
    '2010-12-31T12:00Z',
    ['2012-12-29T10:00Z'],
  ],
  [
    'midnight that comes twice',
    '0 0 * * *',
    'America/Havana',
    '2027-11-06T12:00Z',
    ['2027-11-07T04:00Z', '2027-11-08T05:00Z'],
  ],
  [
    'a midnight that does not come',
    '0 0 * * *',
    'America/Sao_Paulo',
    '2018-11-03T12:00Z',
    ['2018-11-04T03:00Z', '2018-11-05T02:00Z'],
  ],
  [
    'a minute of the next day before the old one comes again',
    '0 0 * * *',
    'America/St_Johns',
    '2010-11-06T12:00Z',
    ['2010-11-07T02:30Z', '2010-11-08T03:30Z'],
  ],
  [
    'asked at the last moment before a gap',
    '30 2 * * *',
    'Europe/Berlin',
    '2027-03-28T00:59:59.500Z',
    ['2027-03-28T01:00Z', '2027-03-29T00:30Z'],
  ],
  [
    'an hour of the old day that comes again, though its cron has ended for the year',
    '50 * 6 11 *',
    'America/St_Johns',
    '2010-11-07T02:25Z',
    ['2010-11-07T03:20Z', '2011-11-06T03:20Z'],
  ],
  [
    'an offset with seconds',
    '0 0 * * *',
    'Africa/Monrovia',
    '1971-06-01T00:00Z',
    ['1971-06-01T00:44:30Z', '1971-06-02T00:44:30Z'],
  ],
  [
    'two hours forward at once',
    '30 1,2 * * *',
    'Antarctica/Troll',
    '2027-03-27T12:00Z',
    ['2027-03-28T01:00Z', '2027-03-28T23:30Z'],
  ],
];

const FIELDS: Rows = [
  [
    'seconds come first',
    '*/20 5 * * * *',
    'UTC',
    '2027-01-01T00:05:10Z',
    ['2027-01-01T00:05:20Z', '2027-01-01T00:05:40Z', '2027-01-01T01:05Z'],
  ],
  [
    'either of two restricted days',
    '0 0 13 * 5',
    'UTC',
    '2027-08-01T00:00Z',
    ['2027-08-06T00:00Z', '2027-08-13T00:00Z', '2027-08-20T00:00Z'],
  ],
  [
    'stepped days are restricted',
    '0 0 */10 * 5',
    'UTC',
    '2027-08-01T00:00Z',
    ['2027-08-06T00:00Z', '2027-08-11T00:00Z', '2027-08-13T00:00Z'],
  ],
  [
    'a question mark is an asterisk',
    '0 0 ? * 5',
    'UTC',
    '2027-08-01T00:00Z',
    ['2027-08-06T00:00Z', '2027-08-13T00:00Z'],
  ],
  ['Sunday is 0 and 7', '0 0 * * 7', 'UTC', '2027-08-01T00:00Z', ['2027-08-08T00:00Z']],
  [
    'ranges up to 7',
    '0 0 * * 6-7',
    'UTC',
    '2027-08-01T00:00Z',
    ['2027-08-07T00:00Z', '2027-08-08T00:00Z', '2027-08-14T00:00Z'],
  ],
  [
    'names',
    '0 0 1 jan,JUL Mon-fri',
    'UTC',
    '2027-01-29T12:00Z',
    ['2027-07-01T00:00Z', '2027-07-02T00:00Z', '2027-07-05T00:00Z'],
  ],
  ['the same twice', '5,5 0 * * *', 'UTC', '2027-01-01T00:00Z', ['2027-01-01T00:05Z', '2027-01-02T00:05Z']],
  [
    'overlapping ranges',
    '0 8-10,9-11 * * *',
    'UTC',
    '2027-01-01T09:30Z',
    ['2027-01-01T10:00Z', '2027-01-01T11:00Z', '2027-01-02T08:00Z'],
  ],
  [
    'from a value on',
    '5/20 0 * * *',
    'UTC',
    '2027-01-01T00:00Z',
    ['2027-01-01T00:05Z', '2027-01-01T00:25Z', '2027-01-01T00:45Z'],
  ],
  ['blanks of any kind', ' 0\t0  1 * * ', 'UTC', '2027-01-01T00:00Z', ['2027-02-01T00:00Z']],
  ['the last day', '0 0 L * *', 'UTC', '2028-01-31T00:00Z', ['2028-02-29T00:00Z', '2028-03-31T00:00Z']],
  ['days before the last', '0 0 L-3 * *', 'UTC', '2027-02-01T00:00Z', ['2027-02-25T00:00Z', '2027-03-28T00:00Z']],
  [
    'the last with single days',
    '0 0 1,15,L 2 *',
    'UTC',
    '2027-02-01T00:00Z',
    ['2027-02-15T00:00Z', '2027-02-28T00:00Z'],
  ],
  [
    'the last working day',
    '0 0 LW * *',
    'UTC',
    '2027-01-01T00:00Z',
    ['2027-01-29T00:00Z', '2027-02-26T00:00Z', '2027-03-31T00:00Z'],
  ],
  [
    'the working day nearest to a Saturday, a Sunday',
    '0 0 15W 5,8 *',
    'UTC',
    '2027-01-01T00:00Z',
    ['2027-05-14T00:00Z', '2027-08-16T00:00Z'],
  ],
  ['and not in another month', '0 0 1W 5,8 *', 'UTC', '2027-01-01T00:00Z', ['2027-05-03T00:00Z', '2027-08-02T00:00Z']],
  ['nor at its end', '0 0 31W 10 *', 'UTC', '2027-01-01T00:00Z', ['2027-10-29T00:00Z', '2028-10-31T00:00Z']],
  ['the last Friday', '0 0 * * 5L', 'UTC', '2027-01-01T00:00Z', ['2027-01-29T00:00Z', '2027-02-26T00:00Z']],
  ['by name', '0 0 * * friL', 'UTC', '2027-01-01T00:00Z', ['2027-01-29T00:00Z']],
  ['the second Tuesday', '0 0 * * 2#2', 'UTC', '2027-01-01T00:00Z', ['2027-01-12T00:00Z', '2027-02-09T00:00Z']],
  [
    'the fifth one, where there is one',
    '0 0 * * mon#5',
    'UTC',
    '2027-01-01T00:00Z',
    ['2027-03-29T00:00Z', '2027-05-31T00:00Z'],
  ],
  [
    'two of a month',
    '0 0 * * 1#1,1#3',
    'UTC',
    '2027-01-01T00:00Z',
    ['2027-01-04T00:00Z', '2027-01-18T00:00Z', '2027-02-01T00:00Z'],
  ],
  ['leap days', '0 0 29 2 *', 'UTC', '2093-01-01T00:00Z', ['2096-02-29T00:00Z', '2104-02-29T00:00Z']],
  ['@yearly', '@yearly', 'UTC', '2027-01-01T00:00Z', ['2028-01-01T00:00Z']],
  ['@monthly', '@monthly', 'UTC', '2027-01-01T00:00Z', ['2027-02-01T00:00Z']],
  ['@weekly', '@weekly', 'UTC', '2027-01-01T00:00Z', ['2027-01-03T00:00Z']],
  ['@midnight', '@midnight', 'UTC', '2027-01-01T00:00Z', ['2027-01-02T00:00Z']],
  ['@hourly', '@hourly', 'Asia/Kolkata', '2027-01-01T00:00Z', ['2027-01-01T00:30Z']],
  ['@secondly', '@secondly', 'UTC', '2027-01-01T00:00Z', ['2027-01-01T00:00:01Z']],
];

for (const [title, rows] of [
  ['when clocks change', CLOCK_CHANGES],
  ['fields', FIELDS],
] as const) {
  t.test(title, async (t) => {
    for (const [what, cron, zone, after, expected] of rows) {
      t.strictSame(runs(cron, zone, after, expected.length), expected, `${what}: ${cron} in ${zone}`);
    }
  });
}

t.test('a series ends with the year 9999', async (t) => {
  t.strictSame(runs('0 0 31 12 *', 'UTC', '9998-06-01T00:00Z', 9), ['9998-12-31T00:00Z', '9999-12-31T00:00Z']);
});

t.test('between two instants of one second nothing is lost', async (t) => {
  const calendar = cronCalendar({ cron: '0 * * * *', tz: 'UTC', dialect: 'unix' });
  t.equal(calendar.next(3_599_999), 3_600_000);
  t.equal(calendar.next(3_600_000), 7_200_000);
  t.equal(calendar.next(3_600_001), 7_200_000);
  t.equal(calendar.next(-DAY_MS), 0);
});

t.test('the Celery dialect joins the days by AND, the Unix dialect by OR', async (t) => {
  t.strictSame(runs('0 0 13 * 5', 'UTC', '2027-01-01T00:00Z', 2, 'celery'), ['2027-08-13T00:00Z', '2028-10-13T00:00Z']);
});

t.test('what is no cron is refused by what is wrong with it', async (t) => {
  const cases: readonly (readonly [cron: string, says: RegExp])[] = [
    ['', /^cron must have 5 fields .* got 0$/],
    ['   ', /got 0$/],
    ['* * * *', /got 4$/],
    ['* * * * * * *', /got 7$/],
    ['@reboot', /^cron must be one of @yearly, .* got @reboot$/],
    ['@Daily', /got @Daily$/],
    ['@daily 1', /got @daily 1$/],
    ['60 * * * *', /^cron has minute "60", which is refused: /],
    ['* 24 * * *', /has hour "24"/],
    ['* * 0 * *', /has day of month "0"/],
    ['* * 32 * *', /has day of month "32"/],
    ['* * * 13 *', /has month "13"/],
    ['* * * * 8', /has day of week "8"/],
    ['60 * * * * *', /has second "60"/],
    ['0 0 1-5,L * *', /has day of month "1-5,L", in which "L" may stand in a list with single values only/],
    ['0 0 */5,15W * *', /in which "15W" may stand/],
    ['0 0 * * 1-5,5L', /in which "5L" may stand/],
    ['0 0 * * 1-5,L', /in which "L" is unknown/],
    ['0 0 * * L', /in which "L" is unknown/],
    ['L * * * *', /has minute "L"/],
    ['0 0 32W * *', /"32W" is no day from 1 to 31/],
    ['0 0 L-31 * *', /"L-31" must count back 1 to 30 days/],
    ['0 0 L-0 * *', /"L-0" must count back/],
    ['0 0 * * 1#6', /"1#6" is unknown/],
    ['0 0 * * 1#0', /"1#0" is unknown/],
    ['0 0 * * abc', /has day of week "abc"/],
    ['0 0 * * abcL', /"abc" is no weekday/],
    ['0 0 * * sun5', /"sun5" is unknown/],
    ['0 0 * mon *', /has month "mon"/],
    ['jan * * * *', /has minute "jan"/],
    ['5-1 * * * *', /has minute "5-1"/],
    ['0 0 * * fri-mon', /has day of week "fri-mon"/],
    ['1,,2 * * * *', /has minute "1,,2", which has an empty item/],
    [', * * * *', /empty item/],
    ['*/0 * * * *', /has minute "\*\/0"/],
    ['*/-1 * * * *', /unknown/],
    ['1.5 * * * *', /unknown/],
    ['0x10 * * * *', /unknown/],
    ['1e1 * * * *', /unknown/],
    ['*5 * * * *', /unknown/],
    ['1-2-3 * * * *', /unknown/],
    ['0 1-H * * *', /unknown/],
    ['0 0 31 2 *', /^cron never comes: no day has day of month "31" in month "2"$/],
    ['0 0 30,31 2 *', /never comes/],
    ['0 0 31 2,4,6,9,11 *', /never comes/],
    ['0 0 31W 6 *', /never comes/],
    [`${'1,'.repeat(600)}1 * * * *`, /must have at most 1000 characters/],
  ];
  for (const [cron, says] of cases) t.match(refusal(cron), says, JSON.stringify(cron));
});

t.test('a day that either field may allow comes, even if one of them never does', async (t) => {
  t.equal(refusal('0 0 31 2 1'), 'accepted');
  t.match(refusal('0 0 31 2 1', 'UTC', 'celery'), /never comes: .* in month "2" and is of day of week "1"/);
  t.equal(refusal('0 0 29 2 1', 'UTC', 'celery'), 'accepted', 'every 28 years');
});

t.test('what is no time zone is refused for the field tz', async (t) => {
  for (const tz of ['', 'Mars/Olympus', 'local', '+01:00', 'UTC+1', 'Europe/Berlin ', 'x'.repeat(10_000)])
    t.match(
      refusal('0 0 * * *', tz),
      /^tz must be the IANA name of a time zone, such as Europe\/Berlin, got "/,
      tz.slice(0, 20),
    );
  for (const tz of ['UTC', 'Etc/UTC', 'GMT', 'europe/berlin', 'America/Argentina/Buenos_Aires'])
    t.equal(refusal('0 0 * * *', tz), 'accepted', tz);
});

t.test('H gives each id its own time, always the same', async (t) => {
  const first = (cron: string, id: string) =>
    cronCalendar(cronSource({ cron, tz: 'UTC', dialect: 'unix' }, id)).next(-1);
  const ids = Array.from({ length: 200 }, (_, index) => `tenant-${index}`);
  t.strictSame(
    ids.map((id) => first('H H * * *', id)),
    ids.map((id) => first('H H * * *', id)),
  );
  t.ok(new Set(ids.map((id) => first('H H * * *', id))).size > 150, 'spread over the day');
  t.ok(
    ids.every((id) => (first('H(0-9) * * * *', id) ?? 0) < 600_000),
    'within a range',
  );
  t.ok(new Set(ids.map((id) => first('H/15 * * * *', id))).size <= 15, 'with a step');
});

t.test('only what H makes different depends on the id', async (t) => {
  const source = (cron: string, dialect: 'unix' | 'celery' = 'unix') => cronSource({ cron, tz: 'UTC', dialect }, 'id');
  t.equal(source('H 0 * * *').seed, 'id');
  t.equal(source('0,H(3-5) 0 * * *').seed, 'id');
  t.equal(source('0 0 * * THU').seed, undefined);
  t.equal(source('0 0 * MARCH *').seed, undefined);
  t.equal(source('0 0 * * thu', 'celery').seed, undefined);
  t.strictSame(source(' 0  0 * * * '), source('0 0 * * *'));
});
