import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import t from 'tap';
import { SOLAR_EVENTS, type SolarEvent, solarCalendar } from '../../schedule/solar.ts';

const DAY_MS = 86_400_000;

interface Table {
  readonly rows: readonly (readonly [event: SolarEvent, lat: number, lon: number, after: string, next: string])[];
}

/** See test/fixtures/celery-solar.py. */
const CELERY = JSON.parse(
  readFileSync(new URL('../../../test/fixtures/celery-solar.json', import.meta.url), 'utf8'),
) as Table;

function iso(atMs: number | null): string | null {
  return atMs === null ? null : new Date(atMs).toISOString();
}

t.test('each event comes when it does with Celery', async (t) => {
  t.strictSame([...new Set(CELERY.rows.map(([event]) => event))].sort(), [...SOLAR_EVENTS].sort());
  for (const [event, lat, lon, after, next] of CELERY.rows) {
    const atMs = solarCalendar(event, lat, lon).next(Date.parse(after));
    const apartMs = Math.abs((atMs ?? Number.NaN) - Date.parse(next));
    // Where the sun hardly rises or sinks, a hundredth of a second of arc is seconds of time.
    const allowedMs = Math.abs(lat) < 60 ? 2_500 : 30_000;
    if (!(apartMs <= allowedMs)) t.fail(`${event} at ${lat}, ${lon} after ${after}: ${iso(atMs)}, not ${next}`);
  }
});

t.test('days without the event are passed over', async (t) => {
  const longyearbyen = [78.2232, 15.6267] as const;
  const next = (event: SolarEvent, after: string) => solarCalendar(event, ...longyearbyen).next(Date.parse(after));
  t.match(iso(next('sunrise', '2027-11-01T00:00Z')), /^2028-02-1/, 'polar night');
  t.match(iso(next('sunset', '2027-05-01T00:00Z')), /^2027-08-2/, 'polar day');
  t.match(iso(next('dawn_astronomical', '2027-05-01T00:00Z')), /^2027-10-0/, 'nights that are not dark');
});

t.test('at the poles the sun rises once a year', async (t) => {
  const north = solarCalendar('sunrise', 90, 0);
  const first = north.next(Date.UTC(2027, 0, 1)) ?? 0;
  t.match(iso(first), /^2027-03-1/);
  t.match(iso(north.next(first)), /^2028-03-1/);
  t.match(iso(solarCalendar('sunrise', -90, 0).next(Date.UTC(2027, 0, 1))), /^2027-09-2/);
});

t.test('noon comes each day, also where the sun stays below the horizon', async (t) => {
  for (const [lat, lon] of [
    [0, 0],
    [52.52, 13.405],
    [78.2232, 15.6267],
    [-77.8419, 166.6863],
    [10, -180],
    [10, 180],
  ] as const) {
    const noon = solarCalendar('solar_noon', lat, lon);
    let atMs = Date.UTC(2027, 0, 1);
    for (let day = 0; day < 400; day++) {
      const nextMs = noon.next(atMs) ?? Number.NaN;
      if (day > 0) t.ok(Math.abs(nextMs - atMs - DAY_MS) < 60_000, `${lat}, ${lon} after ${iso(atMs)}`);
      atMs = nextMs;
    }
  }
});

t.test('no event is found twice or left out, wherever the search begins', async () => {
  const places = fc.record({
    event: fc.constantFrom(...SOLAR_EVENTS),
    lat: fc.double({ min: -90, max: 90, noNaN: true }),
    lon: fc.double({ min: -180, max: 180, noNaN: true }),
    afterMs: fc.integer({ min: Date.UTC(1971, 0, 1), max: Date.UTC(2100, 0, 1) }),
    stepMs: fc.nat(2 * DAY_MS),
  });
  fc.assert(
    fc.property(places, ({ event, lat, lon, afterMs, stepMs }) => {
      const next = (fromMs: number) => solarCalendar(event, lat, lon).next(fromMs) ?? Number.NaN;
      const firstMs = next(afterMs);
      const secondMs = next(firstMs);
      if (!(firstMs > afterMs && secondMs > firstMs)) throw new Error('not later');
      if (next(firstMs - 1) !== firstMs) throw new Error('not found from shortly before');
      const between = next(Math.min(afterMs + stepMs, firstMs - 1));
      if (between !== firstMs) throw new Error(`found ${between} on the way to ${firstMs}`);
    }),
    { seed: 78, numRuns: 300 },
  );
});

t.test('there is an end to it in the year 9999', async (t) => {
  t.equal(solarCalendar('sunrise', 0, 0).next(Date.UTC(9999, 11, 31, 23)), null);
});
