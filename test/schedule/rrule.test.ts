import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { DateTime } from 'luxon';
import t from 'tap';
import { cronCalendar } from '../../schedule/cron.ts';
import { RruleError, rruleCalendar } from '../../schedule/rrule.ts';

interface Table {
  readonly rows: readonly (readonly [dtstart: string, rule: string, after: string, next: readonly string[]])[];
}

/** See test/fixtures/dateutil-rrule.py. */
const DATEUTIL = JSON.parse(
  readFileSync(new URL('../../../test/fixtures/dateutil-rrule.json', import.meta.url), 'utf8'),
) as Table;

/** 20270131T090000 as an instant. */
function utc(stamp: string): number {
  return DateTime.fromFormat(stamp, "yyyyMMdd'T'HHmmss", { zone: 'utc' }).toMillis();
}

function runs(text: string, tz: string, afterMs: number, count: number, anchorMs: number | null = null): number[] {
  const calendar = rruleCalendar(text, tz, anchorMs);
  const found: number[] = [];
  for (let atMs = calendar.next(afterMs); atMs !== null && found.length < count; atMs = calendar.next(atMs)) {
    found.push(atMs);
  }
  return found;
}

/** As the clocks of the zone show it, with the offset. */
function local(atMs: number, tz: string): string {
  return DateTime.fromMillis(atMs, { zone: tz })
    .toFormat('yyyy-MM-dd HH:mm:ssZZ')
    .replace(':00+', '+')
    .replace(':00-', '-');
}

/** The next runs after an instant, as the clocks show them. */
function shown(text: string, tz: string, after: string, count: number): string[] {
  return runs(text, tz, Date.parse(after), count).map((atMs) => local(atMs, tz));
}

t.test('rules mean what they mean to dateutil', async (t) => {
  for (const [dtstart, rule, after, next] of DATEUTIL.rows) {
    let found: number[];
    try {
      found = runs(`DTSTART:${dtstart}Z\nRRULE:${rule}`, 'UTC', utc(after), next.length === 0 ? 1 : 5);
    } catch (error) {
      // Such a rule is refused; dateutil only finds nothing.
      if (next.length > 0 || !(error instanceof RruleError)) throw error;
      continue;
    }
    t.strictSame(found, next.map(utc), `${dtstart} ${rule} after ${after}`);
  }
});

const BERLIN = 'Europe/Berlin';

