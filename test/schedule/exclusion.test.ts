import fc from 'fast-check';
import { DateTime, IANAZone } from 'luxon';
import t from 'tap';
import { CronError } from '../../schedule/cron.ts';
import { type Exclusion, exclusionOf, exclusionText } from '../../schedule/exclusion.ts';
import type { Exclude } from '../../schedule/timing.ts';
import { crons, shownAt } from './cron-reference.ts';

const SEED = 20_271_121;
const HOUR_MS = 3_600_000;

function exclusion(tz: string, ...exclude: Exclude[]): Exclusion {
  return exclusionOf(exclusionText(exclude, tz));
}

function windows(excluded: Exclusion, after: string, count: number): string[] {
  const found: string[] = [];
  for (let atMs = Date.parse(after); found.length < count; ) {
    const window = excluded.next(atMs);
    if (window === null) break;
    found.push(`${shown(window.fromMs)} ${shown(window.toMs)}`);
    atMs = window.toMs;
  }
  return found;
}

function shown(atMs: number): string {
  return new Date(atMs).toISOString().replace(':00.000Z', 'Z');
}

const CASES: readonly (readonly [what: string, excluded: Exclusion, after: string, windows: readonly string[]])[] = [
  [
    'a day is that of the zone',
    exclusion('Europe/Berlin', '2027-12-25'),
    '2027-01-01T00:00Z',
    ['2027-12-24T23:00Z 2027-12-25T23:00Z'],
  ],
  [
    'a short day',
    exclusion('Europe/Berlin', '2027-03-28'),
    '2027-01-01T00:00Z',
    ['2027-03-27T23:00Z 2027-03-28T22:00Z'],
  ],
  [
    'a long day',
    exclusion('America/New_York', '2027-11-07'),
    '2027-01-01T00:00Z',
    ['2027-11-07T04:00Z 2027-11-08T05:00Z'],
  ],
  ['a day that never was', exclusion('Pacific/Apia', '2011-12-30'), '2011-01-01T00:00Z', []],
  [
    'a day that comes in two pieces',
    exclusion('America/St_Johns', '2010-11-07'),
    '2010-11-01T00:00Z',
    ['2010-11-07T02:30Z 2010-11-07T02:31Z', '2010-11-07T03:30Z 2010-11-08T03:30Z'],
  ],
  [
    'days up to the last, inclusive',
    exclusion('UTC', { from: '2027-12-24', to: '2027-12-26' }),
    '2027-01-01T00:00Z',
    ['2027-12-24T00:00Z 2027-12-27T00:00Z'],
  ],
  [
    'years of days',
    exclusion('Europe/Berlin', { from: '2027-01-01', to: '2031-06-30' }),
    '2027-01-01T00:00Z',
    ['2026-12-31T23:00Z 2031-06-30T22:00Z'],
  ],
  [
    'instants up to the last, exclusive',
    exclusion('UTC', { from: '2027-01-01T08:00:00.000Z', to: '2027-01-01T09:30:00.000Z' }),
    '2027-01-01T00:00Z',
    ['2027-01-01T08:00Z 2027-01-01T09:30Z'],
  ],
  [
    'the whole of what an instant lies in',
    exclusion('UTC', '2027-01-01'),
    '2027-01-01T12:00Z',
    ['2027-01-01T00:00Z 2027-01-02T00:00Z'],
  ],
  [
    'what touches is one',
    exclusion('UTC', '2027-01-03', '2027-01-01', { from: '2027-01-02', to: '2027-01-02' }, '2027-01-05'),
    '2027-01-01T00:00Z',
    ['2027-01-01T00:00Z 2027-01-04T00:00Z', '2027-01-05T00:00Z 2027-01-06T00:00Z'],
  ],
  [
    'minutes of a cron',
    exclusion('UTC', { cron: '30 12 * * *' }),
    '2027-01-01T00:00Z',
    ['2027-01-01T12:30Z 2027-01-01T12:31Z', '2027-01-02T12:30Z 2027-01-02T12:31Z'],
  ],
  [
    'hours of a cron',
    exclusion('Europe/Berlin', { cron: '* 0-5,22-23 * * *' }),
    '2027-01-01T12:00Z',
    ['2027-01-01T21:00Z 2027-01-02T05:00Z', '2027-01-02T21:00Z 2027-01-03T05:00Z'],
  ],
  [
    'weekends of a cron',
    exclusion('Europe/Berlin', { cron: '* * * * sat,sun' }),
    '2027-03-24T00:00Z',
    ['2027-03-26T23:00Z 2027-03-28T22:00Z', '2027-04-02T22:00Z 2027-04-04T22:00Z'],
  ],
  [
    'months of a cron',
    exclusion('Europe/Berlin', { cron: '* * * 2-12 *' }),
    '2027-01-10T00:00Z',
    ['2027-01-31T23:00Z 2027-12-31T23:00Z', '2028-01-31T23:00Z 2028-12-31T23:00Z'],
  ],
  [
    'seconds of a cron',
    exclusion('UTC', { cron: '10-14 0 0 * * *' }),
    '2027-01-01T00:00Z',
    ['2027-01-01T00:00:10.000Z 2027-01-01T00:00:15.000Z', '2027-01-02T00:00:10.000Z 2027-01-02T00:00:15.000Z'],
  ],
  [
    'an hour that comes twice, both times',
    exclusion('Europe/Berlin', { cron: '* 2 * * *' }),
    '2027-10-30T12:00Z',
    ['2027-10-31T00:00Z 2027-10-31T02:00Z', '2027-11-01T01:00Z 2027-11-01T02:00Z'],
  ],
  [
    'an hour that does not come, not',
    exclusion('Europe/Berlin', { cron: '* 2 * * *' }),
    '2027-03-27T12:00Z',
    ['2027-03-29T00:00Z 2027-03-29T01:00Z'],
  ],
  [
    'a cron and a day that touch',
    exclusion('UTC', '2027-01-02', { cron: '* 22-23 * * *' }),
    '2027-01-01T12:00Z',
    ['2027-01-01T22:00Z 2027-01-03T00:00Z', '2027-01-03T22:00Z 2027-01-04T00:00Z'],
  ],
  [
    'everything',
    exclusion('UTC', { cron: '* * * * *' }),
    '2027-01-01T12:00Z',
    ['2027-01-01T12:00Z +010000-01-01T00:00Z'],
  ],
  [
    'from the moment asked about',
    exclusion('UTC', { cron: '* 12 * * *' }),
    '2027-01-01T12:34:56Z',
    ['2027-01-01T12:34:56.000Z 2027-01-01T13:00Z', '2027-01-02T12:00Z 2027-01-02T13:00Z'],
  ],
  [
    'no time before 1970',
    exclusion('Europe/Berlin', '1970-01-01'),
    '1970-01-01T00:00Z',
    ['1970-01-01T00:00Z 1970-01-01T23:00Z'],
  ],
  ['nothing', exclusion('UTC'), '2027-01-01T00:00Z', []],
];

