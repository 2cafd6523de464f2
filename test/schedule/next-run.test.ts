import fc from 'fast-check';
import t from 'tap';
import { gridPointFrom, nextRuns } from '../../schedule/next-run.ts';
import { createSpecSchema, parseSpec, type ScheduleSpec } from '../../schedule/spec.ts';

const schema = createSpecSchema('rb');

function spec(members: object): ScheduleSpec {
  const result = parseSpec(schema, Buffer.from(JSON.stringify({ id: 'a', task: 't', ...members })));
  if (!result.ok) throw new Error(JSON.stringify(result.errors));
  return result.spec;
}

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
