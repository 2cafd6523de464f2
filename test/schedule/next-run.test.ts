import fc from 'fast-check';
import t from 'tap';
import { jittered } from '../../schedule/jitter.ts';
import { gridPointFrom, nextRuns } from '../../schedule/next-run.ts';
import { createSpecSchema, parseSpec, type ScheduleSpec } from '../../schedule/spec.ts';

const schema = createSpecSchema('rb');

function spec(members: object): ScheduleSpec {
  const result = parseSpec(schema, Buffer.from(JSON.stringify({ id: 'a', task: 't', ...members })));
  if (!result.ok) throw new Error(JSON.stringify(result.errors));
  return result.spec;
}

const HOUR = 3_600_000;
const DAY = 24 * HOUR;

const every10 = { schedule: { every: 10 } };
const at = (ms: number) => new Date(ms).toISOString();

const CASES: readonly (readonly [
  name: string,
  spec: ScheduleSpec,
  origin: number | null,
  after: number,
  count: number,
  next: number[],
])[] = [
  ['points of the grid, strictly after', spec(every10), 3_000, 13_000, 3, [23_000, 33_000, 43_000]],
  ['a grid whose known point lies ahead', spec(every10), 103_000, 0, 2, [3_000, 13_000]],
  ['none before start', spec({ ...every10, start: at(50_000) }), 3_000, 0, 2, [53_000, 63_000]],
  ['start itself, on the grid', spec({ ...every10, start: at(53_000) }), 3_000, 0, 1, [53_000]],
  ['none from end on', spec({ ...every10, end: at(23_000) }), 3_000, 0, 9, [3_000, 13_000]],
  ['none where the grid is unknown', spec(every10), null, 0, 9, []],
  ['none when none are asked for', spec(every10), 0, 0, 0, []],
  ['a one-shot to come', spec({ schedule: { at: at(5_000) } }), null, 4_999, 9, [5_000]],
  ['no one-shot that has been', spec({ schedule: { at: at(5_000) } }), null, 5_000, 9, []],
  ['a delay once it is an instant', spec({ schedule: { in: 5 } }), 7_000, 0, 9, [7_000]],
  ['no delay that is unknown', spec({ schedule: { in: 5 } }), null, 0, 9, []],
  ['none beyond the year 9999', spec({ schedule: { every: 315_576_000 } }), 0, Date.UTC(9999, 5), 9, []],
  [
    'the end of what an instant is excluded from',
    spec({ ...every10, exclude: ['1970-01-01'] }),
    3_000,
    0,
    2,
    [DAY + 3_000, DAY + 13_000],
  ],
  ['no one-shot that is excluded', spec({ schedule: { at: at(5_000) }, exclude: ['1970-01-01'] }), null, 0, 9, []],
  ['no delay that ends too late', spec({ schedule: { in: 5 }, end: at(6_000) }), 7_000, 0, 9, []],
  ['a loop while it waits', spec({ schedule: { after: 5 } }), 7_000, 0, 9, [7_000]],
  ['no loop while it runs', spec({ schedule: { after: 5 } }), null, 0, 9, []],
  ['a cron', spec({ schedule: { cron: '0 9 * * *' } }), null, 0, 2, [9 * HOUR, DAY + 9 * HOUR]],
  [
    'a cron of a zone, from start to end',
    spec({
      schedule: { cron: '0 9 * * *', tz: 'Asia/Kolkata' },
      start: at(3.5 * HOUR + 1),
      end: at(2 * DAY + 3.5 * HOUR),
    }),
    null,
    0,
    9,
    [DAY + 3.5 * HOUR],
  ],
  [
    'a cron that starts in the moment of a run',
    spec({ schedule: { cron: '0 9 * * *' }, start: at(9 * HOUR) }),
    null,
    0,
    1,
    [9 * HOUR],
  ],
  [
    'a cron but its excluded days',
    spec({
      schedule: { cron: '0 9 * * *', tz: 'Asia/Kolkata' },
      exclude: ['1970-01-02', { cron: '* * 4 * *' }],
    }),
    null,
    0,
    3,
    [3.5 * HOUR, 2 * DAY + 3.5 * HOUR, 4 * DAY + 3.5 * HOUR],
  ],
  [
    'nothing of what is all excluded',
    spec({ schedule: { cron: '0 9 * * *' }, exclude: [{ cron: '* 9 * * *' }] }),
    null,
    0,
    3,
    [],
  ],
  [
    'an rrule',
    spec({ schedule: { rrule: 'FREQ=DAILY;COUNT=2' }, start: at(9 * HOUR) }),
    null,
    0,
    9,
    [9 * HOUR, DAY + 9 * HOUR],
  ],
];

