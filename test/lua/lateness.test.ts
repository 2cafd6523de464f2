import t from 'tap';
import { Lateness, readLateness, upperBoundMs } from '../../lua/lateness.ts';
import { storeFactory } from './store.ts';

const open = await storeFactory(t);

t.test('every lateness is counted in the counter whose bounds hold it', async (t) => {
  const store = await open();
  const now = await store.now();
  // Both ends of all counters up to hours.
  const wanted = Array.from({ length: 480 }, (_, bucket) => upperBoundMs(bucket)).flatMap((ms) => [ms, ms + 1]);
  for (const [i, ms] of wanted.entries()) await store.put({ id: `s${i}`, at: now - ms });
  const { latenesses } = await store.dispatch();
  const histogram = (await store.redis.getBuffer(store.keys.lateness))!;
  const expected = new Map<number, number>();
  for (const [ms, runs] of latenesses) {
    let bucket = 0;
    while (upperBoundMs(bucket) < ms) bucket += 1;
    expected.set(bucket, (expected.get(bucket) ?? 0) + runs);
  }
  const counted = new Map<number, number>();
  for (let bucket = 0; bucket < histogram.length / 4; bucket++) {
    const runs = histogram.readUInt32BE(4 * bucket);
    if (runs > 0) counted.set(bucket, runs);
  }
  t.same(
    [...counted],
    [...expected].sort(([a], [b]) => a - b),
  );
});

t.test('percentiles are those of all shards together', async (t) => {
  const lateness = new Lateness();
  t.equal(lateness.percentile(0.99), 0);
  t.equal(lateness.maxMs, 0);
  const histogram = Buffer.alloc(4 * 6);
  histogram.writeUInt32BE(98, 4 * 1);
  histogram.writeUInt32BE(1, 4 * 5);
  lateness.add(histogram);
  const slow = Buffer.alloc(512 * 4);
  slow.writeUInt32BE(1, 4 * 511);
  lateness.add(slow);
  t.equal(lateness.count, 100);
  t.equal(lateness.percentile(0.5), 1);
  t.equal(lateness.percentile(0.98), 1);
  t.equal(lateness.percentile(0.99), 5);
  t.equal(lateness.maxMs, upperBoundMs(511));
  t.equal(lateness.percentile(0), 1);
});

t.test('bounds grow without gaps', async (t) => {
  for (let bucket = 1; bucket < 512; bucket++) t.ok(upperBoundMs(bucket) > upperBoundMs(bucket - 1));
  t.ok(upperBoundMs(511) > 4 * 3_600_000);
});

t.test('only what lies in the window is read', async (t) => {
  const store = await open();
  const now = await store.now();
  const one = Buffer.from([0, 0, 0, 1]);
  for (const ageMs of [60_000, 9_000, 5_000])
    await store.redis.xadd(store.keys.history, `${now - ageMs}-0`, 'at', now - ageMs, 'lateness', one);
  t.equal((await readLateness(store.redis, [store.keys], now - 10_000, now)).count, 2);
  t.equal((await readLateness(store.redis, [], now - 10_000, now)).count, 0);
});
