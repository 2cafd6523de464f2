import t from 'tap';
import { bucketsOf, bucketsSince, parseScrape, quantileOf, sumOf } from '../../cli/prometheus-text.ts';

const SCRAPE = parseScrape(`# HELP tasks_total Tasks by state.
# TYPE tasks_total counter
tasks_total{state="SUCCESS",queue="a{,}\\"b"} 10
tasks_total{state="FAILURE"} 2 1700000000000
up 1
lateness_bucket{le="0.01"} 50
lateness_bucket{le="0.1"} 100
lateness_bucket{le="+Inf"} 100
lateness_sum 1.5
lateness_count 100
`);

t.test('samples are added up over their labels, or those of one label', async (t) => {
  t.equal(sumOf(SCRAPE, 'tasks_total'), 12);
  t.equal(sumOf(SCRAPE, 'tasks_total', { state: 'SUCCESS' }), 10);
  t.equal(sumOf(SCRAPE, 'up'), 1);
  t.equal(sumOf(SCRAPE, 'missing'), 0);
});

t.test('a quantile is interpolated within its bucket', async (t) => {
  const buckets = bucketsOf(SCRAPE, 'lateness');
  t.equal(quantileOf(buckets, 0.25), 0.005);
  t.equal(quantileOf(buckets, 0.5), 0.01);
  t.ok(Math.abs(quantileOf(buckets, 0.75)! - 0.055) < 1e-9);
  t.ok(Math.abs(quantileOf(buckets, 1)! - 0.1) < 1e-9);
});

t.test('beyond the last bound the last bound is all that is known', async (t) => {
  const buckets = new Map([
    [1, 1],
    [Infinity, 2],
  ]);
  t.equal(quantileOf(buckets, 1), 1);
});

t.test('nothing counted has no quantile', async (t) => {
  const buckets = bucketsOf(SCRAPE, 'lateness');
  t.equal(quantileOf(bucketsSince(buckets, buckets), 0.5), null);
  t.equal(quantileOf(bucketsOf(SCRAPE, 'missing'), 0.5), null);
});