for (const [name, given, origin, after, count, next] of CASES) {
  t.test(`lists ${name}`, async (t) => {
    t.strictSame(nextRuns(given, origin, after, count), next);
  });
}

t.test('a grid point is the first one that is not before the moment', async () => {
  const instant = fc.integer({ min: 0, max: 253_402_300_799_999 });
  const interval = fc.integer({ min: 100, max: 315_576_000_000 });
  fc.assert(
    fc.property(instant, instant, interval, (from, origin, every) => {
      const point = gridPointFrom(from, origin, every);
      return point >= from && point - from < every && Math.abs(point - origin) % every === 0;
    }),
  );
});

const SEED = 20_271_121;

t.test('a jitter is fixed by id and nominal time, and spread over its width', async (t) => {
  t.equal(jittered('a', 1_000, 500), jittered('a', 1_000, 500));
  const moved = Array.from({ length: 1_000 }, (_, index) => jittered('a', index * 1_000, 500) - index * 1_000);
  t.ok(moved.every((ms) => ms >= 0 && ms < 500 && Number.isInteger(ms)));
  t.ok(new Set(moved).size > 300);
  t.equal(jittered('a', 1_000, 0), 1_000);
  // What SHA1 of "a:1000" begins with.
  t.equal(jittered('a', 1_000, 2 ** 32), 1_000 + 0x66d80131);
});

/** Schedules with the longest time between two of their nominal times. */
const SCHEDULES = fc.oneof(
  fc.constantFrom(
    { schedule: { cron: '*/20 * * * * *', tz: 'Europe/Berlin' }, gapMs: 20_000 },
    { schedule: { cron: '*/5 * * * *', tz: 'Europe/Berlin' }, gapMs: 300_000 },
    { schedule: { cron: '7 */6 * * *', tz: 'Europe/Berlin' }, gapMs: 7 * HOUR },
    { schedule: { cron: '0 9 * * 1-5', tz: 'Europe/Berlin' }, gapMs: 3 * DAY + HOUR },
    { schedule: { cron: '30 2 1 * *', tz: 'Europe/Berlin' }, gapMs: 31 * DAY + HOUR },
  ),
  fc
    .integer({ min: 200, max: 200_000_000 })
    .map((everyMs) => ({ schedule: { every: everyMs / 1_000, phase: 0 }, gapMs: everyMs })),
);

t.test('with jitter, start, end and exclude, runs are what each nominal time comes to', async () => {
  // Distances from the moment asked about, more often short than long.
  const distance = fc
    .tuple(fc.integer({ min: -9, max: 9 }), fc.integer({ min: 3, max: 9 }))
    .map(([one, digits]) => one * 10 ** digits);
  const part = fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true });
  const moment = fc.integer({ min: Date.UTC(2027, 2, 20), max: Date.UTC(2027, 3, 10) });
  fc.assert(
    fc.property(
      SCHEDULES,
      part,
      moment,
      fc.array(distance, { minLength: 4, maxLength: 4 }),
      (kind, part, after, distances) => {
        const { schedule, gapMs } = kind;
        const [start, end, from, to] = distances.map((ms) => after + ms) as [number, number, number, number];
        const endMs = Math.max(end, start + 1);
        const window = { from: at(Math.min(from, to)), to: at(Math.max(from, to) + 1) };
        const jitterMs = Math.floor(part * gapMs * ('every' in schedule ? 1 : 3));
        const plain = spec({ schedule });
        const given = spec({ schedule, jitter: jitterMs / 1_000, start: at(start), end: at(endMs), exclude: [window] });
        const beginMs = Math.max(after, start);
        const nominal = nextRuns(plain, 0, beginMs - gapMs - 1, 60);
        const expected = nominal.slice(0, -1).flatMap((ms, index) => {
          const due = jittered('a', ms, Math.min(jitterMs, nominal[index + 1]! - ms));
          const isExcluded = due >= Date.parse(window.from) && due < Date.parse(window.to);
          return due > after && due >= start && due < endMs && !isExcluded ? [due] : [];
        });
        const found = nextRuns(given, 0, after, 5);
        // What lies beyond the nominal times looked at is not known here.
        const isComplete = expected.length >= 5 || nominal.at(-1)! >= endMs;
        const compared = isComplete ? found : found.slice(0, expected.length);
        if (JSON.stringify(compared) === JSON.stringify(expected.slice(0, 5))) return true;
        throw new Error(`${JSON.stringify(given)} after ${after}: ${found}, not ${expected.slice(0, 5)}`);
      },
    ),
    { seed: SEED, numRuns: 3_000, includeErrorInReport: true },
  );
});