t.test('excluded are', async (t) => {
  for (const [what, excluded, after, expected] of CASES) {
    const count = Math.max(expected.length, 1);
    t.strictSame(windows(excluded, after, count), expected, what);
  }
});

t.test('two crons that take turns for ever come in parts that follow each other', async (t) => {
  const excluded = exclusion('UTC', { cron: '*/2 * * * *' }, { cron: '1-59/2 * * * *' });
  const first = excluded.next(0);
  t.ok(first !== null && first.toMs > 100 * 60_000);
  t.equal(excluded.next(first?.toMs ?? 0)?.fromMs, first?.toMs);
});

t.test('what is no cron, depends on an id, or has no zone is refused', async (t) => {
  t.throws(() => exclusion('UTC', { cron: '* * * *' }), CronError);
  t.throws(() => exclusion('UTC', { cron: 'H 0 * * *' }), { message: /must not have "H" here/ });
  t.throws(() => exclusion('Mars/Olympus', '2027-01-01'), { name: 'CronError', field: 'tz' });
});

t.test('the same exclusion is one text, and is compiled once', async (t) => {
  const text = exclusionText([{ cron: ' 0  0 * * *' }, '2027-01-01'], 'UTC');
  t.equal(exclusionText([{ cron: '0 0 * * *' }, '2027-01-01'], 'UTC'), text);
  t.equal(exclusionOf(text), exclusionOf(text));
  t.not(exclusionText([{ cron: '0 0 * * *' }, '2027-01-01'], 'Asia/Kolkata'), text);
});