/** Berlin's clocks go from 2:00 to 3:00 on 2027-03-28, and from 3:00 back to 2:00 on 2027-10-31. */
const CLOCK_CHANGES: readonly (readonly [name: string, rule: string, tz: string, after: string, runs: string[]])[] = [
  [
    'a local time in the gap comes at the first instant after it',
    'FREQ=DAILY;BYHOUR=2;BYMINUTE=30',
    BERLIN,
    '2027-03-26T12:00Z',
    ['2027-03-27 02:30+01:00', '2027-03-28 03:00+02:00', '2027-03-29 02:30+02:00'],
  ],
  [
    'several local times in one gap make one run',
    'FREQ=DAILY;BYHOUR=2,3;BYMINUTE=0,20,40',
    BERLIN,
    '2027-03-27T23:00Z',
    ['2027-03-28 03:00+02:00', '2027-03-28 03:20+02:00', '2027-03-28 03:40+02:00', '2027-03-29 02:00+02:00'],
  ],
  [
    'a local time that comes twice runs the first time',
    'FREQ=DAILY;BYHOUR=2;BYMINUTE=30',
    BERLIN,
    '2027-10-30T12:00Z',
    ['2027-10-31 02:30+02:00', '2027-11-01 02:30+01:00'],
  ],
  [
    'asked from the second of two equal hours, it does not run again',
    'FREQ=DAILY;BYHOUR=2;BYMINUTE=30,50',
    BERLIN,
    '2027-10-31T01:10Z',
    ['2027-11-01 02:30+01:00'],
  ],
  [
    'every hour runs in both of two equal hours',
    'FREQ=HOURLY;BYMINUTE=30',
    BERLIN,
    '2027-10-30T23:40Z',
    ['2027-10-31 02:30+02:00', '2027-10-31 02:30+01:00', '2027-10-31 03:30+01:00'],
  ],
  [
    'every hour, written out, is every hour',
    `FREQ=DAILY;BYMINUTE=30;BYHOUR=${Array.from({ length: 24 }, (_, hour) => hour).join(',')}`,
    BERLIN,
    '2027-10-30T23:40Z',
    ['2027-10-31 02:30+02:00', '2027-10-31 02:30+01:00', '2027-10-31 03:30+01:00'],
  ],
  [
    'every hour does not run in the gap',
    'FREQ=HOURLY;BYMINUTE=30',
    BERLIN,
    '2027-03-28T00:00Z',
    ['2027-03-28 01:30+01:00', '2027-03-28 03:30+02:00'],
  ],
  [
    'hours between count in real time',
    'DTSTART:20270327T000000\nRRULE:FREQ=HOURLY;INTERVAL=6',
    BERLIN,
    '2027-03-27T16:00Z',
    ['2027-03-27 18:00+01:00', '2027-03-28 00:00+01:00', '2027-03-28 07:00+02:00', '2027-03-28 13:00+02:00'],
  ],
  [
    'hours between may match in summer only',
    'DTSTART:20270103T233000\nRRULE:FREQ=HOURLY;INTERVAL=168;BYDAY=MO',
    BERLIN,
    '2027-01-01T12:00Z',
    ['2027-03-29 00:30+02:00', '2027-04-05 00:30+02:00'],
  ],
  [
    'minutes of named hours run once each',
    'FREQ=MINUTELY;INTERVAL=30;BYHOUR=2',
    BERLIN,
    '2027-10-30T12:00Z',
    ['2027-10-31 02:00+02:00', '2027-10-31 02:30+02:00', '2027-11-01 02:00+01:00'],
  ],
  [
    'a change of half an hour: the minute stays',
    'FREQ=HOURLY;BYMINUTE=0',
    'Australia/Lord_Howe',
    '2027-04-03T13:30Z',
    ['2027-04-04 01:00+11:00', '2027-04-04 02:00+10:30', '2027-04-04 03:00+10:30'],
  ],
  [
    'a change of half an hour: each ten minutes of real time',
    'FREQ=MINUTELY;INTERVAL=10',
    'Australia/Lord_Howe',
    '2027-04-03T14:41:00Z',
    ['2027-04-04 01:50+11:00', '2027-04-04 01:30+10:30', '2027-04-04 01:40+10:30', '2027-04-04 01:50+10:30'],
  ],
  [
    'a gap of half an hour',
    'FREQ=DAILY;BYHOUR=2;BYMINUTE=15',
    'Australia/Lord_Howe',
    '2027-10-01T20:00Z',
    ['2027-10-03 02:30+11:00', '2027-10-04 02:15+11:00'],
  ],
  [
    'a day that a zone left out',
    'DTSTART:20111228T090000\nFREQ=DAILY',
    'Pacific/Apia',
    '2011-12-29T00:00Z',
    ['2011-12-29 09:00-10:00', '2011-12-31 00:00+14:00', '2011-12-31 09:00+14:00'],
  ],
  [
    'a zone without changes',
    'FREQ=WEEKLY;BYDAY=MO;BYHOUR=9;BYMINUTE=0',
    'Asia/Kolkata',
    '2027-03-26T12:00Z',
    ['2027-03-29 09:00+05:30', '2027-04-05 09:00+05:30'],
  ],
];

for (const [name, rule, tz, after, expected] of CLOCK_CHANGES) {
  t.test(name, async (t) => t.strictSame(shown(rule, tz, after, expected.length), expected));
}

t.test('without a DTSTART the series begins at the anchor, or at midnight of 1970-01-01', async (t) => {
  t.strictSame(shown('FREQ=DAILY', BERLIN, '2027-01-01T12:00Z', 1), ['2027-01-02 00:00+01:00']);
  const anchorMs = Date.parse('2027-01-01T08:30:00.001Z');
  const [first, second] = runs('FREQ=WEEKLY', BERLIN, 0, 2, anchorMs);
  t.strictSame(
    [local(first ?? 0, BERLIN), local(second ?? 0, BERLIN)],
    ['2027-01-01 09:30:01+01:00', '2027-01-08 09:30:01+01:00'],
  );
});

