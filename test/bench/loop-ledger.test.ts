import t from 'tap';
import { LoopLedger } from '../../bench/loop-ledger.ts';

const DELAY_MS = 1_000;

/** A ledger of two loops, opened at 10,000, in which loop 0 ran from 9,000 to 9,005. */
function opened(): LoopLedger {
  const ledger = new LoopLedger(2, DELAY_MS);
  ledger.record({ index: 0, dueMs: 9_000, enteredMs: 9_000, endedMs: 9_005 });
  ledger.open(10_000);
  return ledger;
}

t.test('drift is what lies between two runs beyond the delay, from one across the opening on', async (t) => {
  const ledger = opened();
  ledger.record({ index: 0, dueMs: 10_005, enteredMs: 10_008, endedMs: 10_013 });
  ledger.record({ index: 0, dueMs: 11_020, enteredMs: 11_023, endedMs: 11_028 });
  const { runs, drift, startLateness, doubled, overlapped, strange } = ledger.read();
  t.same({ runs, doubled, overlapped, strange }, { runs: 2, doubled: 0, overlapped: 0, strange: 0 });
  t.match({ drift, startLateness }, { drift: { count: 2 }, startLateness: { count: 2 } });
  t.equal(Math.round(drift.p50), 3);
  t.equal(Math.round(drift.max), 10);
  t.equal(Math.round(startLateness.max), 3);
});

t.test('what was entered before the opening does not count', async (t) => {
  const ledger = opened();
  ledger.record({ index: 1, dueMs: 9_990, enteredMs: 9_999, endedMs: 10_004 });
  t.match(ledger.read(), { runs: 0, loops: 0, drift: { count: 0 } });
});

t.test('a run that is entered again after it has ended is doubled', async (t) => {
  const ledger = opened();
  ledger.record({ index: 0, dueMs: 9_000, enteredMs: 10_100, endedMs: 10_105 });
  t.match(ledger.read(), { runs: 1, doubled: 1, overlapped: 0, drift: { count: 0 } });
});

t.test('two runs of one loop at once overlap, whichever is told of first', async (t) => {
  const first = { index: 1, dueMs: 10_100, enteredMs: 10_100, endedMs: 10_110 };
  const second = { index: 1, dueMs: 10_100, enteredMs: 10_105, endedMs: 10_115 };
  for (const runs of [
    [first, second],
    [second, first],
  ]) {
    const ledger = opened();
    for (const run of runs) ledger.record(run);
    t.match(ledger.read(), { runs: 2, overlapped: 1, doubled: 0, drift: { count: 0 } });
  }
});

t.test('two runs of different loops at once are as it should be', async (t) => {
  const ledger = opened();
  ledger.record({ index: 0, dueMs: 10_100, enteredMs: 10_100, endedMs: 10_110 });
  ledger.record({ index: 1, dueMs: 10_100, enteredMs: 10_100, endedMs: 10_110 });
  t.match(ledger.read(), { overlapped: 0, doubled: 0 });
});

t.test('a run of no known loop is strange', async (t) => {
  const ledger = opened();
  for (const index of [-1, 2]) ledger.record({ index, dueMs: 10_100, enteredMs: 10_100, endedMs: 10_110 });
  t.match(ledger.read(), { runs: 0, strange: 2 });
});

t.test('it tells when the last loop came, and which have not come since', async (t) => {
  const ledger = opened();
  t.match(ledger.read(), { loops: 0 });
  ledger.record({ index: 0, dueMs: 10_005, enteredMs: 10_010, endedMs: 10_015 });
  ledger.record({ index: 0, dueMs: 11_015, enteredMs: 11_020, endedMs: 11_025 });
  t.match(ledger.read(), { loops: 1, lastCameMs: 10_010 });
  t.equal(ledger.countIdle(10_000), 1, 'loop 1');
  t.equal(ledger.countIdle(11_021), 2);
  ledger.record({ index: 1, dueMs: 11_030, enteredMs: 11_030, endedMs: 11_035 });
  t.match(ledger.read(), { loops: 2, lastCameMs: 11_030 });
  ledger.open(12_000);
  t.match(ledger.read(), { runs: 0, loops: 0 });
});
