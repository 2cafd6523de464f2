import fc from 'fast-check';
import t from 'tap';
import { Ledger } from '../../bench/ledger.ts';

const EVERY_MS = 1_000;

interface Case {
  readonly title: string;
  /** Due times of the only schedule as they come; the account runs from 10,000 to 15,000, its grid is at 500. */
  readonly dues: readonly number[];
  readonly expected: { lost: number; doubled: number; strange: number };
}

const complete = [10_500, 11_500, 12_500, 13_500, 14_500];
const cases: readonly Case[] = [
  { title: 'nothing is wrong with a complete account', dues: complete, expected: { lost: 0, doubled: 0, strange: 0 } },
  {
    title: 'what was due before the opening does not count',
    dues: [9_500, ...complete],
    expected: { lost: 0, doubled: 0, strange: 0 },
  },
  {
    title: 'what is due after the closing does not count',
    dues: [...complete, 15_500],
    expected: { lost: 0, doubled: 0, strange: 0 },
  },
  { title: 'a gap is lost', dues: [10_500, 11_500, 14_500], expected: { lost: 2, doubled: 0, strange: 0 } },
  { title: 'a missing first is lost', dues: complete.slice(1), expected: { lost: 1, doubled: 0, strange: 0 } },
  { title: 'a missing last is lost', dues: complete.slice(0, -2), expected: { lost: 2, doubled: 0, strange: 0 } },
  { title: 'a schedule that never came is lost', dues: [], expected: { lost: 5, doubled: 0, strange: 0 } },
  { title: 'the same twice is doubled', dues: [...complete, 14_500], expected: { lost: 0, doubled: 1, strange: 0 } },
  { title: 'an old one twice is doubled', dues: [...complete, 10_500], expected: { lost: 0, doubled: 1, strange: 0 } },
  {
    title: 'one out of order fills its gap',
    dues: [10_500, 12_500, 11_500, 13_500, 14_500],
    expected: { lost: 0, doubled: 0, strange: 0 },
  },
  { title: 'one off its grid is strange', dues: [...complete, 14_700], expected: { lost: 0, doubled: 0, strange: 1 } },
];

for (const { title, dues, expected } of cases) {
  t.test(title, async (t) => {
    const ledger = new Ledger(1, EVERY_MS);
    ledger.open(10_000);
    for (const due of dues) ledger.record(0, due);
    t.match(ledger.close(15_000), expected);
  });
}

t.test('a message of no known schedule is strange', async (t) => {
  const ledger = new Ledger(1, EVERY_MS);
  ledger.open(0);
  ledger.record(-1, 500);
  ledger.record(1, 500);
  t.equal(ledger.close(0).strange, 2);
});

t.test(
  'whatever is left out is lost and whatever comes again is doubled, in any order within 32 grid points',
  async () => {
    const occurrences = fc.array(fc.nat({ max: 3 }), { minLength: 1, maxLength: 30 });
    fc.assert(
      fc.property(occurrences, fc.nat(), (times, seed) => {
        const dues = times.flatMap((times, step) => Array.from({ length: times }, () => 500 + step * EVERY_MS));
        const order = dues
          .map((due, at) => ({ due, rank: (at * 7_919 + seed) % 104_729 }))
          .sort((a, b) => a.rank - b.rank);
        const ledger = new Ledger(1, EVERY_MS);
        ledger.open(0);
        for (const { due } of order) ledger.record(0, due);
        const { lost, doubled, strange, seen } = ledger.close(times.length * EVERY_MS - 1);
        const missing = times.filter((times) => times === 0).length;
        return (
          lost === missing &&
          doubled === dues.length - (times.length - missing) &&
          strange === 0 &&
          seen === dues.length
        );
      }),
      { verbose: true },
    );
  },
);