t.test('COUNT ends the series, and DTSTART counts only if it matches', async (t) => {
  const rule = 'DTSTART;TZID=Europe/Berlin:20270101T090000\nRRULE:FREQ=WEEKLY;BYDAY=MO;COUNT=2';
  t.strictSame(shown(rule, BERLIN, '1970-01-01T00:00Z', 9), ['2027-01-04 09:00+01:00', '2027-01-11 09:00+01:00']);
  t.strictSame(shown(rule, BERLIN, '2027-01-04T08:00:00Z', 9), ['2027-01-11 09:00+01:00']);
  t.strictSame(shown(rule, BERLIN, '2027-01-11T08:00:00Z', 9), []);
  t.equal(runs('DTSTART:20270101T000000Z\nFREQ=SECONDLY;COUNT=1000', 'UTC', 0, 2_000).length, 1_000);
});

t.test('UNTIL may be an instant, a local time or a whole day, and is part of the series', async (t) => {
  const until = (text: string) =>
    shown(`DTSTART:20270101T090000\nFREQ=DAILY;UNTIL=${text}`, BERLIN, '2027-01-02T12:00Z', 9);
  t.strictSame(until('20270103T080000Z'), ['2027-01-03 09:00+01:00']);
  t.strictSame(until('20270103T075959Z'), []);
  t.strictSame(until('20270103T090000'), ['2027-01-03 09:00+01:00']);
  t.strictSame(until('20270103'), ['2027-01-03 09:00+01:00']);
});

t.test('both notations of a rule, capitals or not', async (t) => {
  for (const text of [
    'FREQ=DAILY;BYHOUR=9',
    'RRULE:FREQ=DAILY;BYHOUR=9',
    ' rrule:freq=daily;byhour=9; ',
    'DTSTART:19700101T000000\r\nRRULE:FREQ=DAILY;BYHOUR=9\r\n',
    'DTSTART;VALUE=DATE:19700101\nRRULE:FREQ=DAILY;BYHOUR=9',
    'DTSTART;TZID=Europe/Berlin:19700101T000000\nFREQ=DAILY;BYHOUR=9',
    'dtstart;value=date-time;tzid=Europe/Berlin:19700101T000000\nFREQ=DAILY;BYHOUR=9',
    'DTSTART:19700101T230000Z\nFREQ=DAILY;BYHOUR=9',
  ]) {
    t.strictSame(shown(text, BERLIN, '2027-01-01T12:00Z', 1), ['2027-01-02 09:00+01:00'], text);
  }
});

