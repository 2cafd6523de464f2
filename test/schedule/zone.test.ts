import fc from 'fast-check';
import { IANAZone } from 'luxon';
import t from 'tap';
import { LAST_INSTANT_MS } from '../../schedule/instant.ts';
import { type Zone, zoneOf } from '../../schedule/zone.ts';

const SEED = 20_271_121;

const NAMES = [
  'UTC',
  'Europe/Berlin',
  'America/New_York',
  'Australia/Lord_Howe',
  'Asia/Kolkata',
  'Africa/Casablanca',
  'Africa/Monrovia',
  'America/Recife',
  'America/St_Johns',
  'Antarctica/Troll',
  'Asia/Gaza',
  'Pacific/Apia',
  'Pacific/Kwajalein',
] as const;

function knownZone(name: string): Zone {
  const zone = zoneOf(name);
  if (zone === null) throw new Error(`${name} is not known`);
  return zone;
}

const names = fc.constantFrom(...NAMES);
const instants = fc.oneof(fc.integer({ min: 0, max: Date.UTC(2100, 0) }), fc.integer({ min: 0, max: LAST_INSTANT_MS }));

t.test("a stretch has luxon's offset from its first to its last ms, and another one follows", async () => {
  fc.assert(
    fc.property(names, instants, (name, atMs) => {
      const offsetAt = (ms: number) => Math.round(IANAZone.create(name).offset(ms) * 60_000);
      const { fromMs, toMs, offsetMs } = knownZone(name).stretchAt(atMs);
      if (atMs < fromMs || atMs >= toMs) return false;
      if (name === 'UTC') return offsetMs === 0;
      return [fromMs, atMs, toMs - 1].every((ms) => offsetAt(ms) === offsetMs) && followsOn(knownZone(name), toMs);
    }),
    { seed: SEED, numRuns: 3_000 },
  );
});

function followsOn(zone: Zone, atMs: number): boolean {
  return zone.stretchAt(atMs).fromMs === atMs && zone.stretchAt(atMs - 1).toMs === atMs;
}

t.test('every change of the clocks ends a stretch', async (t) => {
  const zone = knownZone('Europe/Berlin');
  const changes: string[] = [];
  for (let atMs = Date.UTC(2026, 0); atMs < Date.UTC(2029, 0); ) {
    const { toMs, offsetMs } = zone.stretchAt(atMs);
    if (zone.stretchAt(toMs).offsetMs !== offsetMs && toMs < Date.UTC(2029, 0))
      changes.push(new Date(toMs).toISOString());
    atMs = toMs;
  }
  t.strictSame(changes, [
    '2026-03-29T01:00:00.000Z',
    '2026-10-25T01:00:00.000Z',
    '2027-03-28T01:00:00.000Z',
    '2027-10-31T01:00:00.000Z',
    '2028-03-26T01:00:00.000Z',
    '2028-10-29T01:00:00.000Z',
  ]);
});

t.test('a local time begins at the first instant that shows it or a later one', async (t) => {
  const cases = [
    ['Europe/Berlin', '2027-01-01T09:00', '2027-01-01T08:00:00.000Z'],
    ['Europe/Berlin', '2027-03-28T02:30', '2027-03-28T01:00:00.000Z'],
    ['Europe/Berlin', '2027-03-28T03:00', '2027-03-28T01:00:00.000Z'],
    ['Europe/Berlin', '2027-10-31T02:30', '2027-10-31T00:30:00.000Z'],
    ['Europe/Berlin', '2027-10-31T03:00', '2027-10-31T02:00:00.000Z'],
    ['Pacific/Apia', '2011-12-30T12:00', '2011-12-30T10:00:00.000Z'],
    ['Africa/Monrovia', '1971-01-01T00:00', '1971-01-01T00:44:30.000Z'],
    ['UTC', '2027-03-28T02:30', '2027-03-28T02:30:00.000Z'],
  ] as const;
  for (const [name, local, instant] of cases) {
    t.equal(
      new Date(knownZone(name).firstInstantOf(Date.parse(`${local}Z`))).toISOString(),
      instant,
      `${local} ${name}`,
    );
  }
});

t.test('a zone has one name per zone, in capitals or not, and no offsets', async (t) => {
  t.equal(zoneOf('Europe/Berlin'), zoneOf('Europe/Berlin'));
  t.ok(zoneOf('europe/berlin'));
  for (const name of ['', 'Mars/Olympus', 'local', 'system', '+01:00', 'UTC+3', 'Europe/Berlin\0'])
    t.equal(zoneOf(name), null, JSON.stringify(name));
});