const zones = fc.constantFrom('UTC', 'Europe/Berlin', 'Australia/Lord_Howe', 'America/St_Johns', 'Pacific/Apia');
const fromDay = Date.UTC(2010, 9, 25);
const days = fc
  .integer({ min: 0, max: 800 })
  .map((day) => new Date(fromDay + day * 24 * HOUR_MS).toISOString().slice(0, 10));
const dateRanges = fc
  .tuple(days, days)
  .map(([one, other]) => ({ from: one < other ? one : other, to: one < other ? other : one }));
const instants = fc.integer({ min: fromDay, max: fromDay + 800 * 24 * HOUR_MS });
const instantRanges = fc
  .tuple(instants, fc.integer({ min: 1, max: 1_000 * HOUR_MS }))
  .map(([from, length]) => ({ from: new Date(from).toISOString(), to: new Date(from + length).toISOString() }));

t.test("an instant is excluded when its zone's clocks show an excluded day or time", async () => {
  const entries = fc.array(fc.oneof(days, dateRanges, instantRanges), { maxLength: 4 });
  const cron = crons(false).filter(({ dialect }) => dialect === 'unix');
  fc.assert(
    fc.property(zones, entries, fc.array(cron, { maxLength: 2 }), instants, (tz, fixed, crons, atMs) => {
      const excluded = exclusion(tz, ...fixed, ...crons.map(({ text }) => ({ cron: text })));
      const local = DateTime.fromMillis(atMs, { zone: IANAZone.create(tz) });
      const date = local.toISODate() ?? '';
      const clock = shownAt(atMs + local.offset * 60_000);
      const expected =
        crons.some((cron) => cron.matches({ ...clock, second: 0 })) ||
        fixed.some((entry) => {
          if (typeof entry === 'string') return entry === date;
          if (entry.from.length === 10) return entry.from <= date && date <= entry.to;
          return Date.parse(entry.from) <= atMs && atMs < Date.parse(entry.to);
        });
      return (excluded.excludedUntil(atMs) !== null) === expected && isWindow(excluded, atMs, expected);
    }),
    { seed: SEED, numRuns: 5_000 },
  );
});

/** Whether the window told is excluded throughout, as far as samples show, and nothing is before it or right behind it. */
function isWindow(excluded: Exclusion, atMs: number, isExcluded: boolean): boolean {
  const window = excluded.next(atMs);
  if (window === null) return !isExcluded;
  const { fromMs, toMs } = window;
  const isIn = (ms: number) => excluded.excludedUntil(ms) !== null;
  const beforeMs = Math.max(atMs, fromMs - 1);
  return (
    fromMs < toMs &&
    toMs > atMs &&
    fromMs <= atMs === isExcluded &&
    isIn(Math.max(fromMs, atMs)) &&
    isIn(toMs - 1) &&
    isIn(Math.floor((Math.max(fromMs, atMs) + toMs) / 2)) &&
    (beforeMs >= fromMs || !isIn(beforeMs)) &&
    (!isIn(toMs) || excluded.next(toMs)?.fromMs === toMs)
  );
}