/** [rule, zone, field, a word of the message] */
const REFUSED: readonly (readonly [rule: string, tz: string, field: string, word: RegExp])[] = [
  ['', 'UTC', 'rrule', /FREQ=DAILY/],
  ['DAILY', 'UTC', 'rrule', /parts like/],
  ['INTERVAL=2', 'UTC', 'rrule', /must have FREQ/],
  ['FREQ=NEVER', 'UTC', 'rrule', /YEARLY/],
  ['FREQ=DAILY;FREQ=WEEKLY', 'UTC', 'rrule', /only once/],
  ['FREQ=DAILY;COLOUR=RED', 'UTC', 'rrule', /COLOUR/],
  ['FREQ=DAILY;;BYHOUR=9', 'UTC', 'rrule', /parts like/],
  ['FREQ=DAILY;BYHOUR=', 'UTC', 'rrule', /parts like/],
  ['FREQ=DAILY;INTERVAL=0', 'UTC', 'rrule', /INTERVAL=0.*from 1/],
  ['FREQ=DAILY;INTERVAL=1.5', 'UTC', 'rrule', /INTERVAL=1.5/],
  ['FREQ=DAILY;INTERVAL=99999999999999999999', 'UTC', 'rrule', /INTERVAL/],
  ['FREQ=DAILY;BYHOUR=24', 'UTC', 'rrule', /BYHOUR=24.*0 to 23/],
  ['FREQ=DAILY;BYHOUR=-1', 'UTC', 'rrule', /BYHOUR/],
  ['FREQ=DAILY;BYMINUTE=60', 'UTC', 'rrule', /BYMINUTE/],
  ['FREQ=DAILY;BYSECOND=60', 'UTC', 'rrule', /BYSECOND/],
  ['FREQ=MONTHLY;BYMONTHDAY=0', 'UTC', 'rrule', /BYMONTHDAY/],
  ['FREQ=MONTHLY;BYMONTHDAY=32', 'UTC', 'rrule', /BYMONTHDAY/],
  ['FREQ=YEARLY;BYMONTH=-1', 'UTC', 'rrule', /BYMONTH/],
  ['FREQ=YEARLY;BYYEARDAY=367', 'UTC', 'rrule', /BYYEARDAY/],
  ['FREQ=YEARLY;BYWEEKNO=54', 'UTC', 'rrule', /BYWEEKNO/],
  ['FREQ=WEEKLY;BYDAY=XX', 'UTC', 'rrule', /XX/],
  ['FREQ=WEEKLY;BYDAY=MO,', 'UTC', 'rrule', /BYDAY/],
  ['FREQ=WEEKLY;BYDAY=1MO', 'UTC', 'rrule', /MONTHLY and YEARLY/],
  ['FREQ=MONTHLY;BYDAY=0MO', 'UTC', 'rrule', /BYDAY/],
  ['FREQ=YEARLY;BYDAY=1MO;BYWEEKNO=3', 'UTC', 'rrule', /BYWEEKNO/],
  ['FREQ=DAILY;BYSETPOS=1', 'UTC', 'rrule', /BYSETPOS/],
  ['FREQ=YEARLY;BYEASTER=0', 'UTC', 'rrule', /BYEASTER/],
  ['FREQ=DAILY;WKST=8', 'UTC', 'rrule', /WKST/],
  ['FREQ=DAILY;UNTIL=20270230', 'UTC', 'rrule', /UNTIL 20270230/],
  ['FREQ=DAILY;UNTIL=2027-01-01', 'UTC', 'rrule', /UNTIL/],
  ['FREQ=DAILY;COUNT=0', 'UTC', 'rrule', /COUNT=0/],
  ['FREQ=DAILY;COUNT=10001', 'UTC', 'rrule', /max_runs/],
  ['FREQ=DAILY;COUNT=3', 'UTC', 'rrule', /DTSTART/],
  ['FREQ=DAILY\nFREQ=WEEKLY', 'UTC', 'rrule', /exactly one/],
  ['DTSTART:20270101T000000Z', 'UTC', 'rrule', /exactly one/],
  ['DTSTART:20270101T000000\nDTSTART:20270101T000000\nFREQ=DAILY', 'UTC', 'rrule', /DTSTART/],
  ['DTSTART:yesterday\nFREQ=DAILY', 'UTC', 'rrule', /DTSTART/],
  ['DTSTART;TZID=UTC:20270101T000000Z\nFREQ=DAILY', 'UTC', 'rrule', /TZID/],
  ['DTSTART:20270101T000000Z\nRRULE:FREQ=DAILY\nEXDATE:20270102T000000Z', 'UTC', 'rrule', /exactly one/],
  ['EXDATE:20270102T000000Z', 'UTC', 'rrule', /exclude/],
  ['DTSTART;TZID=Europe/Berlin:20270101T000000\nFREQ=DAILY', 'UTC', 'tz', /Europe\/Berlin/],
  ['FREQ=DAILY', 'Europe/Nowhere', 'tz', /zone/],
  ['FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30', 'UTC', 'rrule', /never/],
  ['FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30', 'UTC', 'rrule', /never/],
  ['FREQ=MINUTELY;INTERVAL=1440;BYHOUR=3', 'UTC', 'rrule', /never/],
  ['FREQ=MONTHLY;BYHOUR=2;BYSETPOS=4', 'UTC', 'rrule', /never/],
  ['DTSTART:20270101T000000Z\nFREQ=DAILY;UNTIL=20261231T000000Z', 'UTC', 'rrule', /never/],
];

for (const [rule, tz, field, word] of REFUSED) {
  t.test(`refuses ${JSON.stringify(rule)} in ${tz}`, async (t) => {
    t.throws(() => rruleCalendar(rule, tz, null), { field, message: word });
  });
}

