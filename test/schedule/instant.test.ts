import fc from 'fast-check';
import t from 'tap';
import { formatInstant, parseInstant } from '../../schedule/instant.ts';

const SAME = Date.UTC(2027, 0, 31, 8, 0, 0);

t.test('an instant may be written in any offset', async (t) => {
  for (const text of [
    '2027-01-31T08:00:00Z',
    '2027-01-31t08:00:00z',
    '2027-01-31T08:00Z',
    '2027-01-31T08:00:00.000000Z',
    '2027-01-31T09:00:00+01:00',
    '2027-01-31T09:00:00+0100',
    '2027-01-30T22:30:00-09:30',
    '2027-01-31T08:00:00-00:00',
  ]) {
    t.equal(parseInstant(text), SAME, text);
  }
});

t.test('digits finer than ms are dropped', async (t) => {
  t.equal(parseInstant('2027-01-31T08:00:00.1239Z'), SAME + 123);
  t.equal(parseInstant('2027-01-31T08:00:00.5Z'), SAME + 500);
});

t.test('what names no instant is refused', async (t) => {
  for (const text of [
    '',
    'now',
    '2027-01-31',
    '2027-01-31T08:00:00',
    '2027-01-31 08:00:00Z',
    '2027-02-29T08:00:00Z',
    '2027-04-31T08:00:00Z',
    '2027-13-01T08:00:00Z',
    '2027-00-10T08:00:00Z',
    '2027-01-00T08:00:00Z',
    '2027-01-31T24:00:00Z',
    '2027-01-31T08:60:00Z',
    '2027-01-31T08:00:60Z',
    '2027-01-31T08:00:00+24:00',
    '2027-01-31T08:00:00+01:60',
    '2027-01-31T08:00:00+1',
    '27-01-31T08:00:00Z',
    '+002027-01-31T08:00:00Z',
    '1969-12-31T23:59:59Z',
    '1970-01-01T00:30:00+01:00',
    '9999-12-31T23:59:59-00:01',
    ' 2027-01-31T08:00:00Z',
    '2027-01-31T08:00:00Z\n',
    '1798761600',
    '2027-W05-7T08:00:00Z',
  ]) {
    t.equal(parseInstant(text), null, JSON.stringify(text));
  }
});

t.test('every ms from 1970 to 9999 can be written and read', async () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 253_402_300_799_999 }), (atMs) => parseInstant(formatInstant(atMs)) === atMs),
  );
});
