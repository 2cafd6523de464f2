import fc from 'fast-check';
import t from 'tap';
import { CronError, cronCalendar } from '../../schedule/cron.ts';
import { type ClockWindow, clockWindow, crons, nextInWindow, shownAt } from './cron-reference.ts';

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** Zones and instants around which clocks are changed, or are not. */
const PLACES: readonly (readonly [zone: string, around: string])[] = [
  ['Europe/Berlin', '2027-03-28T01:00Z'],
  ['Europe/Berlin', '2027-10-31T01:00Z'],
  ['Europe/Berlin', '2028-02-28T12:00Z'],
  ['America/New_York', '2027-03-14T07:00Z'],
  ['America/New_York', '2027-11-07T06:00Z'],
  ['America/New_York', '1974-01-06T07:00Z'],
  ['Australia/Lord_Howe', '2027-04-03T15:00Z'],
  ['Australia/Lord_Howe', '2027-10-02T15:30Z'],
  ['Australia/Lord_Howe', '1985-10-19T14:30Z'],
  ['Asia/Kolkata', '2027-01-31T18:30Z'],
  ['UTC', '2027-02-28T23:00Z'],
  ['UTC', '2028-12-31T12:00Z'],
  ['Pacific/Apia', '2011-12-30T10:00Z'],
  ['Pacific/Kwajalein', '1993-08-21T12:00Z'],
  ['Pacific/Kiritimati', '1994-12-31T10:00Z'],
  ['Africa/Casablanca', '2027-02-07T02:00Z'],
  ['Africa/Casablanca', '2027-03-14T02:00Z'],
  ['America/St_Johns', '2010-11-07T02:31Z'],
  ['America/St_Johns', '1988-04-03T03:31Z'],
  ['America/Havana', '2027-11-07T05:00Z'],
  ['America/Sao_Paulo', '2018-11-04T03:00Z'],
  ['America/Sao_Paulo', '2018-02-18T02:00Z'],
  ['Antarctica/Troll', '2027-03-28T01:00Z'],
  ['Antarctica/Troll', '2027-10-31T01:00Z'],
  ['Asia/Kathmandu', '1985-12-31T18:30Z'],
  ['Asia/Pyongyang', '2018-05-04T15:00Z'],
  ['America/Caracas', '2007-12-09T07:00Z'],
  ['America/Recife', '2000-10-15T02:00Z'],
  ['Asia/Gaza', '2027-03-26T22:00Z'],
  ['Africa/Cairo', '2014-07-31T21:00Z'],
  ['Europe/Berlin', '9999-03-28T01:00Z'],
];

/** fast-check prints it on failure, with what it takes to repeat the case. */
const SEED = 20_271_121;

/** Windows take luxon long, so that many crons share one. */
function windowsOf(span: { beforeMs: number; afterMs: number; stepMs: number }, places: typeof PLACES) {
  const windows = new Map<string, ClockWindow>();
  const indices = fc.integer({ min: 0, max: places.length - 1 });
  return {
    indices,
    at(index: number): ClockWindow {
      const [zone, around] = places[index]!;
      const key = `${zone} ${around}`;
      const window = windows.get(key) ?? clockWindow(zone, around, span);
      windows.set(key, window);
      return window;
    },
  };
}

/** Somewhere in a window, or where its clocks are changed. */
const instants = fc.oneof(
  fc.record({ part: fc.double({ min: 0, max: 1, noNaN: true }) }),
  fc.record({ fromChangeMs: fc.oneof(fc.constantFrom(-1, 0, 1), fc.integer({ min: -2_000_000, max: 2_000_000 })) }),
);

for (const [what, withSeconds, numRuns, span, places] of [
  ['minute by minute', false, 12_000, { beforeMs: 30 * HOUR_MS, afterMs: 50 * HOUR_MS, stepMs: 60_000 }, PLACES],
  [
    'second by second',
    true,
    4_000,
    { beforeMs: HOUR_MS, afterMs: 2 * HOUR_MS, stepMs: 1_000 },
    [...PLACES.slice(0, 9), ['Africa/Monrovia', '1972-01-07T00:44:30Z']],
  ],
] as const satisfies readonly (readonly [string, boolean, number, object, typeof PLACES])[]) {
  t.test(`the next run is that of a search ${what} through luxon's clocks`, async () => {
    const windows = windowsOf(span, places);
    fc.assert(
      fc.property(crons(withSeconds), windows.indices, instants, (cron, index, instant) => {
        const window = windows.at(index);
        const afterMs =
          'part' in instant
            ? window.fromMs + Math.floor(instant.part * (window.toMs - window.fromMs))
            : window.fromMs + span.beforeMs + instant.fromChangeMs;
        const expected = nextInWindow(cron, window, afterMs);
        const found = nextOf(cron.text, window.zone, cron.dialect, afterMs);
        if (expected !== null ? found === expected : found === null || found >= window.toMs) return true;
        throw new Error(
          `${cron.dialect} "${cron.text}" in ${window.zone} after ${shownTime(afterMs)}: ${shownTime(found)}, not ${shownTime(expected)}`,
        );
      }),
      { seed: SEED, numRuns, includeErrorInReport: true },
    );
  });
}

t.test('the next day of a rare cron is that of a search day by day', async () => {
  const fromDay = Date.UTC(2026, 0, 1) / DAY_MS;
  const days = Array.from({ length: 45 * 366 }, (_, index) => shownAt((fromDay + index) * DAY_MS));
  fc.assert(
    fc.property(crons(false), fc.integer({ min: 0, max: 5 * 366 }), (cron, after) => {
      const [, , day, month, weekday] = cron.text.split(' ');
      const text = `0 0 ${day} ${month} ${weekday}`;
      const found = nextOf(text, 'UTC', cron.dialect, (fromDay + after) * DAY_MS);
      const index = days.findIndex((shown, index) => index > after && cron.matchesDay(shown));
      const expected = index === -1 ? null : (fromDay + index) * DAY_MS;
      if (found === expected) return true;
      throw new Error(
        `${cron.dialect} "${text}" after ${shownTime((fromDay + after) * DAY_MS)}: ${shownTime(found)}, not ${shownTime(expected)}`,
      );
    }),
    { seed: SEED, numRuns: 2_000, includeErrorInReport: true },
  );
});

function shownTime(atMs: number | null): string {
  return atMs === null ? 'none' : new Date(atMs).toISOString();
}

/** null for a cron that never comes as well. */
function nextOf(cron: string, tz: string, dialect: 'unix' | 'celery', afterMs: number): number | null {
  try {
    return cronCalendar({ cron, tz, dialect }).next(afterMs);
  } catch (error) {
    if (error instanceof CronError && error.message.startsWith('never comes')) return null;
    throw error;
  }
}