const zones = fc.constantFrom('UTC', BERLIN, 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kolkata', 'Pacific/Apia');
const instants = fc.integer({ min: Date.UTC(2010, 0, 1), max: Date.UTC(2035, 0, 1) });
/** Instants near the changes of the clocks in one zone or another. */
const restless = fc
  .tuple(
    fc.constantFrom(
      '2027-03-28T01:00Z',
      '2027-10-31T01:00Z',
      '2027-04-03T15:00Z',
      '2027-10-02T15:30Z',
      '2027-03-14T07:00Z',
      '2027-11-07T06:00Z',
      '2011-12-30T10:00Z',
    ),
    fc.integer({ min: -48 * 3_600, max: 48 * 3_600 }),
  )
  .map(([change, seconds]) => Date.parse(change) + seconds * 1_000);
const moments = fc.oneof(instants, restless);

function fields(max: number, minLength = 1) {
  return fc
    .uniqueArray(fc.integer({ min: 0, max }), { minLength, maxLength: 3 })
    .map((values) => values.sort((one, other) => one - other).join(','));
}

t.test('a rule that says what a cron says runs when that does', async () => {
  fc.assert(
    fc.property(
      fields(59),
      fc.option(fields(23)),
      fc.option(fields(6)),
      zones,
      moments,
      (minutes, hours, weekdays, tz, afterMs) => {
        const days = weekdays?.split(',').map((day) => ['SU', 'MO', 'TU', 'WE', 'TH', 'FR', 'SA'][Number(day)]);
        const byDay = days === undefined ? '' : `;BYDAY=${days.join(',')}`;
        const frequency = hours === null ? 'FREQ=HOURLY' : `FREQ=DAILY;BYHOUR=${hours}`;
        const rule = rruleCalendar(`${frequency};BYMINUTE=${minutes};BYSECOND=0${byDay}`, tz, null);
        const cron = cronCalendar({ cron: `${minutes} ${hours ?? '*'} * * ${weekdays ?? '*'}`, tz, dialect: 'unix' });
        for (let count = 0, atMs = afterMs; count < 6; count++) {
          const nextMs = rule.next(atMs);
          if (nextMs !== cron.next(atMs)) throw new Error(`after ${atMs}: rrule ${nextMs}, cron ${cron.next(atMs)}`);
          atMs = nextMs ?? 0;
        }
      },
    ),
    { seed: 5545, numRuns: 2_000 },
  );
});

const rules = fc
  .record({
    freq: fc.constantFrom('YEARLY', 'MONTHLY', 'WEEKLY', 'DAILY', 'HOURLY', 'MINUTELY', 'SECONDLY'),
    interval: fc.constantFrom(1, 2, 3, 7, 90),
    hours: fc.option(fields(23)),
    minutes: fc.option(fields(59)),
    day: fc.option(fc.constantFrom('MO', 'SA,SU', 'TU,WE,TH')),
    position: fc.option(fc.constantFrom(1, -1)),
  })
  .map(({ freq, interval, hours, minutes, day, position }) => {
    const by = [
      ...(hours === null ? [] : [`BYHOUR=${hours}`]),
      ...(minutes === null ? [] : [`BYMINUTE=${minutes}`]),
      ...(day === null ? [] : [`BYDAY=${day}`]),
    ];
    const set = position === null || by.length === 0 ? [] : [`BYSETPOS=${position}`];
    return [`FREQ=${freq}`, `INTERVAL=${interval}`, ...by, ...set].join(';');
  });

t.test('no run is found twice or left out, wherever the search begins', async () => {
  fc.assert(
    fc.property(rules, zones, moments, fc.nat(200_000_000), (rule, tz, afterMs, stepMs) => {
      let calendar: ReturnType<typeof rruleCalendar>;
      try {
        calendar = rruleCalendar(rule, tz, null);
      } catch (error) {
        if (error instanceof RruleError && error.message === 'never comes') return;
        throw error;
      }
      const firstMs = calendar.next(afterMs) ?? Number.NaN;
      const secondMs = calendar.next(firstMs) ?? Number.NaN;
      if (!(firstMs > afterMs && secondMs > firstMs)) throw new Error(`${firstMs}, ${secondMs}: not later`);
      for (const fromMs of [firstMs - 1, Math.min(afterMs + stepMs, firstMs - 1)]) {
        if (calendar.next(fromMs) !== firstMs) throw new Error(`after ${fromMs} not ${firstMs}`);
      }
      if (calendar.next(Math.min(firstMs + stepMs, secondMs - 1)) !== secondMs) throw new Error('second left out');
    }),
    { seed: 1970, numRuns: 3_000 },
  );
});

t.test('seconds counted from 1970 need no walk from there', async () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 100_000 }), zones, instants, (interval, tz, afterMs) => {
      const anchorMs = 86_400_000;
      const nextMs = rruleCalendar(`FREQ=SECONDLY;INTERVAL=${interval}`, tz, anchorMs).next(afterMs) ?? Number.NaN;
      const stepMs = interval * 1_000;
      if ((nextMs - anchorMs) % stepMs !== 0 || nextMs <= afterMs || nextMs > afterMs + stepMs)
        throw new Error(`${nextMs} after ${afterMs}`);
    }),
    { seed: 1970, numRuns: 500 },
  );
});
